import torch

from ardyn.dynamics.activity import low_pass
from ardyn.network.activations import Slope, identity, scale
from ardyn.network.layers import Linear
from tests.oracles.problems import assert_same, difference, generator


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_a_trace_decays_to_the_activity_with_its_time_constant():
    x, z, tau = randn(4, 3, seed=0), randn(4, 3, seed=1), 2.5
    for _ in range(1000):
        z = z + 0.01 * low_pass(x, z, tau)
    decay = (1 - 0.01 / tau) ** 1000
    assert difference(z, x + decay * (randn(4, 3, seed=1) - x)) < 1e-12


def test_at_the_gradient_the_update_is_that_of_backprop():
    W, b = randn(3, 5, seed=0).requires_grad_(), randn(3, seed=1).requires_grad_()
    x = randn(4, 5, seed=2)
    y = torch.tanh(x @ W.T + b)
    y.retain_grad()
    (y**3).sum().backward()
    slope = Slope.at(torch.tanh, x @ W.T + b)
    assert y.grad is not None
    found = Linear("W", "b").update({}, slope.times(y.grad), x)
    assert_same(found, {"W": W.grad, "b": b.grad}, 1e-14)


def test_no_slope_stands_for_the_number_one():
    v = randn(4, 3, seed=0)
    assert difference(scale(v, None), scale(v, Slope(identity, torch.ones_like(v)))) < 1e-15
