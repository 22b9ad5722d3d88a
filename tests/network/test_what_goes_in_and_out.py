"""Inputs and outputs of every arrangement, and which of them want gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import ardyn
from tests.oracles.problems import difference
from tests.oracles.side_by_side import (
    LONG,
    NO_TARGET,
    UNITS,
    assert_learns_as_backprop,
    batches,
    forward,
    randn,
    total,
)


@dataclass
class Result:
    """Outputs by name."""

    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]])


def masked(m: Any, x: Tensor, mask: Any = None, more: Any = None) -> Any:
    h = m.layer(x).tanh()
    if mask is not None:
        h = h.masked_fill(~mask.bool()[:, :1], 0.3)
    return m.last(h) if more is None else m.last(h) * more["scale"] + more["shift"][0]


def graph(m: Any, x: Tensor, edges: Tensor) -> Any:
    """Messages along edges, of which there are more than nodes."""
    h = m.layer(x).tanh()
    sums = torch.zeros_like(h).index_add(0, edges[1], h[edges[0]])
    return m.last(sums)


EDGES = torch.tensor([[0, 1, 2, 3, 3, 0, 1], [1, 2, 3, 0, 1, 2, 0]])
GIVEN: dict[str, tuple[Callable[..., Any], Any]] = {
    "a tuple": (masked, (randn(4, 4), MASK)),
    "None": (masked, (randn(4, 4), None)),
    "a dict": (masked, {"x": randn(4, 4), "mask": MASK}),
    "nested": (masked, (randn(4, 4), None, {"scale": randn(4, 1), "shift": [randn(4, 1)]})),
    "unequal sizes": (graph, (randn(4, 4), EDGES)),
    "a number": (lambda m, x, power: m.last(m.layer(x) ** power), (randn(4, 4), 2)),
    "a tensor without dimensions": (
        lambda m, x, scale: m.last(m.layer(x) * scale),
        (randn(4, 4), torch.tensor(2.0).double()),
    ),
    "of two sizes": (
        lambda m, x, y: m.last(m.layer(x).tanh()).mean(0) + m.last(m.layer(y)),
        (randn(7, 4), randn(3, 4)),
    ),
}
RETURNED: dict[str, Callable[[Any, Tensor], Any]] = {
    "a tuple": lambda m, x: (m.layer(x), m.last(m.layer(x).relu())),
    "a dict": lambda m, x: {"a": [m.layer(x)], "b": {"c": m.last(m.layer(x)), "d": None}},
    "a named tuple": lambda m, x: Pair(m.layer(x), m.last(m.layer(x).relu())),
    "a dataclass": lambda m, x: Result(m.last(m.layer(x)), (m.layer(x), m.layer(x).relu())),
    "integers beside": lambda m, x: (m.last(m.layer(x)), m.layer(x).argmax(1), "name", 3),
    "of no dimension": lambda m, x: m.last(m.layer(x).tanh()).sum(),
    "the input": lambda m, x: (m.last(m.layer(x)), x),
}


def of_type(kind: str, read: Callable[[Any], list[Tensor]]) -> Callable[[Any, Any], Tensor]:
    """A loss that reads the module's own output, by its names."""

    def loss(output: Any, target: Any) -> Tensor:
        assert type(output).__name__ == kind
        return total(read(output))

    return loss


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize(("function", "inputs"), GIVEN.values(), ids=list(GIVEN))
def test_inputs_are_handed_on_as_they_are(function, inputs, units):
    assert_learns_as_backprop(forward(function), [inputs] * 2, units=units)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("function", RETURNED.values(), ids=list(RETURNED))
def test_outputs_are_handed_on_as_they_are(function, units):
    assert_learns_as_backprop(forward(function), batches(4, 4, steps=2), units=units)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("a named tuple", of_type("Pair", lambda y: [y.left, y.right])),
        ("a dataclass", of_type("Result", lambda y: [y.logits, *y.hidden])),
        ("a dict", of_type("dict", lambda y: [y["a"][0], y["b"]["c"]])),
    ],
)
def test_the_loss_receives_the_modules_own_output(name, loss):
    assert_learns_as_backprop(forward(RETURNED[name]), batches(4, 4, steps=2), loss)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, y: m.last(m.layer(x) * y),
        lambda m, x, y: m.last((m.layer(x) * y.exp()).tanh()) + x[:, :3],
        lambda m, x, y: (m.last(m.layer(x)), x, y),
        lambda m, x, y: m.last(m.layer(x).tanh()),
        lambda m, x, y: m.last(m.layer(x.tanh()).tanh() + m.layer(x)) * y.sum(),
    ],
    ids=["product", "residual", "returned", "unread", "read twice"],
)
def test_inputs_that_want_a_gradient_get_it(function, units):
    x, y = randn(4, 4).requires_grad_(), randn(4, 5, seed=2).requires_grad_()
    truth = assert_learns_as_backprop(forward(function), [(x, y)] * 2, units=units)
    assert "gradient of input 0" in truth[0]


def test_gradients_of_inputs_add_up():
    model, x = forward(RETURNED["the input"])(), randn(4, 4).requires_grad_()
    ardyn.backward(model, x, NO_TARGET, total, duration=LONG)
    assert x.grad is not None
    once = x.grad.clone()
    ardyn.backward(model, x, NO_TARGET, total, duration=LONG)
    assert difference(x.grad, 2 * once) < 1e-12


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("held", [["layer"], ["last"], ["layer.bias", "w"], ["layer", "w"]])
def test_what_requires_no_gradient_gets_none(held, units):
    def make() -> Any:
        model = forward(lambda m, x: m.last((m.layer(x) * m.w).tanh()))()
        for name in held:
            at, _, own = name.rpartition(".")
            getattr(model.get_submodule(at), own).requires_grad_(False)
        return model

    truth = assert_learns_as_backprop(make, batches(4, 4, steps=2), units=units)
    assert not any(n.startswith(f"gradient of {name}") for n in truth[0] for name in held)
