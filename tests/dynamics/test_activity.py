import itertools
from typing import Any

import numpy as np
import pytest
import torch

from ardyn import Adaptive, Rule
from ardyn.dynamics.activity import Dynamics, relax
from ardyn.state import State
from tests.oracles.brute_force import Chain, Layers
from tests.oracles.problems import (
    DEVICE,
    Problem,
    assert_same,
    difference,
    feedback_of,
    generator,
    problem,
)

TAU = [0.7, 1.6, 1.1, 0.4]
RULES = [
    Rule(feedback=feedback, relaxation_derivative=derivative, output=output)  # type: ignore[arg-type]
    for feedback, derivative, output in itertools.product(
        ("transpose", "learned", "fixed"),
        ("frozen", "current", "postsynaptic", "dropped"),
        ("relaxed", "clamped"),
    )
]


def label(rule: Rule) -> str:
    return f"{rule.feedback}-{rule.relaxation_derivative}-{rule.output}"


def tau_of(rule: Rule) -> list[float]:
    return TAU if rule.output == "relaxed" else TAU[:-1]


def pair(rule: Rule, **settings: Any) -> tuple[Problem, Dynamics, Chain]:
    """The same relaxation by ardyn and by hand."""
    case = problem((6, 5, 4, 3, 2), **settings)
    psi = feedback_of(case, rule, seed=3)
    sim = case.relaxation(rule=rule, tau=tau_of(rule), feedback=psi)
    return case, sim.dynamics, Chain(case, rule, tau_of(rule), psi)


def random_state(case: Problem, by_hand: Chain) -> tuple[State, Layers]:
    g = generator(11)
    x = {i: torch.randn(by_hand.forward[i].shape, generator=g).double() for i in by_hand.relaxing}
    state = State({case.units[i - 1]: each.to(DEVICE) for i, each in x.items()})
    return state, {i: each.cpu().numpy() for i, each in x.items()}


def by_name(case: Problem, x: Layers) -> dict[str, np.ndarray]:
    return {case.units[i - 1]: each for i, each in x.items()}


def test_relaxing_is_a_leak_towards_the_drive():
    x, drive = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    assert relax(x, drive, 4.0).tolist() == [0.5, -1.0]


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize("rule", RULES, ids=label)
def test_the_rate_is_the_equation(rule, activation):
    case, dynamics, by_hand = pair(rule, activation=activation)
    state, x = random_state(case, by_hand)
    assert_same(dynamics(0.0, state).activity, by_name(case, by_hand.rate(x)), 1e-13)


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_a_sweep_is_the_equation_from_the_top_down(rule):
    case, dynamics, by_hand = pair(rule)
    state, x = random_state(case, by_hand)
    by_hand.start = lambda: x  # type: ignore[method-assign]
    truth = by_name(case, by_hand.sweep(1, 0.3))
    assert_same(dynamics.sweep(state, 0.3).activity, truth, 1e-13)


def test_the_rate_is_autonomous():
    case, dynamics, by_hand = pair(Rule())
    state, _ = random_state(case, by_hand)
    assert_same(dynamics(0.0, state).activity, dynamics(7.0, state).activity, 0.0)


@pytest.mark.parametrize("rule", [r for r in RULES if r.is_linear], ids=label)
def test_a_linear_rule_stands_still_at_its_equilibrium(rule):
    case, dynamics, by_hand = pair(rule)
    found = dynamics.equilibrium()
    x = {i: found[case.units[i - 1]].cpu().numpy() for i in by_hand.relaxing}
    rate, scale = by_hand.rate(x), max(np.abs(each).max() for each in x.values())
    assert max(np.abs(each).max() for each in rate.values()) < 1e-14 * scale
    assert difference(found[case.units[-1]], by_hand.drive) < 1e-15


def test_the_default_equilibrium_is_the_backprop_gradient():
    case, dynamics, _ = pair(Rule())
    assert_same(dynamics.equilibrium(), case.unit_gradients(), 1e-14)


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_only_a_frozen_or_dropped_derivative_is_linear(rule):
    case, dynamics, by_hand = pair(rule)
    state, _ = random_state(case, by_hand)
    zero = State({unit: torch.zeros_like(x) for unit, x in state.activity.items()})
    double = State({unit: 2 * x for unit, x in state.activity.items()})
    rates = [dynamics(0.0, each).activity["fc1"] for each in (zero, state, double)]
    is_linear = difference(rates[2] - rates[0], 2 * (rates[1] - rates[0])) < 1e-12
    assert dynamics.is_linear is is_linear
    if not rule.is_linear:
        only_one = case.relaxation(rule={"fc3": Rule(relaxation_derivative="current")})
        assert not only_one.dynamics.is_linear


@pytest.mark.parametrize("initial", ["feedforward", "zero"])
def test_activities_start_forward_or_at_zero_and_traces_forward(initial):
    case = problem()
    rule = Rule(initial=initial, update_activity="trace")
    start = case.relaxation(rule=rule, tau_trace=1.0).dynamics.initial()
    forward = dict(zip(case.units, Chain(case).forward[1:], strict=True))
    scale = 0.0 if initial == "zero" else 1.0
    assert_same(start.activity, {unit: scale * x for unit, x in forward.items()}, 1e-15)
    assert_same(start.trace, {unit: forward[unit] for unit in ("fc1", "fc2")}, 1e-15)


def test_only_units_that_a_synapse_reads_are_remembered():
    rules = {"fc3": Rule(update_activity="trace"), "fc1": Rule(update_activity="trace")}
    sim = problem((6, 5, 4, 3, 2)).relaxation(rule=rules, tau_trace=1.0)
    assert sim.dynamics.traced == ("fc2",)


def test_the_trace_decays_towards_the_activity():
    case = problem()
    sim = case.relaxation(rule=Rule(update_activity="trace"), tau_trace=2.5)
    start = sim.dynamics.initial()
    moved = State({u: 3 * x + 1 for u, x in start.activity.items()}, start.trace)
    rate = sim.dynamics(0.0, moved).trace
    assert_same(rate, {u: (moved.activity[u] - z) / 2.5 for u, z in start.trace.items()}, 1e-15)


def test_a_clamped_output_is_not_part_of_the_state():
    dynamics = problem().relaxation(rule=Rule(output="clamped")).dynamics
    assert set(dynamics.initial().activity) == {"fc1", "fc2"}
    assert dynamics.activities({})["fc3"] is dynamics.drive["fc3"]


def test_the_output_drive_is_frozen():
    case, dynamics, by_hand = pair(Rule())
    state, _ = random_state(case, by_hand)
    rate = dynamics(0.0, state).activity["fc4"]
    assert difference(rate * TAU[-1] + state.activity["fc4"], by_hand.drive) < 1e-14


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_some_samples_are_the_dynamics_of_those_samples(rule):
    case, dynamics, by_hand = pair(rule)
    state, _ = random_state(case, by_hand)
    part = State({unit: x[1:3] for unit, x in state.activity.items()})
    truth = {unit: dx[1:3] for unit, dx in dynamics(0.0, state).activity.items()}
    assert_same(dynamics.samples(slice(1, 3))(0.0, part).activity, truth, 1e-14)


@pytest.mark.parametrize(
    "rule", [r for r in RULES if not r.is_linear and r.feedback != "learned"], ids=label
)
def test_a_nonlinear_relaxation_is_scipys_solution(rule):
    case = problem((6, 5, 4, 3, 2), batch=2)
    psi = feedback_of(case, rule, seed=3)
    times = [0.5, 2.5]
    truth, _ = Chain(case, rule, tau_of(rule), psi).integrate(times)
    sim = case.relaxation(rule=rule, tau=tau_of(rule), feedback=psi)
    # One solve per time: torchdiffeq is less accurate between its steps than at their ends.
    ends = [sim.solve([t], Adaptive("dopri5", rtol=1e-10, atol=1e-12)) for t in times]
    found = {u: torch.cat([end[u] for end in ends]) for u in case.units}
    assert_same(found, truth, 1e-8)


@pytest.mark.parametrize("derivative", ["frozen", "current", "postsynaptic"])
@pytest.mark.parametrize("initial", ["feedforward", "zero"])
def test_a_traced_relaxation_is_scipys_solution(initial, derivative):
    case = problem(batch=2)
    rule = Rule(update_activity="trace", initial=initial, relaxation_derivative=derivative)
    tau = [0.7, 1.6, 1.1]
    truth, traces = Chain(case, rule, tau, tau_trace=3.0).integrate([5.0])
    sim = case.relaxation(rule=rule, tau=tau, tau_trace=3.0)
    found = sim.solve([5.0], Adaptive("dopri5", rtol=1e-10, atol=1e-12))
    assert_same({u: found[u] for u in case.units}, truth, 1e-8)
    assert_same(found.traces, traces, 1e-8)
