import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import gammainc, gammaincc, gammainccinv

import ardyn
from ardyn import Adaptive, ClosedForm, Fixed, InputError, Rule, Sweep
from tests.oracles.problems import (
    Problem,
    chain,
    difference,
    generator,
    problem,
    random_chains,
)

GAMMA = Rule(output="clamped", initial="zero")


def linear_chain(hidden: int, **settings: object) -> Problem:
    """Linear layers, with that many relaxing units below the clamped output."""
    return chain(hidden + 1, "identity", **settings)


def test_depth_costs_time_as_the_incomplete_gamma_function_says():
    found = linear_chain(50).relaxation(rule=GAMMA).solve([1.0]).convergence_time(1e-3)
    times = [float(found[f"fc{51 - k}"]) for k in range(51)]
    assert times[1:] == pytest.approx(gammainccinv(np.arange(1, 51), 1e-3), rel=1e-9)
    assert [round(times[k], 1) for k in (4, 10, 50)] == [13.1, 22.7, 74.7]
    assert times[0] == 0


@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-6, 1e-9])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_the_tolerance_and_tau_scale_it(tau, tolerance):
    sim = linear_chain(5).relaxation(rule=GAMMA, tau=tau)
    found = sim.solve([1.0]).convergence_time(tolerance)
    for k in range(1, 6):
        assert float(found[f"fc{6 - k}"]) == pytest.approx(
            tau * gammainccinv(k, tolerance), rel=1e-7
        )


@pytest.mark.parametrize("t", [0.5, 2.0, 10.0, 40.0])
@pytest.mark.parametrize("per_sample", [False, True])
def test_from_zero_the_norm_lags_and_the_direction_is_right(per_sample, t):
    found = linear_chain(10).relaxation(rule=GAMMA).solve([t])
    ratio, cosine = found.norm_ratio(per_sample=per_sample), found.cosine(per_sample=per_sample)
    error = found.relative_error(per_sample=per_sample)
    for k in range(1, 11):
        unit = f"fc{11 - k}"
        grown = np.full(ratio[unit].shape, gammainc(k, t))
        assert difference(ratio[unit], grown, beside=1.0) < 1e-12
        late = np.full(error[unit].shape, gammaincc(k, t))
        assert difference(error[unit], late, beside=1.0) < 1e-12
        assert difference(cosine[unit], np.ones(cosine[unit].shape)) < 1e-12


@pytest.mark.parametrize("t", [1e-3, 0.05])
def test_the_direction_is_right_from_the_very_start(t):
    # The norm of the lowest unit is still γ(4, 0.001) = 4e-14 of what it will be.
    found = linear_chain(4).relaxation(rule=GAMMA).solve([t])
    for k in range(1, 5):
        unit = f"fc{5 - k}"
        assert float(found.norm_ratio()[unit]) == pytest.approx(gammainc(k, t), rel=0.02)
        assert float(found.cosine()[unit]) == pytest.approx(1.0, abs=1e-12)


def assert_settles_at(
    sim: ardyn.Relaxation, times: dict[str, torch.Tensor], tolerance: float, reference: str
) -> None:
    """At each time the error is the tolerance, and below it ever after; or it is so from 0 on."""
    for unit, time in times.items():
        for s, t in enumerate(time.flatten().tolist()):
            later = [t, *(t + np.geomspace(1e-3, 100.0, 40))]
            error = sim.solve(later).relative_error(reference, per_sample=time.ndim > 0)[unit]
            error = error.reshape(len(later), -1)[:, s]
            assert (error[1:] <= tolerance * (1 + 1e-9)).all()
            assert t == 0 or float(error[0]) == pytest.approx(tolerance, rel=1e-6)


@settings(max_examples=10)
@given(random_chains(), st.sampled_from([0.3, 1e-2, 1e-4]), st.booleans())
def test_the_root_is_where_the_error_stays_below(drawn, tolerance, per_sample):
    case, tau = drawn
    assume(case.activation != "relu")  # a dead one has no gradient to be relative to
    sim = case.relaxation(tau=tau)
    found = sim.solve([1.0]).convergence_time(tolerance, per_sample=per_sample)
    assert_settles_at(sim, found, tolerance, "gradients")


@pytest.mark.parametrize("tau", [1.0, [0.5, 2.0, 1.2]], ids=["one tau", "unequal"])
@pytest.mark.parametrize("output", ["relaxed", "clamped"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_root_agrees_with_a_dense_trajectory(per_sample, output, tau):
    given_tau = tau[:2] if isinstance(tau, list) and output == "clamped" else tau
    sim = problem().relaxation(rule=Rule(output=output), tau=given_tau)
    root = sim.solve([1.0]).convergence_time(1e-3, per_sample=per_sample)
    times = list(np.linspace(0.0, 40.0, 401))
    for solver in (Adaptive("dopri5", rtol=1e-8, atol=1e-11), ardyn.Fixed("rk4", 0.1)):
        dense = sim.solve(times, solver).convergence_time(1e-3, per_sample=per_sample)
        assert set(dense) == set(root)
        for unit in root:
            assert difference(dense[unit], root[unit]) < 1e-3


@pytest.mark.parametrize("scheme", [Fixed("euler", 0.5), Sweep(0.5)], ids=str)
def test_the_closed_form_of_a_scheme_converges_when_that_scheme_does(scheme):
    sim, times = problem().relaxation(), list(np.linspace(0.0, 30.0, 61))
    found, stepped = (sim.solve(times, each) for each in (ClosedForm(scheme), scheme))
    root = sim.exact_convergence_time(1e-2)["fc1"]
    for unit, t in found.convergence_time(1e-2).items():
        assert float(t) == pytest.approx(float(stepped.convergence_time(1e-2)[unit]), rel=1e-9)
    assert float(found.convergence_time(1e-2)["fc1"]) < 0.95 * float(root)


@pytest.mark.parametrize("tau", [1.0, [2.0, 0.7, 1.3]], ids=["one tau", "unequal"])
def test_a_unit_that_starts_at_its_gradient_leaves_it_and_comes_back(tau):
    sim = problem().relaxation(tau=tau)
    sim.dynamics.forward_pass.activity["fc1"].copy_(sim.gradients["fc1"])
    times = list(np.linspace(0.0, 30.0, 601))
    record = sim.solve(times, Adaptive("dopri5", rtol=1e-9, atol=1e-12))
    largest = float(record.relative_error()["fc1"].max())
    assert largest > 0.1
    for tolerance in (1e-2, 0.98 * largest):  # far below, or just below where it turns
        root = float(sim.exact_convergence_time(tolerance)["fc1"])
        assert root == pytest.approx(float(record.convergence_time(tolerance)["fc1"]), rel=1e-3)


@pytest.mark.parametrize("slow", [1.0, 30.0, 1000.0])
def test_a_unit_does_not_wait_for_those_below_it(slow):
    # Scalar units overshoot: their error crosses the tolerance several times.
    case = problem((2, 1, 1, 1), batch=40, std=0.5)
    found, truth = (
        case.relaxation(tau=[tau, 1.0, 1.0]).solve([1.0]).convergence_time(0.3, per_sample=True)
        for tau in (slow, 2.0)
    )
    for unit in ("fc2", "fc3"):
        assert difference(found[unit], truth[unit]) < 1e-9


@pytest.mark.parametrize("slow", [1.0, 30.0, 1000.0])
def test_a_slow_unit_that_has_arrived_does_not_blur_those_below_it(slow):
    case = problem((2, 1, 1, 1), batch=40, std=0.5)
    # Where the target is half the output, 2 (x − t) = x: the output starts at its equilibrium.
    half = case.model(case.inputs).detach() / 2
    found, truth = (
        case.relaxation(targets=half, tau=[1.0, 1.0, tau]).exact_convergence_time(
            0.3, "gradients", True
        )
        for tau in (slow, 2.0)
    )
    for unit in ("fc1", "fc2"):
        assert difference(found[unit], truth[unit]) < 1e-9
    assert found["fc3"].tolist() == [0.0] * 40


def test_recorded_times_do_not_change_the_root():
    sim = problem().relaxation()
    a, b = (sim.solve(times).convergence_time() for times in ([0.1], [0.0, 5.0, 9.0]))
    assert all(torch.equal(a[unit], b[unit]) for unit in a)


@pytest.mark.parametrize("per_sample", [False, True])
def test_with_fixed_feedback_it_settles_but_never_on_backprop(per_sample):
    case = problem()
    psi = ardyn.random_feedback(case.model, std=0.5, generator=generator(2))
    sim = case.relaxation(rule=Rule(feedback="fixed"), feedback=psi)
    found = sim.solve([1.0])
    never = found.convergence_time(per_sample=per_sample)
    assert never["fc1"].isinf().all()
    assert never["fc2"].isinf().all()
    assert never["fc3"].isfinite().all()
    settles = found.convergence_time(reference="equilibrium", per_sample=per_sample)
    assert all(0 < t < 40 for times in settles.values() for t in times.flatten())
    assert_settles_at(sim, settles, 1e-3, "equilibrium")


def test_a_clamped_output_has_converged_from_the_start():
    found = problem(batch=3).relaxation(rule=Rule(output="clamped")).solve([1.0])
    assert float(found.convergence_time()["fc3"]) == 0
    assert found.convergence_time(per_sample=True)["fc3"].tolist() == [0, 0, 0]


def test_recorded_too_short_it_is_not_known():
    sim = problem().relaxation()
    stepped = sim.solve([0.0, 1.0, 2.0], ardyn.Fixed("rk4", 0.1))
    assert all(t.isnan() for t in stepped.convergence_time(1e-3).values())
    assert all(t.isfinite() for t in sim.solve([0.0, 1.0, 2.0]).convergence_time(1e-3).values())


@pytest.mark.parametrize("initial", ["feedforward", "zero"])
def test_where_there_is_no_gradient_root_and_record_agree(initial):
    case = problem()
    reached = case.model(case.inputs).detach()
    sim = case.relaxation(targets=reached, rule=Rule(initial=initial))
    root = sim.solve([1.0]).convergence_time()["fc1"]
    record = sim.solve([0.0, 60.0], ardyn.Fixed("rk4", 0.1)).convergence_time()["fc1"]
    # A unit at rest at zero has arrived; one that decays to zero never does, relatively.
    assert float(root) == (0 if initial == "zero" else np.inf)
    assert float(record) == 0 if initial == "zero" else record.isnan()


@pytest.mark.parametrize("solver", [ardyn.ClosedForm(), ardyn.Fixed("rk4", 0.1)])
def test_an_unknown_reference_is_refused(solver):
    found = problem().relaxation().solve([1.0], solver)
    with pytest.raises(InputError, match=r"unknown reference 'gradient'.*'gradients'"):
        found.convergence_time(reference="gradient")


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, np.nan, np.inf])
@pytest.mark.parametrize("solver", [ardyn.ClosedForm(), ardyn.Fixed("rk4", 0.1)])
def test_a_tolerance_that_is_not_positive_is_refused(solver, tolerance):
    found = problem().relaxation().solve([1.0], solver)
    with pytest.raises(InputError, match="tolerance must be positive and finite, got"):
        found.convergence_time(tolerance)


def test_a_nonlinear_rule_has_no_root():
    sim = problem().relaxation(rule=Rule(relaxation_derivative="current"))
    with pytest.raises(InputError, match=r"'current'.*Adaptive\('dopri5'"):
        sim.exact_convergence_time()
