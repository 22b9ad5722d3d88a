"""Problems with known answers: small networks in float64, and what backprop says about them."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import ardyn

DEVICE = torch.device(os.environ.get("ARDYN_TEST_DEVICE", "cpu"))
"""Where the problems are solved; their numbers are drawn on the CPU, whatever the device."""
ACTIVATIONS = ("tanh", "relu", "sigmoid", "gelu", "identity")
ONE_STEP_METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4")
MULTISTEP_METHODS = ("explicit_adams", "implicit_adams", "fixed_adams")
CHAINS = {1: (4, 3), 2: (4, 5, 3), 4: (6, 5, 4, 3, 2), 64: (4, *[3] * 63, 2)}
"""Sizes of chains by their number of layers; unequal widths, so that no transpose passes."""


def log_cosh(output: Tensor, target: Tensor) -> Tensor:
    """A loss that ardyn doesn't know."""
    return (output - target).cosh().log().sum()


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sse": lambda x, t: functional.mse_loss(x, t, reduction="sum"),
    "mse": lambda x, t: sum(
        (functional.mse_loss(a, b) for a, b in zip(x, t, strict=True)), x.new_zeros(())
    ),
    "cross_entropy": lambda x, t: -x.log_softmax(1)[torch.arange(len(x)), t].sum(),
    "log_cosh": log_cosh,
}
"""The losses, written independently of ardyn."""


def array(x: Any) -> NDArray[np.float64]:
    """As a numpy array, from wherever it is."""
    return np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Problem:
    """A network and one batch."""

    model: nn.Sequential
    inputs: Tensor
    targets: Tensor
    loss: str
    activation: str

    @property
    def batch(self) -> dict[str, Any]:
        """The arguments that every surface of ardyn takes."""
        loss = log_cosh if self.loss == "log_cosh" else self.loss
        return {
            "model": self.model,
            "inputs": self.inputs,
            "targets": self.targets,
            "loss": loss,
        }

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(name for name, m in self.model.named_children() if isinstance(m, nn.Linear))

    @property
    def layers(self) -> list[nn.Linear]:
        return [m for m in self.model if isinstance(m, nn.Linear)]

    def relaxation(self, **settings: Any) -> ardyn.Relaxation:
        return ardyn.Relaxation(**(self.batch | settings))

    def samples(self, which: slice) -> "Problem":
        """The same network with part of the batch."""
        inputs, targets = self.inputs[which], self.targets[which]
        return Problem(self.model, inputs, targets, self.loss, self.activation)

    def unit_gradients(self) -> dict[str, Tensor]:
        """∂𝓛/∂x̄ of each unit, by plain autograd, module by module."""
        x, values = self.inputs, {}
        for name, module in self.model.named_children():
            x = module(x)
            if isinstance(module, nn.Linear):
                unit = name
            values[unit] = x
        gradients = torch.autograd.grad(LOSSES[self.loss](x, self.targets), list(values.values()))
        return dict(zip(values, gradients, strict=True))

    def parameter_gradients(self) -> dict[str, Tensor]:
        """∂𝓛/∂θ of each parameter, by ``loss.backward()`` on a copy of the network."""
        loss = LOSSES[self.loss]
        return backprop(self.model, lambda model: loss(model(self.inputs), self.targets))


def problem(
    sizes: Sequence[int] = (6, 5, 4, 3),
    activation: str = "tanh",
    loss: str = "sse",
    batch: int = 4,
    seed: int = 0,
    std: float = 0.6,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """A random network with biases that matter, and a random batch."""
    g = generator(seed)
    model = ardyn.mlp(sizes, activation, std=std, generator=g, dtype=torch.float64)
    fill_biases(model, g)
    inputs = torch.randn(batch, sizes[0], generator=g, dtype=torch.float64)
    targets = torch.randn(batch, sizes[-1], generator=g, dtype=torch.float64)
    if loss == "cross_entropy":
        classes = torch.randint(sizes[-1], (batch,), generator=g)
        targets = classes.to(DEVICE)
    else:
        targets = targets.to(DEVICE, dtype)
    return Problem(model.to(DEVICE, dtype), inputs.to(DEVICE, dtype), targets, loss, activation)


def chain(layers: int, activation: str = "tanh", **settings: Any) -> Problem:
    """A chain of that many layers, through which gradients neither vanish nor explode."""
    sizes = CHAINS.get(layers, (4, *[3] * (layers - 1), 2))
    return problem(sizes, activation, std=1 / sizes[1] ** 0.5, **settings)


def feedback_of(case: Problem, rule: ardyn.Rule, seed: int) -> dict[str, Tensor] | None:
    """Random ψ, where the rule wants feedback weights."""
    if rule.feedback == "transpose":
        return None
    return ardyn.random_feedback(case.model, std=0.5, generator=generator(seed))


def fill_biases(model: nn.Module, g: torch.Generator) -> None:
    """Biases of order one: f′ at xW and at xW + b must differ."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.copy_(0.7 * torch.randn(p.shape, generator=g, dtype=torch.float64))


def backprop(model: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    """Gradients that ``loss.backward()`` leaves on the parameters that are not frozen."""
    model = copy.deepcopy(model)
    model.zero_grad()
    loss_of(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gradients_on(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def difference(x: Any, truth: Any, beside: Any = 0.0) -> float:
    """max |x − truth|, relative to the largest entry of the truth or of what stands beside it."""
    x, truth = array(x), array(truth)
    assert x.shape == truth.shape
    scale = max(np.abs(truth).max(), np.abs(array(beside)).max()) or 1.0
    return float(np.abs(x - truth).max() / scale)


def assert_same(
    x: Mapping[str, Any],
    truth: Mapping[str, Any],
    tolerance: float,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Every named array agrees with the truth, relative to the largest entry of each.

    With gradients ``beside``, relative to them where they are larger: an activity on its way up
    from zero is small.
    """
    assert set(x) == set(truth)
    differences = {
        name: difference(x[name], truth[name], 0.0 if beside is None else beside[name])
        for name in truth
    }
    # NaN compares false, so it must not pass for agreement.
    assert all(d <= tolerance for d in differences.values()), differences


def states(trajectory: ardyn.Trajectory) -> dict[str, Tensor]:
    return {unit: trajectory[unit] for unit in trajectory.units}


@st.composite
def random_chains(draw: st.DrawFn) -> tuple[Problem, list[float]]:
    """A chain of random sizes, batch and seed, with a τ per layer."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=3, max_size=6))
    activation = draw(st.sampled_from(ACTIVATIONS))
    seed, batch = draw(st.integers(0, 10**6)), draw(st.integers(1, 4))
    tau = draw(st.lists(st.floats(0.3, 3.0), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    return problem(sizes, activation, batch=batch, seed=seed), tau


random_times = st.lists(
    st.floats(0.0, 6.0).map(lambda t: round(t, 3)), min_size=1, max_size=6, unique=True
).map(sorted)
