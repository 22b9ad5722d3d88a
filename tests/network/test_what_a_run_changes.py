"""What a run changes, it changes once, and what is changed after it is noticed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ardyn
from tests.oracles.problems import assert_same
from tests.oracles.side_by_side import (
    LONG,
    NO_TARGET,
    assert_learns_as_backprop,
    batches,
    filled,
    forward,
    net,
    randn,
    total,
)


def decays_its_weights(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        m.layer.weight.mul_(0.9)
    return m.last(m.layer(x).tanh())


def clamps_its_weights(m: Any, x: Tensor) -> Any:
    m.layer.weight.data.clamp_(-0.3, 0.3).mul_(0.9)
    return m.last(m.layer(x).tanh())


def differentiates(m: Any, x: Tensor) -> Any:
    m.last(m.layer(x).tanh()).sum().backward()
    return m.last(m.layer(x).tanh())


@pytest.mark.parametrize("function", [decays_its_weights, clamps_its_weights, differentiates])
def test_a_forward_that_writes_on_parameters_or_gradients_does_so_once(function):
    assert_learns_as_backprop(forward(function), batches(6, 4))


class Counted(nn.Module):
    """A loss that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return total(output)


class Meter:
    """A plain object that counts calls."""

    def __init__(self) -> None:
        self.calls, self.seen = 0, [0]

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        self.seen[0] += 1
        return total(output)


@pytest.mark.parametrize("make", [Counted, Meter])
def test_what_a_loss_counts_is_counted_once(make):
    model, loss = net(), make()
    for number in (1, 2):
        ardyn.backward(model, randn(6, 6), NO_TARGET, loss, duration=LONG)
        assert int(loss.calls) == number


def test_what_an_object_of_a_module_counts_is_counted_once():
    def counting(m: Any, x: Tensor) -> Any:
        m.meter.calls += 1
        m.meter.seen[0] += 1
        return m.last(m.layer(x).tanh())

    model = forward(counting, meter=Meter)()
    for number in (1, 2):
        ardyn.backward(model, randn(6, 4), NO_TARGET, total, duration=LONG)
        assert model.meter.calls == model.meter.seen[0] == number


def of_numpy(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


def test_memory_that_is_numpys_or_shared_with_other_processes_is_accepted():
    model, target = (
        filled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))),
        of_numpy(6, 3),
    )
    model[0].register_buffer("other", of_numpy(2, 2))
    model.share_memory()
    sim = ardyn.Relaxation(model, of_numpy(6, 4), target)
    assert_same(sim.equilibrium or {}, sim.gradients, 1e-12)


ASKED: dict[str, Callable[[ardyn.Relaxation], object]] = {
    "solve": lambda sim: sim.solve([1.0]),
    "gradients": lambda sim: sim.gradients,
    "equilibrium": lambda sim: sim.equilibrium,
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("of", ["weights", "inputs", "targets"])
@pytest.mark.parametrize("way", ["data", "in place"])
def test_what_is_written_on_after_the_pass_is_noticed(way, of, asked):
    model, x, target = net(), randn(6, 6), randn(6, 2)
    sim = ardyn.Relaxation(model, x, target)
    changed = {"weights": model.last.weight, "inputs": x, "targets": target}[of]
    if way == "data":
        changed.data[0, 0] += 1.0
    else:
        with torch.no_grad():
            changed[0, 0] += 1.0
    with pytest.raises(ardyn.InputError, match="changed after this Relaxation was made"):
        ASKED[asked](sim)
