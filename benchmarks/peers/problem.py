"""The relaxation of the paper's MLP as plain arrays, and what is solved of it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import ardyn

UNITS = ("fc1", "fc2", "fc3", "fc4")
SIZES = (300, 300, 100, 10)
BATCH, END = 64, 10.0
ADAPTIVE = ("dopri5", "bosh3", "dopri8")
RTOL, ATOL = ardyn.Adaptive().rtol, ardyn.Adaptive().atol
STEP = 0.1
"""h of the methods of constant step."""


@dataclass(frozen=True)
class Problem:
    """dx_l/dt = (x_{l+1} ⊙ f′_{l+1}) W_l − x_l, of the output drive − x_L; float32, τ = 1.

    A state is one array, [batch, unit], of all layers side by side.
    """

    relaxation: ardyn.Relaxation
    """The same as ardyn has it."""
    start: Tensor
    W: tuple[Tensor, ...]
    """W_l, [n_{l+1}, n_l], of the three connections between hidden layers and output."""
    slopes: tuple[Tensor, ...]
    """f′_{l+1} at the forward pass, [batch, n_{l+1}], of the same connections."""
    drive: Tensor
    exact: NDArray[np.float64]
    """The state at the end, by the closed form in float64."""

    def error(self, final: NDArray[np.float32]) -> float:
        """‖x − exact‖ / ‖exact‖ over all layers and samples."""
        return float(np.linalg.norm(final - self.exact) / np.linalg.norm(self.exact))


@dataclass(frozen=True)
class Task:
    """What all libraries solve in the same way."""

    method: str
    is_recorded: bool = False
    """At 201 times rather than at the last alone."""
    is_per_sample: bool = False
    """Every sample with its own steps, rather than one step and error norm for the batch."""

    @property
    def is_adaptive(self) -> bool:
        """Whether the method chooses its steps."""
        return self.method in ADAPTIVE

    @property
    def times(self) -> NDArray[np.float64]:
        """The recorded times, [time]."""
        return np.linspace(0, END, 201) if self.is_recorded else np.array([END])

    def __str__(self) -> str:
        alone = " per sample" if self.is_per_sample else ""
        return f"{self.method}{alone}{', 201 times' if self.is_recorded else ''}"


TASKS = tuple(
    Task(method, is_recorded, is_per_sample)
    for method, is_per_sample in [
        *((method, False) for method in (*ADAPTIVE, "euler", "midpoint", "rk4")),
        ("dopri5", True),
    ]
    for is_recorded in (False, True)
)


@dataclass(frozen=True)
class Outcome:
    """What a solve gave."""

    final: NDArray[np.float32]
    """The state at the end, [batch, unit]."""
    evaluations: int
    """How often the right-hand side of the whole batch was evaluated."""


@dataclass(frozen=True)
class Solve:
    """A task as one library solves it."""

    run: Callable[[], Any]
    """What is timed; it returns when all is computed."""
    outcome: Callable[[], Outcome]
    """Runs it once more, and tells what it gave."""


class RightHandSide(torch.nn.Module):
    """The equation of ``Problem`` in PyTorch, for the libraries that ask for f(t, y)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.W, self.slopes, self.drive = problem.W, problem.slopes, problem.drive

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, [batch, unit]."""
        x = _layers(y)
        rates = [
            (above * slope) @ W - here
            for here, above, slope, W in zip(x[:-1], x[1:], self.slopes, self.W, strict=True)
        ]
        return torch.cat([*rates, self.drive - x[-1]], 1)


def _layers(y: Tensor) -> tuple[Tensor, ...]:
    return torch.split(y, list(SIZES), -1)


def norm(y: Tensor) -> Tensor:
    """ardyn's error norm of a state: the largest root mean square of a layer."""
    return torch.stack([x.square().mean().sqrt() for x in _layers(y)]).amax()


def norms(y: Tensor) -> Tensor:
    """The same of every sample, [batch]."""
    return torch.stack([x.square().mean(1).sqrt() for x in _layers(y)]).amax(0)


def paper_mlp() -> Problem:
    """784-300-300-100-10, tanh, sum of squared errors, with random inputs and targets."""
    generator = torch.Generator().manual_seed(0)
    model = ardyn.mlp([784, *SIZES], generator=generator)
    inputs = torch.rand(BATCH, 784, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    targets = functional.one_hot(labels, 10).float()
    sim = ardyn.Relaxation(model, inputs, targets)
    passed = sim.dynamics.forward_pass
    x = [passed.activity[name].detach() for name in UNITS]
    # The output is linear: its slope is 1.
    slopes = [1 - h**2 for h in x[1:-1]] + [torch.ones_like(x[-1])]
    W = [passed.parameters[f"{name}.weight"].detach().clone() for name in UNITS[1:]]
    return Problem(
        sim,
        torch.cat(x, 1),
        tuple(W),
        tuple(slopes),
        sim.dynamics.drive[UNITS[-1]].detach(),
        _exact(model, inputs, targets),
    )


def final_state(trajectory: ardyn.Trajectory) -> Tensor:
    """The last recorded state, [batch, unit]."""
    return torch.cat([trajectory[name][-1] for name in UNITS], 1)


def _exact(model: torch.nn.Module, inputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
    wide = ardyn.Relaxation(copy.deepcopy(model).double(), inputs.double(), targets.double())
    exact: NDArray[np.float64] = final_state(wide.solve([END], ardyn.ClosedForm())).numpy()
    return exact
