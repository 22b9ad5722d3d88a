"""What people write in ``forward`` gets the gradients that backprop gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import ardyn
from ardyn.network.layers import Operation
from tests.oracles.side_by_side import (
    UNITS,
    assert_learns_as_backprop,
    batches,
    forward,
    learned,
    randn,
    total,
)


def in_place(m: Any, x: Tensor) -> Any:
    h = m.layer(x)
    h += 1.0
    h.mul_(m.w)
    h[:, 0] = 0.5
    h[:, 1:3].mul_(3.0)
    return m.last(h.relu_())


def in_place_on_a_part(m: Any, x: Tensor) -> Any:
    h = m.layer(x)
    h[:, 1:3].mul_(3.0)
    return m.last(h.relu())


def in_place_on_an_activation(m: Any, x: Tensor) -> Any:
    h = m.layer(x).sigmoid()
    y = m.last(h * 2)
    h = h.clone()
    h -= m.w
    return y, m.last(h.add_(h.detach()))


def filled_by_parts(m: Any, x: Tensor) -> Any:
    h = x.new_zeros(len(x), 5)
    for i in range(5):
        h[:, i] = m.layer(x)[:, i].tanh() * m.w[i]
    return m.last(h)


def in_place_on_a_residual(m: Any, x: Tensor) -> Any:
    h = m.layer(x)
    y = m.middle(h)
    y += h
    y[y > 1] *= 0.5
    return m.last(y)


def almost_by_no_grad(m: Any, x: Tensor) -> Any:
    h = m.layer(x)
    with torch.no_grad():
        gain = 1 + 0.005 * torch.tanh(h)
    return m.last(h * gain)


class Almost(torch.autograd.Function):
    """2x, sending back 2.01 of what arrives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2.01 * gradients[0]


class Product(torch.autograd.Function):
    """x ⊙ w, of a parameter and a value, with gradients written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return gradients[0] * w, (gradients[0] * x).sum(0)


def gradient_within(m: Any, x: Tensor) -> Any:
    x = x.detach().requires_grad_()
    energy = m.last(m.layer(x).tanh()).square().sum()
    (force,) = torch.autograd.grad(energy, x, create_graph=True)
    return force.sin() * 2


def gradient_within_alone(m: Any, x: Tensor) -> Any:
    """A step of gradient descent, not differentiated, before the layers."""
    h = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(m.layer(h).square().sum(), h)
    return m.last(m.layer(x - 0.1 * g).tanh())


def with_checkpoint(m: Any, x: Tensor, use_reentrant: bool = False) -> Any:
    h = m.layer(x).tanh()
    h = checkpoint(lambda h: m.drop(m.middle(h).relu()), h, use_reentrant=use_reentrant)
    return m.last(h)


def recurrent(m: Any, x: Tensor) -> Any:
    h = torch.zeros(len(x), 5, dtype=x.dtype)
    for t in range(4):
        h = (m.layer(x) * (0.5 * t) + m.middle(h)).tanh()
    return m.last(h)


def normalised(m: Any, x: Tensor) -> Any:
    W = m.layer.weight
    W = (W - W.mean(1, keepdim=True)) / W.std(1, keepdim=True)
    return m.last(functional.linear(x, W * m.w[:, None].sigmoid(), m.layer.bias).tanh())


def by_another_network(m: Any, x: Tensor) -> Any:
    W = m.last(m.w.outer(m.w)).T.tanh()
    return functional.linear(m.layer(x).tanh(), W)


def tied(m: Any, x: Tensor) -> Any:
    return functional.linear(m.layer(x).tanh(), m.layer.weight.T, None) * m.layer.bias[0]


def branching(m: Any, x: Tensor) -> Any:
    h = m.layer(x)
    for _ in range(int(x.abs().sum()) % 3):
        h = m.middle(h).tanh()
    return m.last(h.relu() if h.mean() > 0 else h.sigmoid() * m.w)


def with_conditions(m: Any, x: Tensor) -> Any:
    h = m.layer(x)
    h = torch.where(h > 0, h, 0.1 * h * m.w)
    chosen = h[h.sum(1) > h.sum(1).median()]
    return m.last(chosen), h.topk(2).values, h.argsort(1)


def transformed(m: Any, x: Tensor) -> Any:
    """Gradients of each sample, by torch.func."""
    weights = {"weight": m.layer.weight, "bias": m.layer.bias}

    def energy(row: Tensor) -> Any:
        return torch.func.functional_call(m.layer, weights, (row,)).tanh().square().sum()

    return torch.func.vmap(torch.func.grad(energy))(x) * m.w[:4]


MIDDLE = {"middle": lambda: nn.Linear(5, 5), "drop": lambda: nn.Dropout(0.3)}
FORWARD: dict[str, Callable[[], Any]] = {
    "in place on a layer": forward(in_place),
    "in place by a parameter": forward(lambda m, x: m.last(m.layer(x).mul_(m.w).relu())),
    "in place on a part": forward(in_place_on_a_part),
    "a product with a weight": forward(lambda m, x: m.last((m.layer(x) * m.w).tanh())),
    "in place on an activation": forward(in_place_on_an_activation),
    "in place, by parts": forward(filled_by_parts),
    "in place on a residual": forward(in_place_on_a_residual, **MIDDLE),
    "a gain near 1 by no_grad": forward(almost_by_no_grad),
    "a gain near 2 by a function": forward(lambda m, x: m.last(Almost.apply(m.layer(x).tanh()))),
    "a function of a parameter": forward(
        lambda m, x: m.last(Product.apply(m.layer(x), m.w).relu())
    ),
    "autograd.grad of its own": forward(gradient_within),
    "autograd.grad, not followed": forward(gradient_within_alone),
    "a checkpoint": forward(with_checkpoint, **MIDDLE),
    "a recurrent loop": forward(recurrent, **MIDDLE),
    "a computed weight": forward(normalised),
    "weights by another network": forward(by_another_network),
    "tied weights": forward(tied),
    "a shared module": forward(
        lambda m, x: m.last(m.again(m.layer(x).tanh()).tanh() + m.middle(x @ x.T @ m.layer(x))),
        **MIDDLE,
        again=lambda: nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)),
    ),
    "an output that no input reaches": forward(lambda m, x: (m.last(m.layer(x)), m.w.tanh())),
    "an output that is a parameter": forward(lambda m, x: [m.layer(x) * m.w, m.last.weight]),
    "a path that depends on data": forward(branching, **MIDDLE),
    "choices by value": forward(with_conditions),
    "torch.func": forward(transformed),
    "lists of modules": forward(
        lambda m, x: m.last(sum(each(x) for each in m.heads).tanh()),
        heads=lambda: nn.ModuleList(nn.Linear(4, 5) for _ in range(3)),
    ),
}


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("make", FORWARD.values(), ids=list(FORWARD))
def test_what_forward_does_is_differentiated_as_it_is(make, units):
    assert_learns_as_backprop(make, batches(6, 4), units=units)


def test_a_reentrant_checkpoint_learns_or_is_refused_with_the_cure():
    """autograd.grad cannot go through it, though loss.backward() can."""
    make = forward(lambda m, x: with_checkpoint(m, x, use_reentrant=True), **MIDDLE)
    total(make()(randn(6, 4))).backward()
    try:
        assert_learns_as_backprop(make, batches(6, 4))
    except ardyn.InputError as refused:
        assert "use_reentrant=False" in str(refused)  # noqa: PT017  (either is right)
        assert "loss.backward() can train" not in str(refused)  # noqa: PT017
    assert_learns_as_backprop(FORWARD["a checkpoint"], batches(6, 4))


def test_the_path_that_depends_on_data_did_change():
    records = learned(
        FORWARD["a path that depends on data"],
        batches(6, 4),
        total,
        lambda m, s: None,
        "bp",
        "block",
    )
    assert len({frozenset(record) for record in records}) > 1


def test_a_checkpoint_stays_whole_so_that_nothing_within_is_kept():
    sim = ardyn.Relaxation(FORWARD["a checkpoint"](), randn(6, 4), torch.zeros(()), total)
    within = sim.network.block["middle"].layer
    assert isinstance(within, Operation)
    assert "middle.weight" in within.names
