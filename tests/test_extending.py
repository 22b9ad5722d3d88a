"""A solver, a scheme, a layer and a plasticity of one's own, by their surface alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ardyn
from ardyn import ClosedForm, Fixed, Plasticity, Rule
from ardyn.network.layers import Layer, run_layer
from ardyn.solvers.system import Solution, Stop, System
from tests.oracles.problems import assert_same, difference, gradients_on, problem, states
from tests.oracles.side_by_side import LONG, filled, randn


@dataclass(frozen=True)
class Euler:
    """Written out; records the state at the end alone."""

    step: float

    def check(self, system: System, stop: Stop | None = None) -> None:
        if stop is not None:
            raise ardyn.InputError("Euler never stops; drop stop")

    def solve(self, system: System, times: Tensor, stop: Stop | None = None) -> Solution:
        state = system.initial()
        for i in range(round(float(times[-1]) / self.step)):
            rate = system(i * self.step, state)
            pairs = zip(state.tensors(), rate.tensors(), strict=True)
            state = state.with_tensors([x + self.step * dx for x, dx in pairs])
        return Solution(state.with_tensors([x[None] for x in state.tensors()]))

    def step_matrix(self, M: Tensor, step: float) -> Tensor:
        return torch.eye(len(M), dtype=M.dtype) + step * M

    def growth(self, step_over_tau: float) -> float:
        return abs(1 - step_over_tau)


def test_a_solver_of_ones_own_is_as_good_as_ardyns():
    sim = problem().relaxation()
    truth = states(sim.solve([2.0], Fixed("euler", 0.1)))
    assert_same(states(sim.solve([2.0], Euler(0.1))), truth, 1e-12)
    assert_same(states(sim.solve([2.0], ClosedForm(Euler(0.1)))), truth, 1e-12)
    with pytest.raises(ardyn.InputError, match="never stops"):
        sim.solve([2.0], Euler(0.1), stop=ardyn.SteadyState())
    with pytest.raises(ardyn.InputError, match="is not a solver"):
        sim.solve([2.0], "euler")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scaled(Layer):
    """a = 2 x Wᵀ."""

    weight: str
    bias: None = None

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return 2 * x @ parameters[self.weight].T

    def send_back(
        self, parameters: Mapping[str, Tensor], v: Tensor, psi: Tensor | None, x: Tensor
    ) -> Tensor:
        return 2 * v @ (parameters[self.weight] if psi is None else psi.mT)

    def update(self, parameters: Mapping[str, Tensor], v: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {self.weight: 2 * v.mT @ x}


class WrongUpdate(Scaled):
    def update(self, parameters: Mapping[str, Tensor], v: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {self.weight: v.mT @ x}


class ScaledLinear(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.weight, self.kind = nn.Parameter(torch.zeros(5, 4)), kind

    def forward(self, x: Tensor) -> Tensor:
        return run_layer(self.kind, x, weight=self.weight)


@pytest.mark.parametrize("kind", [Scaled, WrongUpdate])
def test_a_layer_of_ones_own_relaxes_by_its_rule_if_that_is_right(kind):
    model = filled(nn.Sequential(ScaledLinear(kind), nn.Tanh(), nn.Linear(5, 3)))
    x, target = randn(6, 4), randn(6, 3)
    (model(x) - target).square().sum().backward()
    truth = {name: g.clone() for name, g in gradients_on(model).items()}
    model.zero_grad()
    ardyn.backward(model, x, target, duration=LONG)
    assert_same(gradients_on(model), truth, 1e-12)
    sim = ardyn.Relaxation(model, x, target)
    assert isinstance(sim.network.block["0"].layer, kind) == (kind is Scaled)


def test_feedback_weights_stand_in_for_the_weights_of_a_layer_of_ones_own():
    model = filled(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), ScaledLinear(Scaled), nn.Linear(5, 3)))
    rule, psi = {"2": Rule(feedback="fixed")}, randn(4, 5)
    sim = ardyn.Relaxation(model, randn(6, 4), randn(6, 3), rule=rule, feedback={"2": psi})
    assert sim.equilibrium is not None
    expected = 2 * sim.equilibrium["2"] @ psi.T
    assert difference(sim.equilibrium["0"], expected) < 1e-12


class Halved(Plasticity):
    """Half of Eq. 2."""

    def weight_rate(self, W: Tensor, gradient: Tensor, share: float, span: float = 1.0) -> Tensor:
        return 0.5 * super().weight_rate(W, gradient, share, span)


class Reversed(Plasticity):
    """Minus Eq. 2."""

    def changes(self, dynamics: Any, activity: Any, trace: Any) -> Any:
        found = super().changes(dynamics, activity, trace)
        return {b: {n: -g for n, g in own.items()} for b, own in found.items()}


@pytest.mark.parametrize(("kind", "factor"), [(Halved, 0.5), (Reversed, -1.0)])
def test_a_plasticity_of_ones_own_replaces_equation_2(kind, factor):
    def change(plasticity: Plasticity) -> dict[str, Tensor]:
        sim = problem().relaxation(plasticity=plasticity)
        learned = sim.solve([3.0], Fixed("rk4", 0.1)).learned
        assert learned is not None
        parameters = sim.dynamics.forward_pass.parameters
        return {name: W[-1] - parameters[name] for name, W in learned.weights.items()}

    truth = {name: factor * W for name, W in change(Plasticity(1e6)).items()}
    assert_same(change(kind(1e6)), truth, 1e-4)
