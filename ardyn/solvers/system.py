"""What every solver shares: the system it solves, its surface, recorded times and the step grid."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ardyn.errors import InputError
from ardyn.state import State

MOST_STEPS = 1e7
"""Steps that a fixed-step solver takes at most: more come of a mistake in the step or the times."""


class System(Protocol):
    """What a solver needs of the dynamics."""

    @property
    def since(self) -> float:
        """When it starts, for error messages; a solver's own time begins at 0."""
        ...

    @property
    def time_constants(self) -> Mapping[str, float]:
        """τ of every leak, by the name of what leaks: they bound the step of an explicit method."""
        ...

    def initial(self) -> State: ...
    def __call__(self, t: Tensor | float, state: State) -> State: ...


@runtime_checkable
class Layered(System, Protocol):
    """What Sweep needs besides: one pass through the units, one after another."""

    def sweep(self, state: State, step: float) -> State: ...


@runtime_checkable
class Separable(System, Protocol):
    """What an adaptive method needs to solve the samples one by one."""

    def samples(self, which: slice) -> System: ...


@runtime_checkable
class InPlace(System, Protocol):
    """What spares a stepper the copy of each rate."""

    def write_rate(self, t: float, state: State, rate: State) -> None:
        """d(state)/dt, written into the tensors of ``rate``."""


class Stop(Protocol):
    """When a solver may stop stepping and hold the state, such as ``SteadyState``."""

    def is_reached(self, state: State, rate: State) -> Tensor: ...


@dataclass(frozen=True)
class Solution:
    """What a solver returns."""

    record: State
    """The state at the recorded times, each tensor [time, batch, …]."""
    evaluations: int = 0
    """Evaluations of the right-hand side (sweeps, for Sweep; none for a closed form)."""
    steady_at: Tensor | None = None
    """Time at which each sample was first found steady, NaN where it never was, [batch]; None
    where no stopping was asked for."""
    is_exact: bool = False
    """Whether it is the closed form of the ODE, for which convergence times are roots."""


class Solver(Protocol):
    """What solves a System; a class of your own with these two methods works as well.

    A scheme of one step h that also has ``step``, ``step_matrix(M, h)``, what a step does to
    dy/dt = M y, and ``growth(h/τ)``, the factor by which a step multiplies a decaying activity,
    can be given to ``ClosedForm``.
    """

    def check(self, system: Any, stop: Stop | None = None) -> None:
        """Raise InputError if this system cannot be solved so; does no work."""

    def solve(self, system: Any, times: Tensor, stop: Stop | None = None) -> Solution:
        """Solve from t = 0, and record the state at ``times``, [time], float64, increasing."""


def check_is_solver(solver: object) -> None:
    """Raise InputError unless it has the surface of a ``Solver``."""
    if isinstance(solver, type) or not (hasattr(solver, "solve") and hasattr(solver, "check")):
        raise InputError(f"{solver!r} is no solver; pass one such as Adaptive('dopri5')")


def samples_in(activities: Iterable[Tensor]) -> int:
    """The batch size that activities have in common; 1 if there is none."""
    sizes = {len(x) if x.ndim else 1 for x in activities}
    return sizes.pop() if len(sizes) == 1 else 1


def grid(end: float, step: float) -> Tensor:
    """0, h, 2h, … up to ``end``, which closes the grid, with a shorter last step if need be.

    Raises:
        InputError: more than ``MOST_STEPS`` of them.
    """
    if end / step > MOST_STEPS:
        raise InputError(
            f"relaxing to t = {end:g} takes {end / step:.2g} steps of {step:g}, and {MOST_STEPS:g} "
            f"are the most; use a longer step, or ClosedForm()"
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
            raise InputError(f"times must be finite, got {each}; drop it")
    if t[0] < 0:
        raise InputError(f"times start at {t[0]}, before the relaxation does; begin at 0")
    for before, after in itertools.pairwise(t):
        if before >= after:
            raise InputError(f"times must increase, but {after} follows {before}; sort them")
    return torch.tensor(t, dtype=torch.float64)
