import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.stats import binom, nbinom, poisson

from ardyn import FIXED_METHODS, Fixed, Sweep
from ardyn.closed_form.propagator import coupling, propagator
from tests.oracles.problems import ONE_STEP_METHODS, difference

Array = NDArray[np.float64]
UNEQUAL = (0.5, 2.0, 1.3, 0.8)
STABILITY_POLYNOMIALS: dict[str, list[float]] = {
    "euler": [1, 1],
    "midpoint": [1, 1, 1 / 2],
    "heun2": [1, 1, 1 / 2],
    "heun3": [1, 1, 1 / 2, 1 / 6],
    "rk4": [1, 1, 1 / 2, 1 / 6, 1 / 24],
}


def at(scheme: Fixed | Sweep | None, tau: tuple[float, ...], *times: float) -> Array:
    return propagator(scheme, tau, torch.tensor(times, dtype=torch.float64)).cpu().numpy()


def by_hand(tau: tuple[float, ...]) -> Array:
    """M, entry by entry: each unit leaks with its own τ, and takes from the one above."""
    M = np.zeros((len(tau), len(tau)))
    for i, each in enumerate(tau):
        M[i, i] = -1 / each
        if i + 1 < len(tau):
            M[i, i + 1] = 1 / each
    return M


def toeplitz(weights: Array) -> Array:
    """Row l holds the probabilities of m − l = 0, 1, …"""
    n = len(weights)
    return np.array([[weights[m - i] if m >= i else 0.0 for m in range(n)] for i in range(n)])


taus = st.lists(st.floats(0.2, 5.0), min_size=1, max_size=6).map(tuple)


def test_every_unit_couples_with_its_own_time_constant():
    assert difference(coupling(UNEQUAL), by_hand(UNEQUAL)) == 0


@pytest.mark.parametrize("t", [0.0, 0.3, 4.0, 60.0])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_rows_of_the_ode_are_poisson(t, tau):
    truth = toeplitz(poisson.pmf(np.arange(64), t / tau))
    assert difference(at(None, (tau,) * 64, t)[0], truth) < 1e-13


@pytest.mark.parametrize("steps", [0, 1, 7, 200])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_rows_of_euler_are_binomial(steps, tau):
    truth = toeplitz(binom.pmf(np.arange(16), steps, 0.1 / tau))
    assert difference(at(Fixed("euler", 0.1), (tau,) * 16, 0.1 * steps)[0], truth) < 1e-12


@pytest.mark.parametrize("steps", [1, 7, 200])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_rows_of_the_sweep_are_negative_binomial(steps, tau):
    truth = toeplitz(nbinom.pmf(np.arange(16), steps, 1 - 0.1 / tau))
    assert difference(at(Sweep(0.1), (tau,) * 16, 0.1 * steps)[0], truth) < 1e-12


@pytest.mark.parametrize("h", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("t", [1.0, 10.0])
def test_euler_is_within_one_step_of_the_ode_in_total_variation(h, t):
    euler, ode = (at(scheme, (1.0,) * 64, t)[0, 0] for scheme in (Fixed("euler", h), None))
    distance = (np.abs(euler - ode).sum() + abs(euler.sum() - ode.sum())) / 2
    assert distance <= h
    # Le Cam's bound has the right order: the distance is a fair part of it.
    assert distance >= h / 10


@pytest.mark.parametrize("t", [0.7, 12.0])
def test_two_units_of_unequal_tau_follow_the_formula(t):
    a, b = 1 / 0.5, 1 / 2.0
    passed_on = a * (np.exp(-b * t) - np.exp(-a * t)) / (a - b)
    truth = [[np.exp(-a * t), passed_on], [0.0, np.exp(-b * t)]]
    assert difference(at(None, (0.5, 2.0), t)[0], truth) < 1e-14


@pytest.mark.parametrize(
    ("tau", "tolerance"), [((1e-2, 100.0), 1e-11), ((1e-4, 100.0), 1e-9), ((100.0, 1e-3), 1e-10)]
)
def test_time_constants_may_differ_by_orders_of_magnitude(tau, tolerance):
    # The matrix exponential loses about log2(t/τ) bits to its squarings.
    a, b = 1 / tau[0], 1 / tau[1]
    truth = a * (np.exp(-b * 60) - np.exp(-a * 60)) / (a - b)
    assert abs(at(None, tau, 60.0)[0, 0, 1] / truth - 1) < tolerance


@given(taus, st.floats(0.0, 20.0))
@example((1.0, 0.25), 0.0078125)
def test_the_ode_is_the_matrix_exponential(tau, t):
    P = at(None, tau, t)[0]
    assert difference(P, expm(t * by_hand(tau))) < 1e-12
    assert P.min() >= 0
    assert P.sum(1).max() <= 1 + 1e-12


@given(taus, st.floats(0.01, 5.0), st.floats(0.01, 5.0))
def test_relaxing_twice_is_relaxing_longer(tau, first, second):
    P = at(None, tau, first, first + second)
    assert difference(at(None, tau, second)[0] @ P[0], P[1]) < 1e-12


@pytest.mark.parametrize("method", STABILITY_POLYNOMIALS)
def test_a_step_is_the_stability_polynomial(method):
    z = 0.3 * by_hand(UNEQUAL)
    powers = [np.linalg.matrix_power(z, k) for k in range(5)]
    truth = sum(c * power for c, power in zip(STABILITY_POLYNOMIALS[method], powers, strict=False))
    assert difference(Fixed(method, 0.3).step_matrix(coupling(UNEQUAL), 0.3), truth) < 1e-14


def test_every_one_step_method_has_its_polynomial_here():
    found = {method for method in FIXED_METHODS if Fixed(method).is_one_step}
    assert found == set(STABILITY_POLYNOMIALS) == set(ONE_STEP_METHODS)


def test_a_sweep_passes_on_what_the_unit_above_has_just_become():
    h, n = 0.3, len(UNEQUAL)
    columns = []
    for start in np.eye(n):
        e = start.copy()
        for i in reversed(range(n)):
            above = e[i + 1] if i + 1 < n else 0.0
            e[i] = e[i] + h / UNEQUAL[i] * (above - e[i])
        columns.append(e)
    assert difference(Sweep(h).step_matrix(coupling(UNEQUAL), h), np.array(columns).T) < 1e-14


@pytest.mark.parametrize("scheme", [*map(Fixed, ONE_STEP_METHODS), Sweep()])
def test_steps_follow_each_other(scheme):
    R = scheme.step_matrix(coupling(UNEQUAL), 0.1).cpu().numpy()
    P = at(scheme, UNEQUAL, 0.0, 0.1, 0.3, 2.0)
    for found, steps in zip(P, [0, 1, 3, 20], strict=True):
        assert difference(found, np.linalg.matrix_power(R, steps)) < 1e-13


@pytest.mark.parametrize("scheme", [Fixed("rk4", 0.25), Sweep(0.25)])
def test_between_steps_the_state_is_interpolated(scheme):
    before, between, after = at(scheme, UNEQUAL, 0.5, 0.6, 0.75)
    assert difference(between, 0.6 * before + 0.4 * after) < 1e-14


@pytest.mark.parametrize("scheme", [Fixed("rk4", 0.25), Sweep(0.25)])
def test_the_last_step_is_shortened(scheme):
    whole = np.linalg.matrix_power(scheme.step_matrix(coupling(UNEQUAL), 0.25).cpu().numpy(), 2)
    truth = scheme.step_matrix(coupling(UNEQUAL), 0.1).cpu().numpy() @ whole
    assert difference(at(scheme, UNEQUAL, 0.6)[0], truth) < 1e-13


@pytest.mark.parametrize("scheme", [Fixed("euler", 3.0), Sweep(3.0)])
def test_a_step_longer_than_the_relaxation_is_cut_to_it(scheme):
    truth = scheme.step_matrix(coupling(UNEQUAL), 0.2)
    assert difference(at(scheme, UNEQUAL, 0.2)[0], truth) < 1e-14
