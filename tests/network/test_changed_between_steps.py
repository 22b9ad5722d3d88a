"""A Learner sees whatever changed in its module, or around it, between two steps."""

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ardyn
from tests.oracles.problems import assert_same, difference, gradients_on
from tests.oracles.side_by_side import (
    LONG,
    NO_TARGET,
    UNITS,
    assert_learns_as_backprop,
    batches,
    filled,
    learned,
    net,
    randn,
    scale_output,
    total,
)

SLOPE = 1.0


class Steered(nn.Module):
    """Its run depends on what no list of its parameters and modules shows."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        self.config = types.SimpleNamespace(scale=1.0)
        self.power = 1
        self.kept = {"shift": torch.zeros(3, dtype=torch.float64)}
        self.enclosed, self.set_enclosed = enclosed(1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x) ** self.power + self.kept["shift"]
        y = y * self.config.scale * type(self).factor * SLOPE
        z: Tensor = self.enclosed(y)
        return z


def enclosed(value: float) -> tuple[Callable[[Tensor], Tensor], Callable[[float], None]]:
    """A function that reads a variable, and one that sets it."""

    def apply(x: Tensor) -> Tensor:
        return value * x

    def assign(new: float) -> None:
        nonlocal value
        value = new

    return apply, assign


CHANGES: dict[str, Callable[[Any], object]] = {
    "an activation": lambda m: setattr(m.layers, "1", nn.ReLU()),
    "a layer appended": lambda m: m.layers.append(filled(nn.Linear(3, 3))),
    "a layer replaced": lambda m: setattr(m.layers, "0", filled(nn.Linear(6, 5), std=0.9)),
    "an attribute": lambda m: setattr(m, "power", 2),
    "a hook": lambda m: m.layers[0].register_forward_hook(scale_output),
    "a configuration": lambda m: setattr(m.config, "scale", 3.0),
    "the class": lambda m: setattr(type(m), "factor", 3.0),
    "a global": lambda m: globals().update(SLOPE=3.0),
    "a closure": lambda m: m.set_enclosed(3.0),
    "a tensor in a dictionary": lambda m: m.kept["shift"].fill_(1.0),
    "a forward": lambda m: setattr(m.layers[1], "forward", torch.sigmoid),
    "a bias removed": lambda m: m.layers[0].register_parameter("bias", None),
    "a weight held": lambda m: m.layers[0].weight.requires_grad_(False),
    "a parametrization": lambda m: nn.utils.parametrizations.weight_norm(m.layers[0]),
}


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes modules; the class and the globals are what they were each time."""

    def make() -> Any:
        monkeypatch.setattr(Steered, "factor", 1.0)
        monkeypatch.setitem(globals(), "SLOPE", 1.0)
        return filled(Steered())

    return make


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_learner_sees_what_changed_between_two_steps(change, units, unchanged):
    def at_the_second(model: Any, step: int) -> None:
        if step == 1:
            change(model)

    given = batches(4, 6)
    truth = assert_learns_as_backprop(unchanged, given, change=at_the_second, units=units)
    stale = learned(unchanged, given, total, lambda model, step: None, "bp", units)
    assert difference(truth[0]["loss"], stale[0]["loss"]) == 0.0
    differing = truth[1].keys() ^ stale[1].keys()
    differing |= {
        n for n in truth[1].keys() & stale[1].keys() if not same(truth[1][n], stale[1][n])
    }
    assert differing


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and difference(one, other) < 1e-6


def test_a_copy_of_a_relaxed_module_is_one_of_its_own():
    model = net()
    ardyn.backward(model, randn(4, 6), NO_TARGET, total, duration=LONG)
    one, two = copy.deepcopy(model), copy.deepcopy(model)
    one.act = two.act = nn.Sigmoid()
    ardyn.backward(one, randn(4, 6), NO_TARGET, total, duration=LONG)
    total(two(randn(4, 6))).backward()
    assert_same(gradients_on(one), gradients_on(two), 1e-8)
