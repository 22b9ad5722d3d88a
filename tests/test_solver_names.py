import pytest

from ardyn import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    SOLVER_NAMES,
    Adaptive,
    ClosedForm,
    Collocation,
    Fixed,
    InputError,
    Sweep,
    solver_named,
)
from tests.oracles.problems import assert_same, problem, states


def test_exact_is_the_closed_form_of_the_ode():
    assert solver_named("exact") == ClosedForm()


def test_sweep_takes_the_step():
    assert solver_named("sweep", step=0.25) == Sweep(0.25)


def test_collocation_takes_the_tolerances():
    assert solver_named("collocation", rtol=1e-3, atol=1e-4) == Collocation(1e-3, 1e-4)


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_a_fixed_method_takes_the_step(method):
    assert solver_named(method, step=0.25) == Fixed(method, 0.25)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_an_adaptive_method_takes_the_tolerances(method):
    assert solver_named(method, rtol=1e-3, atol=1e-4) == Adaptive(method, 1e-3, 1e-4)


def test_every_name_is_listed_once():
    assert sorted(SOLVER_NAMES) == sorted(
        {"exact", "sweep", "collocation", *FIXED_METHODS, *ADAPTIVE_METHODS}
    )


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_every_solver_comes_near_the_exact_solution(name):
    sim = problem().relaxation()
    found = sim.solve([0.5, 3.0], solver_named(name, step=0.01, rtol=1e-4, atol=1e-6))
    assert_same(states(found), states(sim.solve([0.5, 3.0])), 0.02)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dopri55", "unknown solver 'dopri55'.*'dopri5'"),
        ("eulr", "'euler'"),
        ("swep", "'sweep'"),
        ("Exact", "'exact'"),
        (5, "unknown solver 5: choose one of exact, sweep"),
    ],
)
def test_an_unknown_solver_is_refused_with_the_nearest_name(name, words):
    with pytest.raises(InputError, match=words):
        solver_named(name)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("euler", {"step": 0.0}, "step must be positive.*got 0"),
        ("sweep", {"step": -1.0}, "step must be positive.*got -1"),
        ("dopri5", {"rtol": 0.0}, "rtol must be positive"),
        ("dopri5", {"atol": float("nan")}, "atol must be positive.*nan"),
    ],
)
def test_a_setting_that_is_not_positive_is_refused(name, settings, words):
    with pytest.raises(InputError, match=words):
        solver_named(name, **settings)
