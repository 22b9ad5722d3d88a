"""What every solver shares: recorded times, the step grid, the watch over each step, the result.

Knows no network: only that there is a System with a state and a rate of change.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ardyn.errors import DivergenceError, InputError, check_positive
from ardyn.state import State

MOST_STEPS = 1e7
"""Steps that a fixed-step solver takes at most: more are a slip of the pen."""


class System(Protocol):
    """What a solver needs of the dynamics."""

    @property
    def since(self) -> float:
        """When it starts, for error messages; a solver's own time begins at 0."""
        ...

    def initial(self) -> State: ...
    def __call__(self, t: Tensor | float, state: State) -> State: ...


class Layered(System, Protocol):
    """What Sweep needs besides: one pass through the units, one after another."""

    def sweep(self, state: State, step: float) -> State: ...


@runtime_checkable
class Separable(System, Protocol):
    """What an adaptive method needs to solve the samples one by one."""

    def samples(self, which: slice) -> System: ...


@dataclass(frozen=True)
class SteadyState:
    """Stop once ‖dx/dt‖ ≤ tolerance · ‖x‖ for every unit of every sample, or at the last time.

    Checked at the start of each step, at the cost of one evaluation; from then on the state is
    held. Samples are checked one by one, so that a slow one cannot hide behind the rest; where
    units have no batch size in common, all samples as one.

    Args:
        tolerance: relative rate, in 1/time.
    """

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        check_positive("the steady-state tolerance", self.tolerance, such_as=1e-6)

    def is_reached(self, state: State, rate: State) -> Tensor:
        """Whether each sample is steady, [batch]."""
        fast = ((each.activity, each.trace) for each in (state, rate))
        pairs = list(zip(*([*x.values(), *z.values()] for x, z in fast), strict=True))
        size = samples_in(x for x, _ in pairs)
        steady = [_norm(dx, size) <= self.tolerance * _norm(x, size) for x, dx in pairs]
        return torch.stack(steady).all(0)


def samples_in(activities: Iterable[Tensor]) -> int:
    """The batch size that activities have in common; 1 if there is none."""
    sizes = {len(x) if x.ndim else 1 for x in activities}
    return sizes.pop() if len(sizes) == 1 else 1


def _norm(x: Tensor, samples: int) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x.reshape(samples, -1), dim=1)
    return norm


@dataclass(frozen=True)
class Solution:
    """What a solver hands back."""

    record: State
    """The state at the recorded times, each tensor [time, batch, …]."""
    evaluations: int
    """Evaluations of the right-hand side (sweeps, for Sweep)."""
    steady_at: Tensor | None = None
    """Time at which each sample was first found steady, NaN where it never was, [batch]; None
    where nobody asked."""


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


class Watch:
    """The right-hand side as a solver calls it: counts, checks each step, holds a steady state."""

    def __init__(self, system: System, stop: SteadyState | None) -> None:
        self.system = system
        self.stop = stop
        self.names = system.initial()
        self.evaluations = 0
        self.is_held = False
        self.last_time, self.last_state = 0.0, self.names
        self.steady_at = None
        if stop is not None:
            fast = [*self.names.activity.values(), *self.names.trace.values()]
            count = samples_in(fast)
            self.steady_at = fast[0].new_full((count,), torch.nan, dtype=torch.float64)

    def __call__(self, t: Tensor | float, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.is_held:
            return tuple(torch.zeros_like(x) for x in tensors)
        self.evaluations += 1
        return self.system(t, self.names.with_tensors(tensors)).tensors()

    def callback_step(
        self, t: Tensor | float, tensors: tuple[Tensor, ...], dt: object = None
    ) -> None:
        """Called at the start of each step; torchdiffeq knows it by this name."""
        if not math.isfinite(float(sum(x.sum() for x in tensors))):
            raise self.divergence(self.names.with_tensors(tensors), f"by {self.clock(float(t))}")
        self.last_time, self.last_state = float(t), self.names.with_tensors(tensors)
        if self.stop is None or self.steady_at is None or self.is_held:
            return
        state = self.names.with_tensors(tensors)
        steady = self.stop.is_reached(state, self.names.with_tensors(self(t, tensors)))
        self.steady_at[steady & self.steady_at.isnan()] = float(t)
        self.steady_at[~steady] = torch.nan
        self.is_held = bool(steady.all())

    def clock(self, t: float) -> str:
        """A solver's time in the time of the relaxation."""
        return f"t = {self.system.since + t:.4g}"

    def stuck(self, method: str, reason: str) -> DivergenceError:
        """The error for an adaptive method that gave up: when, and where it moves fastest."""
        rate = self.system(self.last_time, self.last_state).named()
        fastest = {name: float(dx.abs().max().nan_to_num(math.inf)) for name, dx in rate.items()}
        name = max(fastest, key=lambda each: fastest[each])
        dtype = str(rate[name].dtype).removeprefix("torch.")
        limit = f"no step that {dtype} resolves keeps the tolerances"
        if "max_num_steps" in reason:
            limit = "it took max_num_steps between two recorded times"
        return DivergenceError(
            f"'{method}' cannot go beyond {self.clock(self.last_time)}, where {name} changes at a "
            f"rate of {fastest[name]:.3g}: {limit}; use a larger rtol and atol, or float64"
        )

    def divergence(self, state: State, when: str) -> DivergenceError:
        """The error that says when and where a solution was lost."""
        for unit, x in state.activity.items():
            bad = ~torch.isfinite(x)
            if bad.any():
                axis = x.ndim - self.names.activity[unit].ndim
                of = f" of sample {int(bad.nonzero()[0, axis])}" if axis < x.ndim else ""
                return DivergenceError(
                    f"the relaxation left the finite numbers {when}, first seen in unit '{unit}'"
                    f"{of}; use a shorter step, or an adaptive method"
                )
        for name, x in state.named().items():
            if not torch.isfinite(x).all():
                return DivergenceError(
                    f"{name} left the finite numbers {when}; use a shorter step, an adaptive "
                    f"method, or a longer time constant"
                )
        return DivergenceError(
            f"the relaxation overflowed {when}; scale the inputs, the weights or the loss down"
        )


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
