"""Shared by all solvers: the system and solver interfaces, recorded times and the step grid."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ardyn.errors import InputError
from ardyn.state import State

MAX_STEPS = 1e7
"""Maximum number of fixed steps; more suggest an error in the step or in the times."""


class System(Protocol):
    """The interface of the dynamics that a solver uses."""

    @property
    def since(self) -> float:
        """The time at which it starts, for error messages; a solver's own time begins at 0."""
        ...

    @property
    def time_constants(self) -> Mapping[str, float]:
        """τ of every leak, by name; the shortest bounds the step of an explicit method."""
        ...

    def initial(self) -> State: ...
    def __call__(self, t: Tensor | float, state: State) -> State: ...


@runtime_checkable
class Layered(System, Protocol):
    """What Sweep also needs: one update of all units in sequence, from the output down."""

    def sweep(self, state: State, step: float) -> State: ...


@runtime_checkable
class Cascade(System, Protocol):
    """What Collocation also needs: units that are driven by those above them alone."""

    @property
    def recurrence(self) -> str:
        """The condition for that which does not hold, for a message; "" if all hold."""
        ...

    def cascade(self, start: State, relax: Callable[[Tensor, Tensor, float], Tensor]) -> State:
        """All variables over time, [point, batch, …] each, from the output down.

        ``relax(start, drive, tau)`` solves τ dx/dt = −x + drive(t) from ``start``, [batch, …].
        """
        ...


@runtime_checkable
class Separable(System, Protocol):
    """What an adaptive method needs to give every sample its own steps.

    A system with ``is_autonomous = True``, whose rates do not depend on time, is evaluated for all
    samples at once; others are solved sample by sample.
    """

    def samples(self, which: slice) -> System: ...


@runtime_checkable
class InPlace(System, Protocol):
    """What spares a stepper the copy of each rate."""

    def write_rate(self, t: float, state: State, rate: State) -> None:
        """d(state)/dt, written into the tensors of ``rate``."""


class Stop(Protocol):
    """A condition after which a solver keeps the state constant, such as ``SteadyState``."""

    def is_reached(self, state: State, rate: State) -> Tensor: ...


@dataclass(frozen=True)
class Solution:
    """What a solver returns."""

    record: State
    """The state at the recorded times, each tensor [time, batch, …]."""
    evaluations: int = 0
    """Evaluations of the right-hand side (for Sweep the sweeps, for a closed form 0)."""
    steady_at: Tensor | None = None
    """Time from which each sample was steady, NaN where it never was, [batch]; None without a stop
    condition."""
    is_exact: bool = False
    """Whether it is the closed form of the ODE, which gives convergence times as roots."""


class Solver(Protocol):
    """The interface of a solver; a class of your own with these two methods works as well.

    ``ClosedForm`` also takes a one-step scheme that has ``step``, h; ``step_matrix(M, h)``, the
    matrix by which one step multiplies y of dy/dt = M y; and ``growth(h/τ)``, the factor by which
    one step multiplies |x| of the leak dx/dt = −x/τ.
    """

    def check(self, system: Any, stop: Stop | None = None) -> None:
        """Raise InputError if this system cannot be solved this way; does not integrate."""

    def solve(self, system: Any, times: Tensor, stop: Stop | None = None) -> Solution:
        """Solve from t = 0, and record the state at ``times``, [time], float64, increasing."""


def check_is_solver(solver: object) -> None:
    """Raise InputError unless it has the interface of a ``Solver``."""
    if isinstance(solver, type) or not (hasattr(solver, "solve") and hasattr(solver, "check")):
        raise InputError(f"{solver!r} is not a solver; pass one such as Adaptive('dopri5')")


def samples_in(activities: Iterable[Tensor]) -> int:
    """The batch size of the activities; 1 if they differ in it."""
    sizes = {len(x) if x.ndim else 1 for x in activities}
    return sizes.pop() if len(sizes) == 1 else 1


def grid(end: float, step: float) -> Tensor:
    """0, h, 2h, …, ``end``, float64; the last step is shorter where ``end`` is no multiple of h.

    Raises:
        InputError: more than ``MAX_STEPS`` steps.
    """
    if end / step > MAX_STEPS:
        raise InputError(
            f"relaxing to t = {end:g} takes {end / step:.2g} steps of {step:g}, more than the "
            f"maximum of {MAX_STEPS:g}; use a longer step, or ClosedForm()"
        )
    whole = math.floor(end / step * (1 + 1e-12) + 1e-9)
    nodes = step * torch.arange(whole + 1, dtype=torch.float64)
    if end - nodes[-1] > 1e-9 * step:
        return torch.cat([nodes, nodes.new_tensor([end])])
    nodes[-1] = end
    return nodes


def as_times(times: Sequence[float] | Tensor) -> Tensor:
    """The recorded times as a float64 vector.

    Raises:
        InputError: times that are empty, not finite, negative or not increasing.
    """
    try:
        t = [float(each) for each in (times.tolist() if hasattr(times, "tolist") else times)]
    except (TypeError, ValueError):
        raise InputError(f"times must be a list of numbers, got {times!r}; pass [10.0]") from None
    if not t:
        raise InputError("times are empty; pass at least one, such as [10.0]")
    for each in t:
        if not math.isfinite(each):
            raise InputError(f"times must be finite, got {each}; remove it")
    if t[0] < 0:
        raise InputError(f"times must not be negative, got {t[0]}; begin at 0")
    for before, after in itertools.pairwise(t):
        if before >= after:
            raise InputError(f"times must increase, but {after} follows {before}; sort them")
    return torch.tensor(t, dtype=torch.float64)
