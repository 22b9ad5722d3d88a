import math

import numpy as np
import pytest
import torch
from torchdiffeq._impl.odeint import SOLVERS

from ardyn import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    Adaptive,
    ClosedForm,
    DivergenceError,
    Fixed,
    InputError,
    Rule,
    Trajectory,
    random_feedback,
)
from tests.oracles.brute_force import Chain
from tests.oracles.problems import (
    MULTISTEP_METHODS,
    ONE_STEP_METHODS,
    assert_same,
    chain,
    difference,
    problem,
    states,
)

FAST_ADAPTIVE = tuple(m for m in ADAPTIVE_METHODS if m != "adaptive_heun")
STABILITY_BOUNDS = {
    "euler": 2.0,
    "midpoint": 2.0,
    "heun2": 2.0,
    "heun3": 2.5127453266183286,
    "rk4": 2.785293563405282,
}
"""Hairer & Wanner, Solving ODEs II, IV.2: the real interval of stability of order = stages."""


def error(found: Trajectory, exact: Trajectory) -> float:
    return max(difference(found[unit], exact[unit]) for unit in exact.units)


def test_every_method_of_torchdiffeq_is_offered():
    assert {*FIXED_METHODS, *ADAPTIVE_METHODS} == set(SOLVERS)
    assert not {*FIXED_METHODS} & {*ADAPTIVE_METHODS}
    assert {*ONE_STEP_METHODS, *MULTISTEP_METHODS} == set(FIXED_METHODS)


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_a_method_is_one_step_or_multistep(method):
    assert Fixed(method).is_one_step is (method in ONE_STEP_METHODS)


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_a_solver_shows_its_order(method):
    end = 0.2
    steps = np.array([64, 256] if method in MULTISTEP_METHODS else [16, 64])
    sim = problem().relaxation()
    exact = sim.solve([end])
    errors = [error(sim.solve([end], Fixed(method, end / n)), exact) for n in steps]
    slope = -np.log(errors[1] / errors[0]) / np.log(steps[1] / steps[0])
    order = 4 if method in MULTISTEP_METHODS else SOLVERS[method].order
    assert abs(slope - order) <= 0.1


def test_explicit_adams_is_refused_from_its_textbook_bound_on():
    # Adams–Bashforth of order 4 is stable on the real axis for −0.3 < hλ < 0.
    sim = problem().relaxation()
    sim.check(Fixed("explicit_adams", 0.295))
    with pytest.raises(InputError, match=r"'explicit_adams' is unstable from h/τ ≥ 0.3;"):
        sim.check(Fixed("explicit_adams", 0.305))


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_the_error_follows_the_tolerance(method):
    # adaptive_heun needs 9 times the steps for a hundredth of the error.
    low = 1e-4 if method == "adaptive_heun" else 1e-5
    sim = problem().relaxation()
    exact = sim.solve([3.0])
    errors = [
        error(sim.solve([3.0], Adaptive(method, rtol=rtol, atol=1e-3 * rtol)), exact)
        for rtol in (1e-2, low)
    ]
    slope = np.log(errors[0] / errors[1]) / np.log(1e-2 / low)
    assert 0.7 < slope < 1.4
    assert errors[1] < 100 * low


@pytest.mark.parametrize("method", FAST_ADAPTIVE)
def test_atol_alone_also_bounds_the_error(method):
    sim = problem().relaxation()
    exact = sim.solve([3.0])
    loose, tight = (
        error(sim.solve([3.0], Adaptive(method, rtol=1e-12, atol=atol)), exact)
        for atol in (1e-2, 1e-5)
    )
    assert tight < loose / 5
    assert tight < 1e-2


@pytest.mark.parametrize("steps", [1, 6])
def test_euler_is_algorithm_1_of_the_paper(steps):
    for rule in (Rule(), Rule(relaxation_derivative="current", output="clamped")):
        case, tau = problem(), [0.7, 1.5, 1.0][: 2 + (rule.output == "relaxed")]
        loop = Chain(case, rule, tau)
        found = case.relaxation(rule=rule, tau=tau).solve([0.2 * steps], Fixed("euler", 0.2))
        last = {unit: x[-1] for unit, x in states(found).items()}
        assert_same(last, loop.named(loop.euler(steps, 0.2)), 1e-13)


@pytest.mark.parametrize(
    ("method", "per_step"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)]
)
def test_evaluations_are_counted(method, per_step):
    found = problem().relaxation().solve([0.3, 1.0], Fixed(method, 0.1))
    assert found.evaluations == 10 * per_step


@pytest.mark.parametrize("method", ONE_STEP_METHODS)
def test_between_steps_a_recorded_state_is_interpolated(method):
    x = problem().relaxation().solve([0.25, 0.4, 0.5, 1.0], Fixed(method, 0.25))["fc1"]
    assert difference(x[1], 0.4 * x[0] + 0.6 * x[2]) < 1e-14


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_recorded_times_do_not_change_the_steps(method):
    sim = problem().relaxation()
    many = sim.solve([0.0, 0.013, 0.05, 0.1], Fixed(method, 0.01))
    alone = sim.solve([0.1], Fixed(method, 0.01))
    assert_same({u: x[-1:] for u, x in states(many).items()}, states(alone), 1e-14)


@pytest.mark.parametrize("method", [*FIXED_METHODS, *ADAPTIVE_METHODS])
def test_time_zero_is_the_initial_state(method):
    solver = Fixed(method) if method in FIXED_METHODS else Adaptive(method)
    case = problem()
    forward = dict(zip(case.units, Chain(case).forward[1:], strict=True))
    start = {unit: x[None] for unit, x in forward.items()}
    assert_same(states(case.relaxation().solve([0.0], solver)), start, 1e-15)


@pytest.mark.parametrize("method", STABILITY_BOUNDS)
def test_growth_is_one_at_the_textbooks_bound(method):
    bound = STABILITY_BOUNDS[method]
    assert Fixed(method).growth(bound) == pytest.approx(1.0, abs=1e-12)
    assert Fixed(method).growth(0.95 * bound) < 1 < Fixed(method).growth(1.05 * bound)


@pytest.mark.parametrize("method", ONE_STEP_METHODS)
def test_growth_is_what_a_solve_does_to_the_output(method):
    # The output alone decays onto its drive: its error is multiplied by R(−h/τ) at each step.
    case = chain(1)
    sim = case.relaxation(tau=0.5)
    x = sim.solve([0.0, 0.4], Fixed(method, 0.4))["fc1"] - sim.gradients["fc1"]
    assert abs(difference(x[1], 0 * x[1]) / difference(x[0], 0 * x[0])) == pytest.approx(
        Fixed(method).growth(0.8), rel=1e-12
    )


@pytest.mark.parametrize("engine", ["ardyn", "torchdiffeq"])
@pytest.mark.parametrize("method", FAST_ADAPTIVE)
def test_a_sample_solved_per_sample_does_not_depend_on_its_batch(method, engine):
    # Rounding in a batched product shifts the step sizes a little, and with them the error.
    case = problem(batch=3)
    solver = Adaptive(method, rtol=1e-3, atol=1e-5, per_sample=True, engine=engine)
    together = case.relaxation().solve([0.5, 4.0], solver)
    evaluations = []
    for s in range(3):
        alone = case.samples(slice(s, s + 1)).relaxation().solve([0.5, 4.0], solver)
        assert_same({u: x[:, s : s + 1] for u, x in states(together).items()}, states(alone), 1e-8)
        evaluations.append(alone.evaluations)
    is_batch = engine == "ardyn" and method != "scipy_solver"
    assert together.evaluations == (max if is_batch else sum)(evaluations)


def test_solved_together_a_sample_does_depend_on_its_batch():
    case, solver = problem(batch=3), Adaptive("dopri5", rtol=1e-3, atol=1e-5)
    together = case.relaxation().solve([4.0], solver)["fc1"][:, :1]
    alone = case.samples(slice(0, 1)).relaxation().solve([4.0], solver)["fc1"]
    assert 1e-6 < difference(together, alone) < 1e-2


def test_per_sample_keeps_the_traces():
    case = problem(batch=3)
    sim = case.relaxation(rule=Rule(update_activity="trace"), tau_trace=2.0)
    tight = Adaptive("dopri5", rtol=1e-9, atol=1e-11, per_sample=True)
    truth = Chain(case, Rule(update_activity="trace"), tau_trace=2.0).integrate([3.0])[1]
    assert_same(sim.solve([3.0], tight).traces, truth, 1e-7)


@pytest.mark.parametrize("method", [*ONE_STEP_METHODS, "implicit_adams", "dopri5"])
def test_float32_stays_float32_and_near(method):
    solver = Fixed(method, 0.05) if method in FIXED_METHODS else Adaptive(method)
    found = problem(dtype=torch.float32).relaxation().solve([2.0], solver)
    truth = problem().relaxation().solve([2.0], solver)
    assert {x.dtype for x in states(found).values()} == {torch.float32}
    assert error(found, truth) < 1e-5


def test_an_option_reaches_the_method():
    sim = problem().relaxation()
    exact = sim.solve([3.0])
    plain = sim.solve([3.0], Adaptive("dopri5", rtol=1e-2, atol=1e-2))
    short = sim.solve([3.0], Adaptive("dopri5", rtol=1e-2, atol=1e-2, options={"max_step": 0.05}))
    assert short.evaluations > 3 * plain.evaluations
    assert error(short, exact) < error(plain, exact) / 100


def test_perturbed_steps_change_nothing_in_an_autonomous_system():
    sim = problem().relaxation()
    perturbed = Fixed("heun2", 0.1, options={"perturb": True})
    found = sim.solve([1.0], perturbed)
    assert_same(states(found), states(sim.solve([1.0], Fixed("heun2", 0.1))), 1e-14)
    assert_same(states(sim.solve([1.0], ClosedForm(perturbed))), states(found), 1e-13)


@pytest.mark.parametrize(
    ("kind", "method", "words"),
    [
        (Fixed, "eulr", "unknown fixed-step method 'eulr': did you mean 'euler'"),
        (Fixed, "dopri5", r"'dopri5' chooses its own steps; use Adaptive\('dopri5'\)"),
        (Adaptive, "dopri6", "unknown adaptive method 'dopri6': did you mean 'dopri"),
        (Adaptive, "euler", r"'euler' has a fixed step; use Fixed\('euler', step="),
    ],
)
def test_a_method_of_another_kind_is_refused(kind, method, words):
    with pytest.raises(InputError, match=words):
        kind(method)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "0.1", None])
@pytest.mark.parametrize(
    ("kind", "name"), [(Fixed, "step"), (Adaptive, "rtol"), (Adaptive, "atol")]
)
def test_a_step_or_tolerance_that_is_not_positive_is_refused(kind, name, value):
    with pytest.raises(InputError, match=f"{name} must be"):
        kind(**{name: value})


@pytest.mark.parametrize("solver", [Fixed, Adaptive])
def test_an_unknown_option_is_refused(solver):
    with pytest.raises(InputError, match=r"does not accept the options.*'stepsize'.*torchdiffeq"):
        solver(options={"stepsize": 0.1})


@pytest.mark.parametrize(
    "options", [{"step_size": 0.05}, {"grid_constructor": None}, {"interp": "cubic"}]
)
def test_the_grid_and_its_interpolation_are_not_options(options):
    # The closed form of the scheme would not follow them.
    with pytest.raises(InputError, match=next(iter(options))):
        Fixed("rk4", 0.1, options=options)


@pytest.mark.parametrize("solver", [Fixed("euler", 0.1), Fixed("rk4", 0.1)])
def test_a_solution_that_blows_up_says_when_and_where(solver):
    case = problem(dtype=torch.float32)
    psi = random_feedback(case.model, std=1e30, generator=torch.Generator().manual_seed(1))
    sim = case.relaxation(rule=Rule(feedback="fixed"), feedback=psi)
    with pytest.raises(DivergenceError, match=r"t = [\d.e+]+.*unit 'fc1'.*shorter step"):
        sim.solve([30.0], solver)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_a_multistep_method_is_refused_where_it_is_unstable(method):
    with pytest.raises(InputError, match=f"'{method}' is unstable from h/τ ≥"):
        problem().relaxation().solve([30.0], Fixed(method, 6.0))
    settled = problem().relaxation().solve([60.0], Fixed(method, 0.1))
    assert float(settled.relative_error()["fc1"][-1]) < 1e-8


@pytest.mark.parametrize("engine", ["ardyn", "torchdiffeq"])
def test_a_step_that_shrinks_to_nothing_is_told(engine):
    case = problem(dtype=torch.float32)
    psi = random_feedback(case.model, std=1e30, generator=torch.Generator().manual_seed(1))
    sim = case.relaxation(rule=Rule(feedback="fixed"), feedback=psi)
    with pytest.raises(DivergenceError, match=r"'dopri5'.*t = .*float32.*larger rtol"):
        sim.solve([60.0], Adaptive("dopri5", engine=engine))


def test_running_out_of_steps_says_how_far_it_came():
    tight = Adaptive("dopri5", rtol=1e-10, atol=1e-12, options={"max_num_steps": 20})
    with pytest.raises(DivergenceError, match=r"beyond t = 0\.\d+.*; raise max_num_steps, or"):
        problem().relaxation().solve([60.0], tight)


def test_solvers_compare_by_value():
    assert Fixed("rk4", 0.1) == Fixed("rk4", 0.1)
    assert Fixed("rk4", 0.1) != Fixed("rk4", 0.2)
    assert Adaptive(options={"max_step": 1.0}) != Adaptive()
    assert hash(Fixed("rk4", 0.1)) == hash(Fixed("rk4", 0.1))
