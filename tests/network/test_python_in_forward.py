"""What people write in ``forward``: tuples, shapes, attributes. Against autograd, by float64."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import ardyn
from ardyn.network.containers import tensors_in
from ardyn.network.network import Units
from tests.oracles.problems import assert_same, difference, generator, gradients_on

LONG = 1000.0
NO_TARGET = torch.zeros(())


class Written(nn.Module):
    """A module whose forward pass is a function, over one weight and one layer of each kind."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        g = generator(3)
        self.cell, self.lstm = nn.LSTMCell(4, 3), nn.LSTM(4, 3, batch_first=True)
        self.layer, self.last = nn.Linear(4, 6), nn.Linear(3, 2)
        self.w = nn.Parameter(torch.randn(3, generator=g))
        self.act: Any = torch.tanh
        self.function = function
        for p in self.parameters():
            nn.init.normal_(p, std=0.5, generator=g)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


def loss(output: Any, target: Tensor) -> Tensor:
    """Σ x² + x over every tensor that the module returns."""
    found: Tensor = sum(
        ((x.square() + x).sum() for x in tensors_in(output) if x.is_floating_point()),
        start=torch.zeros((), dtype=torch.float64),
    )
    return found


def gradients_by_autograd(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(
        loss(model(inputs), NO_TARGET), list(named.values()), allow_unused=True
    )
    return {n: g for n, g in zip(named, found, strict=True) if g is not None}


def gradients_by_relaxing(
    model: nn.Module, inputs: Tensor, units: Units = "block"
) -> dict[str, Tensor]:
    model.zero_grad()
    ardyn.backward(model, inputs, NO_TARGET, loss, duration=LONG, units=units)
    return gradients_on(model)


def batch(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=generator(seed)).double()


WRITTEN: dict[str, Callable[[Any, Tensor], Any]] = {
    "a nested tuple, returned": lambda m, x: m.lstm(x[:, None]),
    "a nested tuple, handed on": lambda m, x: m.lstm(x[:, None], m.lstm(x[:, None])[1]),
    "a nested tuple, unpacked": lambda m, x: m.last(m.lstm(x[:, None])[1][0][0]),
    "a tuple beside a part of it": lambda m, x: (m.cell(x), m.last(m.cell(x)[0])),
    "a slice of a tuple": lambda m, x: torch.cat(m.layer(x).split(2, 1)[1:], 1),
    "a dictionary of tuples": lambda m, x: {"state": m.cell(x), "out": [m.layer(x)]},
    "a named tuple, made": lambda m, x: Pair(m.layer(x), m.last(m.cell(x)[1])),
    "a named tuple's parts": lambda m, x: m.layer(x).view(-1, 2, 3).max(1).values * m.w,
    "a named tuple, returned": lambda m, x: m.layer(x).max(1),
    "a parameter, returned": lambda m, x: (m.layer(x), m.w),
    "a parameter, returned and used": lambda m, x: [m.last(m.cell(x)[0] * m.w), {"w": m.w}],
    "a shape, whole": lambda m, x: m.last(m.w * torch.ones(m.cell(x)[0].shape).to(x)),
    "a size, whole": lambda m, x: m.layer(x).reshape(-1).view(m.layer(x).size()),
    "a shape, by parts": lambda m, x: m.layer(x).view(x.shape[:1] + (2, 3)),  # noqa: RUF005
    "a shape, one number of it": lambda m, x: m.layer(x).view(x.shape[0], 2, -1).sum(1) / x.size(1),
    "a function kept as an attribute": lambda m, x: m.last(m.act(m.cell(x)[0])),
}


@pytest.mark.parametrize("function", WRITTEN.values(), ids=list(WRITTEN))
def test_it_learns_what_autograd_teaches(function):
    model, inputs = Written(function).double(), batch(5, 4)
    assert_same(gradients_by_relaxing(model, inputs), gradients_by_autograd(model, inputs), 1e-10)
    sim = ardyn.Relaxation(model, inputs, NO_TARGET, loss)
    assert_same({u: x[-1] for u, x in _items(sim.solve([LONG]))}, sim.gradients, 1e-10)


def _items(trajectory: ardyn.Trajectory) -> Sequence[tuple[str, Tensor]]:
    return [(unit, trajectory[unit]) for unit in trajectory.units]


class NamedAlike(nn.Module):
    """An argument that has a parameter's name."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([0.5, -1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.x).tanh()


def test_an_argument_is_not_taken_for_the_parameter_of_its_name():
    model, inputs = NamedAlike().double(), batch(3, 2)
    assert_same(gradients_by_relaxing(model, inputs), gradients_by_autograd(model, inputs), 1e-10)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.stack(m.layer(x).unbind(0)[:2]),
        lambda m, x: m.layer(x[:2]).split(2, 0)[0] * x.shape[0],
        lambda m, x: torch.cat(m.layer(x).split(2, 0)),
        lambda m, x: torch.stack(m.layer(x).unbind(0)).view(x.shape[0], 2, 3),
    ],
)
def test_batches_of_other_sizes_have_graphs_of_their_own(function):
    model = Written(function).double()
    for size in (4, 2, 6, 4):
        inputs = batch(size, 4)
        truth = gradients_by_autograd(model, inputs)
        assert_same(gradients_by_relaxing(model, inputs), truth, 1e-10)


@pytest.mark.parametrize(
    "acts",
    [
        (torch.tanh, torch.relu, torch.tanh),
        (lambda x: x.tanh(), lambda x: x.exp()),
        ([torch.tanh], [torch.relu], (torch.relu, torch.tanh)),
        ({"f": torch.tanh}, {"f": torch.relu}),
        (nn.Tanh(), nn.Sequential(nn.ReLU(), nn.Sigmoid()), nn.Identity()),
    ],
    ids=["functions", "lambdas", "lists", "dictionaries", "modules"],
)
def test_a_changed_attribute_is_seen(acts):
    def forward(m: Any, x: Tensor) -> Tensor:
        acts = m.act.values() if isinstance(m.act, dict) else m.act
        acts = [acts] if callable(acts) else acts
        a: Tensor = m.layer(x)
        for act in acts:
            a = act(a)
        return a

    model, inputs = Written(forward).double(), batch(5, 4)
    seen = []
    for act in acts:
        del model.act
        model.act = act
        found = gradients_by_relaxing(model, inputs)
        assert_same(found, gradients_by_autograd(model, inputs), 1e-10)
        seen.append(found["layer.weight"])
    assert difference(seen[0], seen[1]) > 1e-3


def test_graphs_of_two_batch_sizes_and_of_both_units_are_kept():
    model = Written(lambda m, x: m.last(m.act(m.layer(x)[:, :3]))).double()
    small, large = batch(2, 4), batch(5, 4)

    def networks() -> list[int]:
        return [
            id(ardyn.Relaxation(model, x, NO_TARGET, loss, units=units).network)
            for x in (small, large)
            for units in ("block", "operation")
        ]

    first = networks()
    assert len(set(first)) == 4
    assert networks() == first


def no_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = m.layer(x)
    y: Tensor = m.last(m.cell(x)[0]) + h[:, :2]
    return y


class Reversed(torch.autograd.Function):
    """The identity, sending back −g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def written_on_a_part(m: Any, x: Tensor) -> Tensor:
    h = m.layer(x)
    h[:, :2].relu_()
    y: Tensor = h * 2
    return y


def written_on_what_was_viewed(m: Any, x: Tensor) -> Tensor:
    h = m.layer(x)
    pairs = h.view(-1, 3, 2)
    h.exp_()
    y: Tensor = pairs * 2
    return y


HIDDEN: dict[str, Callable[[Any, Tensor], Any]] = {
    "no_grad": no_grad,
    "an autograd.Function": lambda m, x: m.last(Reversed.apply(m.cell(x)[0])),
    "a parameter from a dictionary": lambda m, x: m.layer(x) * m._parameters["w"].norm(),
    "written on a part": written_on_a_part,
    "written on what was viewed": written_on_what_was_viewed,
}


@pytest.mark.parametrize("units", ["block", "operation"])
@pytest.mark.parametrize("function", HIDDEN.values(), ids=list(HIDDEN))
def test_what_a_trace_could_not_see_has_autograds_gradients(function, units):
    model, inputs = Written(function).double(), batch(5, 4).abs()
    truth = gradients_by_autograd(model, inputs)
    assert_same(gradients_by_relaxing(model, inputs, units), truth, 1e-10)


class WithBuffer(nn.Module):
    """Reads a buffer, a tensor that is none, and an attribute that is private."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.offset = nn.Buffer(torch.ones(3))
        self.tensor = torch.ones(3, dtype=torch.float64)
        self._factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.layer(x) + self.offset * 2).tanh() * self._factor * (self.tensor + 1)
        return y


@pytest.mark.parametrize("name", ["offset", "tensor", "_factor"])
def test_a_changed_value_is_seen(name):
    model, inputs = WithBuffer().double(), batch(5, 4)
    first = gradients_by_relaxing(model, inputs)
    attributes = set(vars(model))
    if name == "_factor":
        model._factor = 3.0
    else:
        getattr(model, name).fill_(3.0)
    second = gradients_by_relaxing(model, inputs)
    assert_same(second, gradients_by_autograd(model, inputs), 1e-10)
    assert difference(first["layer.weight"], second["layer.weight"]) > 1e-3
    assert set(vars(model)) == attributes


def test_a_bias_that_is_no_parameter_is_not_learned():
    layer = nn.Linear(4, 3)
    del layer.bias
    layer.register_buffer("bias", torch.ones(3))
    model, inputs = nn.Sequential(layer, nn.Tanh()).double(), batch(5, 4)
    assert_same(gradients_by_relaxing(model, inputs), gradients_by_autograd(model, inputs), 1e-10)


def test_a_mean_over_the_samples_may_come_in_between():
    model, inputs = Written(lambda m, x: m.last(m.act(m.cell(x)[0]).mean(0))).double(), batch(5, 4)
    assert_same(gradients_by_relaxing(model, inputs), gradients_by_autograd(model, inputs), 1e-10)
