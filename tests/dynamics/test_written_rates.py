"""Rates of coupled systems that are written in place: the values, the memory and the work."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ardyn
from ardyn import Fixed, Plasticity, Rule
from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.coupled import Coupled
from ardyn.network.forward_pass import ForwardPass
from ardyn.network.layers import Conv, Layer, Linear
from ardyn.state import State
from tests.dynamics.test_coupled import RULES, short, tau_psi
from tests.oracles.problems import assert_same, difference, feedback_of, generator, problem
from tests.oracles.side_by_side import filled, randn
from tests.test_relaxation import Tied

TRACED = Rule(relaxation_derivative="current", update_derivative="current", update_activity="trace")


class Spelled(Plasticity):
    """Eq. 2 and 3, as a plasticity of one's own gives them."""

    def weight_rate(self, W: Tensor, gradient: Tensor, share: float, span: float = 1.0) -> Tensor:
        return (
            -share * gradient / self.tau_weights - span * self.weight_decay / self.tau_weights * W
        )


def coupled(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    rule: Rule,
    plasticity: Plasticity,
    feedback: Mapping[str, Tensor] | None = None,
) -> Coupled:
    """The system, away from its initial state."""
    tau_trace = 1.7 if rule.update_activity == "trace" else None
    sim = ardyn.Relaxation(
        model,
        inputs,
        targets,
        rule=rule,
        tau_trace=tau_trace,
        plasticity=plasticity,
        feedback=feedback,
    )
    start = Coupled.of(sim.dynamics, plasticity, sim.dynamics.initial()).initial()
    moved = start.with_tensors([x + 0.1 * randn(*x.shape) for x in start.tensors()])
    return Coupled(sim.dynamics, plasticity, moved)


def written(system: Coupled | Dynamics, state: State) -> State:
    """The rate, written over numbers that must not matter."""
    rate = state.with_tensors([torch.full_like(x, math.nan) for x in state.tensors()])
    system.write_rate(0.0, state, rate)
    return rate


class Residual(nn.Module):
    """What its layers read is computed, as a sum and by a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.norm = nn.LayerNorm(5, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        y: Tensor = torch.tanh(self.c(torch.tanh(self.b(self.norm(h))) + h))
        return y


def convolutions() -> nn.Module:
    reading = nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), *reading)


def chain() -> nn.Module:
    return problem((6, 5, 4, 3)).model


@pytest.mark.parametrize(
    ("make", "size", "rule"),
    [
        pytest.param(make, size, rule, id=f"{make.__name__} {short(rule)}")
        for make, size in ((chain, (6,)), (Tied, (5,)), (Residual, (6,)), (convolutions, (2, 3, 3)))
        for rule in RULES
        if make is not Tied or rule.feedback == "transpose"
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_written_rates_are_those_of_a_plasticity_of_ones_own(rule, decay, make, size):
    model: Any = filled(make())
    inputs = randn(4, *size)
    targets = randn(*model(inputs).shape)
    learns = rule.feedback == "learned"
    settings: Any = (5.0, tau_psi(rule), decay, decay if learns else 0.0, "mean")
    psi = None
    if rule.feedback != "transpose":
        psi = ardyn.random_feedback(model, std=0.5, generator=generator(3))
    own, plain = (
        coupled(model, inputs, targets, rule, kind(*settings), psi)
        for kind in (Plasticity, Spelled)
    )
    found, truth = written(own, own.start), written(plain, own.start)
    for parts in ("activity", "trace", "weights", "feedback"):
        assert_same(getattr(found, parts), getattr(truth, parts), 1e-13)
    assert bool(found.weights)
    assert bool(found.feedback) == learns


def test_feedback_weights_alone_are_written_too():
    case, rule = problem(), Rule(feedback="learned")
    psi = feedback_of(case, rule, 3)
    alone, both = (
        coupled(case.model, case.inputs, case.targets, rule, Plasticity(tau, 5.0), psi)
        for tau in (math.inf, 2.0)
    )
    state = alone.start
    assert not state.weights
    start = State(state.activity, state.trace, both.initial().weights, state.feedback)
    weights = {n: alone.dynamics.forward_pass.parameters[n] for n in start.weights}
    found = written(alone, state).feedback
    truth = written(both, State(state.activity, {}, weights, state.feedback)).feedback
    assert_same(found, truth, 1e-13)
    assert max(float(each.abs().max()) for each in found.values()) > 1e-2


class Large(TorchDispatchMode):
    """Names of the operations that make a tensor of so many numbers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, list[str]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {x.data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and x.numel() >= self.size and x.data_ptr() not in given:
                self.found.append(str(function))
        return made


@pytest.mark.parametrize(("kind", "are_made"), [(Plasticity, False), (Spelled, True)])
def test_no_tensor_of_the_size_of_the_weights_is_made(kind, are_made):
    case = problem((40, 50, 60), batch=2)
    rule = Rule(feedback="learned", update_derivative="current")
    psi = feedback_of(case, rule, 3)
    system = coupled(case.model, case.inputs, case.targets, rule, kind(5.0, 7.0, 0.1, 0.1), psi)
    state = system.start
    rate = state.with_tensors([torch.empty_like(x) for x in state.tensors()])
    with Large(40 * 50) as large:
        system.write_rate(0.0, state, rate)
    assert bool(large.found) == are_made


def test_a_solver_copies_no_rate(monkeypatch):
    sim = problem().relaxation(plasticity=Plasticity(5.0))
    expected = sim.solve([1.0], Fixed("rk4", 0.1))

    def fail(*_: object) -> None:
        raise AssertionError("a rate was copied")

    monkeypatch.setattr(Coupled, "__call__", fail)
    found = sim.solve([1.0], Fixed("rk4", 0.1))
    assert torch.equal(found["fc1"], expected["fc1"])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each layer computes its pre-activation, and the module is run again."""
    counts: Counter[str] = Counter()

    def count(kind: type, method: str, key: Callable[[Any], str]) -> None:
        original = getattr(kind, method)

        def counting(self: Any, *args: Any) -> Any:
            counts[key(self)] += 1
            return original(self, *args)

        monkeypatch.setattr(kind, method, counting)

    def weight(layer: Layer) -> str:
        return layer.weight or ""

    for kind in (Linear, Conv):
        count(kind, "forward", weight)
    count(ForwardPass, "at", lambda _: "run")
    return counts


@pytest.mark.parametrize(
    ("make", "size", "runs"),
    [
        (chain, (6,), 0),
        (Residual, (6,), 1),
        (convolutions, (2, 3, 3), 1),
    ],
    ids=["chain", "residual", "convolutions"],
)
@pytest.mark.parametrize("rule", [Rule(relaxation_derivative="current"), TRACED], ids=short)
def test_a_preactivation_is_computed_once_per_evaluation(make, size, runs, rule, counted):
    model: Any = filled(make())
    inputs = randn(4, *size)
    system = coupled(model, inputs, randn(*model(inputs).shape), rule, Plasticity(5.0))
    activities = system.dynamics
    counted.clear()
    written(activities, State(system.start.activity, system.start.trace))
    assert set(counted.values()) <= {1}
    counted.clear()
    written(system, system.start)
    # What traces make of the module's own operations takes a run of its own.
    its_runs = counted.pop("run", 0)
    assert its_runs == runs * (2 if rule == TRACED else 1)
    assert set(counted.values()) == {1}


def test_a_derivative_is_that_of_the_current_activities(counted):
    """Of each evaluation, not of the first."""
    system = problem().relaxation(rule=Rule(relaxation_derivative="current")).dynamics
    state = system.initial()
    first = written(system, state)
    for x in state.activity.values():
        x.mul_(2)  # in place, as a solver changes them
    second = written(system, state)
    truth = problem().relaxation(rule=Rule(relaxation_derivative="current")).dynamics
    fresh = written(truth, State({u: x.clone() for u, x in state.activity.items()}))
    assert_same(second.activity, fresh.activity, 1e-15)
    assert difference(second.activity["fc1"], 2 * first.activity["fc1"]) > 1e-3
