"""Units solved one after another from the output down, each over a long window of time.

Where a unit's drive u depends on the units above it alone, τ dx/dt = −x + u(t) is a linear equation
in a known u. It is solved by collocation at the Chebyshev points of a window: x is the polynomial
that starts where x does and obeys the equation at all other points. The states at all points are
one batch, which each block pulls back once. For smooth activities the error falls faster than any
power of the number of points.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ardyn.errors import InputError, check_positive
from ardyn.solvers.chebyshev import Array, interpolation, last_coefficients, response
from ardyn.solvers.monitor import StepMonitor
from ardyn.solvers.stability import check_tolerance
from ardyn.solvers.system import Cascade, Solution, Stop, System
from ardyn.state import State

_LOWEST, _HIGHEST = 6, 64
"""Degrees of a window's polynomials; above, products with matrices of points dominate the time."""
_MARGIN = 1.1
"""On a predicted degree, as a second attempt at a window costs as much as the first."""


@dataclass(frozen=True)
class Collocation:
    """Chebyshev collocation from the output down, each unit over a long window of time at once.

    For rules with which a unit's drive depends on the units above it alone: any but a current
    relaxation derivative. The network and the time constants may be any. Like ``Adaptive`` it
    treats the batch as one system, and it is for smooth activities, such as those of tanh.

    Args:
        rtol: error allowed in a window, relative to the norm of each unit at its end.
        atol: absolute error allowed in a window, as a root mean square, in the activities' units.

    Raises:
        InputError: a tolerance that is not positive.
    """

    rtol: float = 1e-6
    atol: float = 1e-9
    steps: ClassVar[bool] = False
    """Whether it steps through time, which plastic weights need."""

    def __post_init__(self) -> None:
        check_positive("rtol", self.rtol, such_as=1e-6)
        check_positive("atol", self.atol, such_as=1e-9)

    def check(self, system: System, stop: Stop | None = None) -> None:
        """Raise InputError for a system that cannot be solved from the output down, or a stop."""
        check_tolerance(self.rtol, system.initial().tensors()[0].dtype)
        needs = "a system with a method cascade()"
        if isinstance(system, Cascade):
            needs = system.recurrence
        if stop is not None:
            needs = "no stop, as it does not step through time"
        if needs:
            raise InputError(f"Collocation needs {needs}; use Adaptive('dopri5')")

    def solve(self, system: Cascade, times: Tensor, stop: Stop | None = None) -> Solution:
        """Solve from t = 0, recording at ``times``.

        Raises:
            DivergenceError: a state that is not finite, or tolerances that no window keeps.
        """
        monitor = StepMonitor(system, stop, "collocation")
        start, t, at = monitor.names, 0.0, times.numpy()
        last_time = float(at[-1])
        record = start.with_tensors([x.new_empty(len(at), *x.shape) for x in start.tensors()])
        if at[0] == 0:
            for kept, x in zip(record.tensors(), start.tensors(), strict=True):
                kept[0] = x
        window = self._first(last_time, min(system.time_constants.values()))
        while t < last_time:
            end = t + window.length if window.length < last_time - t else last_time
            if end <= t:
                monitor.last_time, monitor.last_state = t, start
                raise monitor.stuck("no window")
            states = system.cascade(start, window.relax)
            monitor.evaluations += window.degree
            error = self._error(states, window.degree)
            last = start.with_tensors([x[-1] for x in states.tensors()])
            if not math.isfinite(error):
                raise monitor.divergence(last, f"by {monitor.clock(end)}")
            if error <= 1:
                due = slice(*np.searchsorted(at, [t, end], side="right"))
                _write(record, due, states, window.at(at[due] - t))
                start, t = last, end
            window = self._next(window, error, last_time - t)
        return Solution(record, monitor.evaluations)

    def _first(self, duration: float, tau: float) -> "_Window":
        # The coefficients of transients t^n exp(−t/τ) fall as exp(−k² τ/(5h)), nearly (found by
        # trial), so that the degree grows as √h only.
        per_time = 5 * -math.log(self._largest) / tau
        length = min(duration, _HIGHEST**2 / per_time)
        return _Window(_within(math.sqrt(per_time * length)), length)

    def _next(self, last: "_Window", error: float, rest: float) -> "_Window":
        """A longer window after one that kept the tolerances; else a higher degree, or a shorter.

        Args:
            error: of the last window, over the tolerance.
            rest: time that is left.
        """
        found = min(max(self._largest * error, 1e-300), 0.5)
        share = math.sqrt(math.log(self._largest) / math.log(found))
        degree = _MARGIN * last.degree * min(max(share, 0.2), 2.0)
        longer = (_HIGHEST / degree) ** 2
        if error > 1:
            longer = 1.0 if longer > 1 else min(longer, 0.5)
        length = min(last.length * min(max(longer, 0.25), 25.0), rest)
        return _Window(_within(degree * math.sqrt(length / last.length)), length)

    @property
    def _largest(self) -> float:
        """The relative tolerance, as a number with a negative logarithm."""
        return min(self.rtol, 0.5)

    def _error(self, states: State, degree: int) -> float:
        """The last two Chebyshev coefficients of any unit, over the tolerance."""
        errors = []
        for x in states.tensors():
            flat = x.reshape(len(x), -1)
            tail = last_coefficients(degree, x.dtype, x.device) @ flat
            # In double precision, in which squares of small and of large activities are finite.
            rows = torch.cat([tail, flat[-1:]]).double()
            *tails, size = torch.linalg.vector_norm(rows, dim=1).tolist()
            peak = float(torch.linalg.vector_norm(flat, math.inf))
            root = flat.shape[1] ** 0.5
            beyond_rounding = max(tails) - torch.finfo(x.dtype).eps * peak * root
            errors.append(max(beyond_rounding, 0.0) / max(self.rtol * size, self.atol * root))
        return max(errors) if math.isfinite(sum(errors)) else math.nan


@dataclass(frozen=True)
class _Window:
    """Some time of this length, with the Chebyshev points of a polynomial of this degree."""

    degree: int
    length: float

    def relax(self, start: Tensor, drive: Tensor, tau: float) -> Tensor:
        """x of τ dx/dt = −x + drive(t) at all points, from the start, [point, batch, …].

        ``drive`` is [point, batch, …], or constant, [batch, …].
        """
        A = response(self.degree, self.length / tau, start.dtype, start.device)
        points = drive if drive.ndim > start.ndim else drive.expand(len(A), *drive.shape)
        x = torch.outer(A[:, 0], start.flatten())
        return x.addmm_(A[:, 1:], points[1:].reshape(self.degree, -1)).view(-1, *start.shape)

    def at(self, since: Array) -> Array:
        """Weights of the points in the states at these times since its start, [time, point]."""
        return interpolation(self.degree, 2 * since / self.length - 1)


def _within(degree: float) -> int:
    return min(max(math.ceil(degree), _LOWEST), _HIGHEST)


def _write(record: State, due: slice, states: State, weights: Array) -> None:
    """Record sums of the states at the points, with weights [time, point]."""
    for kept, x in zip(record.tensors(), states.tensors(), strict=True):
        rows = torch.from_numpy(weights).to(x)
        torch.mm(rows, x.reshape(len(x), -1), out=kept[due].flatten(1))
