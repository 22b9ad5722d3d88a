"""The sequential top-down scheme of the authors' code."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ardyn.errors import InputError, check_positive
from ardyn.solvers.monitor import StepMonitor
from ardyn.solvers.stability import check_stable
from ardyn.solvers.system import Layered, Solution, Stop, System, grid
from ardyn.state import State


@dataclass(frozen=True)
class Sweep:
    """The authors' scheme: sweeps from the output down, each unit driven by the updated one above.

    x^l ← x^l + (h/τ_l) (−x^l + pull_l(x^{l+1} just updated)).

    Args:
        step: h, in units of time; the last one is shortened to end at the last recorded time.
    """

    step: float = 0.1
    name: ClassVar[str] = "the sweep"
    """Name of the scheme in messages."""

    def __post_init__(self) -> None:
        check_positive("the step", self.step, such_as=0.1)

    def check(self, system: System, stop: Stop | None = None) -> None:
        """Raise InputError for a system that cannot be swept, or a step that is unstable."""
        if not isinstance(system, Layered):
            raise InputError(
                f"{self} needs a system that can be swept unit by unit, got "
                f"{type(system).__name__}; use Fixed('euler', step={self.step:g})"
            )
        check_stable(self, system.time_constants)

    def step_matrix(self, M: Tensor, step: float) -> Tensor:
        """(I − U)⁻¹ D with D = diag(1 + h M_ll), U = h M_{l,l+1}: one sweep of dy/dt = M y.

        This is y_new = D y + U y_new, as M is upper bidiagonal and each unit reads the updated one
        above it.
        """
        one = torch.eye(len(M), dtype=M.dtype)
        D, U = one + step * M.diag().diag(), step * M.triu(1)
        swept: Tensor = torch.linalg.solve_triangular(one - U, D, upper=True)
        return swept

    def growth(self, step_over_tau: float) -> float:
        """|1 − h/τ|: the factor by which one sweep multiplies |x| of the leak dx/dt = −x/τ."""
        return abs(1 - step_over_tau)

    def solve(self, system: Layered, times: Tensor, stop: Stop | None = None) -> Solution:
        """Sweep from t = 0, recording at ``times``, linearly interpolated between sweeps."""
        monitor = StepMonitor(system, stop, "sweep")
        state = system.initial()
        record = state.with_tensors([x.new_empty(len(times), *x.shape) for x in state.tensors()])
        nodes = grid(float(times[-1]), self.step)
        due = torch.searchsorted(times, nodes).tolist()
        for k, (start, end) in enumerate(itertools.pairwise(nodes.tolist())):
            monitor.callback_step(start, state.tensors())
            last = state
            if not monitor.is_held:
                state = system.sweep(last, end - start)
                monitor.evaluations += 1
            for i in range(due[k], due[k + 1]):
                _write(record, i, last, state, (float(times[i]) - start) / (end - start))
        monitor.callback_step(float(times[-1]), state.tensors())
        _write(record, len(times) - 1, state, state, 1.0)
        return Solution(record, monitor.evaluations, monitor.steady_at)


def _write(record: State, i: int, before: State, after: State, share: float) -> None:
    """Write record ``i``, the state that lies at ``share`` between two states."""
    for kept, x, y in zip(record.tensors(), before.tensors(), after.tensors(), strict=True):
        torch.lerp(x, y, share, out=kept[i])
