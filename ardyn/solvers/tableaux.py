"""Explicit Runge–Kutta methods: the tableaux of all that the installed torchdiffeq has.

    k_i = f(t + c_i h, y + h Σ_j a_ij k_j),   y(t + h) = y + h Σ_i b_i k_i

Letters as in Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, II.1.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """Coefficients of one method of s stages."""

    order: int
    c: Row
    """Nodes, [s]."""
    a: tuple[Row, ...]
    """Stage weights: i of them in row i."""
    b: Row
    """Weights of the solution, [s]."""
    error: Row = ()
    """Weights of the error estimate, b − b̂, [s]; empty for a method of constant step."""
    middle: Row = ()
    """Weights of y(t + h/2), [s], for the interpolant."""

    @property
    def ends_with_solution(self) -> bool:
        """Whether the last stage is evaluated at y(t + h), as in Dormand and Prince's methods."""
        return self.b[-1] == 0 and self.b[:-1] == self.a[-1]

    def step_matrix(self, M: Tensor, step: float) -> Tensor:
        """R(hM): what one step does to dy/dt = M y, R being the stability polynomial; [n, n]."""
        one = torch.eye(len(M), dtype=M.dtype, device=M.device)
        k: list[Tensor] = []
        for row in self.a:
            k.append(M @ (one + step * _sum(row, k)))
        return one + step * _sum(self.b, k)


def _sum(weights: Row, k: list[Tensor]) -> Tensor | float:
    return sum((w * each for w, each in zip(weights, k, strict=True)), start=0.0)


@functools.cache
def tableau_of(method: str) -> Tableau | None:
    """The tableau of a torchdiffeq method; None for one that is no explicit Runge–Kutta method."""
    from torchdiffeq._impl.fixed_adams import AdamsBashforthMoulton
    from torchdiffeq._impl.odeint import SOLVERS  # the only list of methods torchdiffeq keeps
    from torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver
    from torchdiffeq._impl.solvers import FixedGridODESolver

    kind = SOLVERS[method]
    if issubclass(kind, RKAdaptiveStepsizeODESolver):
        t = kind.tableau
        return Tableau(
            kind.order,
            (0.0, *t.alpha.tolist()),
            ((), *(tuple(row.tolist()) for row in t.beta)),
            tuple(t.c_sol.tolist()),
            tuple(t.c_error.tolist()),
            tuple(kind.mid.tolist()),
        )
    if issubclass(kind, FixedGridODESolver) and not issubclass(kind, AdamsBashforthMoulton):
        return _probed(kind)
    return None


def _probed(kind: Any) -> Tableau:
    """The tableau of a method of constant step, which torchdiffeq has as code alone.

    With h = 1, y = 0 and unit vectors for k_1, k_2, …, stage i is evaluated at its row of a, and
    the step is b.
    """
    most = 16
    nodes: list[float] = []
    rows: list[Tensor] = []

    def f(t: Tensor, y: Tensor, perturb: object = None) -> Tensor:
        nodes.append(float(t))
        rows.append(y)
        return torch.eye(most, dtype=torch.float64)[len(rows) - 1]

    zero = torch.zeros(most, dtype=torch.float64)
    solver = kind(f, zero, atol=0.0)
    start, end = torch.zeros(2, dtype=torch.float64).unbind()
    end = start + 1
    b, _ = solver._step_func(f, start, end - start, end, zero)
    a = tuple(tuple(row[:i].tolist()) for i, row in enumerate(rows))
    return Tableau(kind.order, tuple(nodes), a, tuple(b[: len(rows)].tolist()))
