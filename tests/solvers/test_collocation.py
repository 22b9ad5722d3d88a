"""Collocation against SciPy, the closed form and dopri8; what it costs; what it refuses."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import ardyn
from ardyn import (
    Adaptive,
    Collocation,
    DivergenceError,
    InputError,
    Plasticity,
    Rule,
    SteadyState,
)
from ardyn.solvers import chebyshev
from ardyn.solvers.system import Solver
from ardyn.state import State
from tests.oracles.brute_force import Chain
from tests.oracles.modules import CASES
from tests.oracles.problems import (
    Problem,
    assert_same,
    chain,
    difference,
    feedback_of,
    generator,
    gradients_on,
    problem,
    random_chains,
    states,
)

TIMES = [0.0, 0.3, 1.7, 4.0, 12.0]
TIGHT = Collocation(rtol=1e-10, atol=1e-13)
POSTSYNAPTIC = Rule(relaxation_derivative="postsynaptic")
RULES = [
    POSTSYNAPTIC,
    Rule(relaxation_derivative="postsynaptic", output="clamped"),
    Rule(relaxation_derivative="postsynaptic", initial="zero"),
    Rule(relaxation_derivative="postsynaptic", feedback="fixed"),
    Rule(relaxation_derivative="dropped"),
    Rule(),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu"])
def test_it_is_scipys_solution(rule, activation):
    case = problem(activation=activation)
    tau = [0.7, 1.5, 1.0][: 2 + (rule.output == "relaxed")]
    psi = feedback_of(case, rule, 1)
    found = case.relaxation(rule=rule, tau=tau, feedback=psi).solve(TIMES, TIGHT)
    truth, _ = Chain(case, rule, tau, psi).integrate(TIMES)
    assert_same(states(found), truth, 1e-8)


def test_a_clamped_output_may_have_an_activation():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh()).double()
    x, y = torch.randn(2, 6, 4, generator=generator(), dtype=torch.float64).unbind()
    rule = Rule(relaxation_derivative="postsynaptic", output="clamped")
    sim = ardyn.Relaxation(model, x, y[:, :3], rule=rule)
    truth = sim.solve(TIMES, Adaptive("dopri8", 1e-12, 1e-14, options={"max_step": 0.05}))
    assert_same(states(sim.solve(TIMES, TIGHT)), states(truth), 1e-9)


@pytest.mark.parametrize("tau_trace", [0.3, 20.0])
def test_traces_are_solved_too(tau_trace):
    case = problem()
    rule = Rule(relaxation_derivative="postsynaptic", update_activity="trace")
    found = case.relaxation(rule=rule, tau_trace=tau_trace).solve(TIMES, TIGHT)
    _, z = Chain(case, rule, tau_trace=tau_trace).integrate(TIMES)
    assert_same(found.traces, {unit: z[unit] for unit in found.traces}, 1e-8)


@pytest.mark.parametrize("times", [[7.0], TIMES, [0.0]], ids=str)
def test_of_a_linear_rule_it_is_the_closed_form(times):
    sim = chain(4).relaxation(tau=[0.5, 2.0, 1.0, 3.0])
    assert_same(states(sim.solve(times, TIGHT)), states(sim.solve(times)), 1e-9)


@given(random_chains())
def test_of_any_chain_it_is_the_tight_adaptive_solution(case_and_tau):
    case, tau = case_and_tau
    rule = Rule(relaxation_derivative="postsynaptic")
    sim = case.relaxation(rule=rule, tau=tau)
    rtol = 1e-4 if case.activation == "relu" else 1e-8
    solver = Collocation(rtol, 1e-3 * rtol)
    truth = sim.solve([0.5, 3.0], Adaptive("dopri8", 1e-10, 1e-13, options={"max_step": 0.1}))
    found = states(sim.solve([0.5, 3.0], solver))
    starts = {unit: x[0] for unit, x in states(sim.solve([0.0], solver)).items()}
    assert_same(found, states(truth), 20 * rtol, beside=starts)


@pytest.mark.parametrize("units", ["block", "operation"])
@pytest.mark.parametrize("name", ["U-Net", "many to many", "weight norm", "GPT-2"])
def test_modules_may_be_graphs_of_unequal_time_constants(name, units):
    sim = CASES[name]().relaxation(units=units, rule=POSTSYNAPTIC)
    tau = [0.7 + 0.1 * (i % 5) for i in range(len(sim.network.units))]
    sim = CASES[name]().relaxation(units=units, rule=POSTSYNAPTIC, tau=tau)
    smallest = min(float(g.abs().max()) for g in sim.gradients.values())
    truth = sim.solve([0.4, 3.0], Adaptive("dopri5", 1e-9, 1e-9 * smallest))
    found = sim.solve([0.4, 3.0], Collocation(1e-7, 1e-8 * smallest))
    assert_same(states(found), states(truth), 1e-5, beside=sim.gradients)


def test_errors_follow_the_tolerance():
    sim = problem().relaxation(rule=POSTSYNAPTIC)
    times = torch.linspace(0, 20, 41)
    truth = sim.solve(times, Adaptive("dopri8", 1e-13, 1e-15, options={"max_step": 0.02}))
    tolerances = [1e-2, 1e-4, 1e-6, 1e-8]
    found = [sim.solve(times, Collocation(rtol, 1e-12))["fc1"] for rtol in tolerances]
    errors = [difference(x, truth["fc1"]) for x in found]
    assert all(error < 5 * rtol for error, rtol in zip(errors, tolerances, strict=True)), errors
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("layers", [4, 16])
def test_it_evaluates_a_third_of_what_steps_of_equal_error_do(layers):
    sim = chain(layers).relaxation(rule=POSTSYNAPTIC)
    truth = sim.solve([20.0], TIGHT)

    def error(found: ardyn.Trajectory) -> float:
        return max(difference(found[unit], truth[unit]) for unit in truth.units)

    whole = sim.solve([20.0], Collocation(1e-6))
    stepped = sim.solve([20.0], Adaptive("dopri5", 1e-6))
    assert error(whole) < error(stepped)
    assert whole.evaluations < stepped.evaluations / 3


def test_recorded_times_do_not_change_the_solution():
    sim = problem().relaxation(rule=POSTSYNAPTIC)
    many, last = (sim.solve(times, Collocation()) for times in (TIMES, TIMES[-1:]))
    assert many.evaluations == last.evaluations
    assert difference(many["fc1"][-1], last["fc1"][-1]) < 1e-14


def test_a_long_relaxation_ends_at_rest_at_little_cost():
    sim = chain(4).relaxation(rule=POSTSYNAPTIC)
    long, longer = (sim.solve([t], Collocation()) for t in (1e3, 1e6))
    assert_same(states(long), states(longer), 1e-9)
    assert longer.evaluations < 1000
    rate = sim.dynamics(0.0, State({unit: longer[unit][-1] for unit in longer.units}))
    assert max(float(dx.abs().max()) for dx in rate.activity.values()) < 1e-9


def test_windows_are_shortened_where_activities_have_corners():
    sim = problem(activation="relu", batch=8).relaxation(rule=POSTSYNAPTIC)
    times = [0.3, 1.0, 3.0]
    truth = sim.solve(times, Adaptive("dopri5", 1e-10, 1e-12))
    assert_same(states(sim.solve(times, Collocation(1e-5, 1e-8))), states(truth), 1e-4)


def test_in_single_precision_it_reaches_the_tolerance():
    sims = [
        problem(dtype=dtype).relaxation(rule=POSTSYNAPTIC)
        for dtype in (torch.float32, torch.float64)
    ]
    found, truth = (states(sim.solve(TIMES, Collocation(1e-6))) for sim in sims)
    assert_same(found, truth, 3e-6)


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_complex_activities_are_solved():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(torch.complex128)
    x = torch.randn(5, 3, generator=generator(), dtype=torch.complex128)
    sim = ardyn.Relaxation(model, x, x[:, :2], loss=lambda x, t: (x - t).abs().square().sum())
    found, truth = states(sim.solve(TIMES, TIGHT)), states(sim.solve(TIMES))
    assert_same(found, truth, 1e-9)


def test_a_linear_layer_has_no_current_derivative():
    sim = problem(activation="identity").relaxation(rule=Rule(relaxation_derivative="current"))
    assert_same(
        states(sim.solve(TIMES, TIGHT)),
        states(sim.solve(TIMES, Adaptive("dopri8", 1e-11, 1e-13, options={"max_step": 0.1}))),
        1e-8,
    )


def test_the_derivative_of_the_lowest_block_drives_no_unit():
    rule = {"fc1": Rule(relaxation_derivative="current"), "*": POSTSYNAPTIC}
    found, truth = (
        problem().relaxation(rule=each).solve(TIMES, TIGHT) for each in (rule, POSTSYNAPTIC)
    )
    assert_same(states(found), states(truth), 1e-14)


def test_weights_learn_from_its_last_state():
    found, truth = (
        gradients(problem(), solver) for solver in (TIGHT, Adaptive("dopri5", 1e-10, 1e-12))
    )
    assert_same(found, truth, 1e-8)


def gradients(case: Problem, solver: Solver) -> dict[str, Tensor]:
    ardyn.backward(**case.batch, rule=POSTSYNAPTIC, solver=solver, duration=5.0)
    return gradients_on(case.model)


def test_a_current_derivative_is_refused():
    rule = {"fc2": Rule(relaxation_derivative="current"), "*": POSTSYNAPTIC}
    words = "units above alone, got the relaxation derivative 'current' for block 'fc2'; use Adap"
    with pytest.raises(InputError, match=words):
        problem().relaxation(rule=rule).solve([1.0], Collocation())


def test_plastic_weights_are_refused():
    with pytest.raises(InputError, match="Collocation takes no steps, so that it needs constant"):
        problem().relaxation(plasticity=Plasticity(1e3)).check(Collocation())


def test_a_stop_is_refused():
    with pytest.raises(InputError, match="needs no stop, as it does not step"):
        problem().relaxation().solve([1.0], Collocation(), stop=SteadyState())


@pytest.mark.parametrize("rtol", [0.0, -1.0, 1e-17])
def test_a_tolerance_that_is_too_fine_is_refused(rtol):
    with pytest.raises(InputError, match="rtol"):
        problem().relaxation().solve([1.0], Collocation(rtol))


class Leak:
    """τ dx/dt = −x + u, u a function of the points of a window."""

    since = 0.0
    time_constants: ClassVar = {"a": 2.0}
    recurrence = ""

    def __init__(self, drive: Callable[[Tensor], Tensor]) -> None:
        self.drive = drive

    def initial(self) -> State:
        return State({"a": torch.ones(3, dtype=torch.float64)})

    def __call__(self, t: Tensor | float, state: State) -> State:
        return State({"a": -state.activity["a"]})

    def cascade(self, start: State, relax: Callable[[Tensor, Tensor, float], Tensor]) -> State:
        x = start.activity["a"]
        constant = relax(x, torch.zeros_like(x), 2.0)
        return State({"a": relax(x, self.drive(constant), 2.0)})


def test_a_system_of_ones_own_needs_a_cascade():
    class Flat:
        since, time_constants = 0.0, {"a": 1.0}
        initial = Leak.initial

    with pytest.raises(InputError, match=r"a system with a method cascade\(\)"):
        Collocation().check(Flat())  # type: ignore[arg-type]
    system = Leak(torch.zeros_like)
    Collocation().check(system)
    x = Collocation().solve(system, torch.tensor([1.0, 3.0], dtype=torch.float64)).record
    assert difference(x.activity["a"][:, 0], np.exp([-0.5, -1.5])) < 1e-6


def test_a_drive_that_no_window_resolves_is_told():
    g, calls = generator(), []

    def drive(x: Tensor) -> Tensor:
        calls.append(x)
        noise = torch.randn(x.shape, generator=g, dtype=x.dtype)
        return x if len(calls) == 1 else 1e20 * noise

    with pytest.raises(DivergenceError, match="'collocation' cannot go beyond t = 1.*, where unit"):
        Collocation().solve(Leak(drive), torch.tensor([1e3], dtype=torch.float64))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_states_that_are_not_finite_are_told(value):
    with pytest.raises(DivergenceError, match="non-finite by t = 1, first seen in unit 'a'"):
        Collocation().solve(
            Leak(lambda x: torch.full_like(x, value)), torch.tensor([1.0], dtype=torch.float64)
        )


@pytest.mark.parametrize(("degree", "ratio"), [(8, 1e-6), (16, 0.3), (24, 5.0), (64, 30.0)])
def test_the_response_solves_the_leak(degree, ratio):
    at = (chebyshev.points(degree) + 1) / 2
    truth = solve_ivp(
        lambda s, x: ratio * (s**3 - x), (0, 1), [1.0], "LSODA", t_eval=at, rtol=1e-12, atol=1e-13
    )
    x = response(degree, ratio) @ np.concatenate([[1.0], at[1:] ** 3])
    assert difference(x, truth.y[0]) < 1e-9


@pytest.mark.parametrize("ratio", [0.0, 1e-6, 1.0, 1e6, 1e12])
def test_at_rest_the_response_is_rest_however_stiff(ratio):
    assert difference(response(64, ratio).sum(1), np.ones(65)) < 1e-12


def response(degree: int, ratio: float) -> chebyshev.Array:
    found = chebyshev.response(degree, ratio, torch.float64, torch.device("cpu"))
    return np.asarray(found.numpy())
