"""Monitoring of a solver's steps: divergence, steady states, the number of evaluations."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ardyn.errors import DivergenceError, check_positive
from ardyn.solvers.system import Stop, System, samples_in
from ardyn.state import State


@dataclass(frozen=True)
class SteadyState:
    """Stop once ‖dx/dt‖ ≤ tolerance · ‖x‖ for every unit of every sample, or at the last time.

    Checked at the start of each step, at the cost of one evaluation; once steady, the state is kept
    constant. The norms are those of each sample, so that every one of them has to be steady; where
    units differ in their batch sizes, norms are taken over the whole batch.

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


def _norm(x: Tensor, samples: int) -> Tensor:
    # In double precision, in which squares of small activities are not zero.
    wide = torch.promote_types(x.dtype, torch.float64)
    norm: Tensor = torch.linalg.vector_norm(x.reshape(samples, -1), dim=1, dtype=wide)
    return norm


class StepMonitor:
    """The right-hand side, instrumented.

    Counts evaluations, checks at each step that the state is finite, and keeps a steady state
    constant.
    """

    def __init__(self, system: System, stop: Stop | None, method: str) -> None:
        self.method = method
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
        """Called at the start of each step; torchdiffeq looks for a method of this name."""
        if not math.isfinite(float(sum(x.sum(dtype=torch.float64) for x in tensors))):
            raise self.divergence(self.names.with_tensors(tensors), f"by {self.clock(float(t))}")
        self.last_time, self.last_state = float(t), self.names.with_tensors(tensors)
        if self.stop is None or self.steady_at is None or self.is_held:
            return
        state = self.names.with_tensors(tensors)
        self.is_steady(float(t), state, self.names.with_tensors(self(t, tensors)))

    def is_steady(self, t: float, state: State, rate: State) -> bool:
        """Whether every sample is at rest; from then on the state is held."""
        assert self.stop is not None
        assert self.steady_at is not None
        steady = self.stop.is_reached(state, rate)
        self.steady_at[steady & self.steady_at.isnan()] = t
        self.steady_at[~steady] = torch.nan
        self.is_held = bool(steady.all())
        return self.is_held

    def check_finite(self, t: float, number: float, state: State) -> None:
        """Raise DivergenceError unless a state is finite, as a number made of all of it tells.

        Args:
            number: not finite if the state isn't; a sum may overflow where the state is finite.
        """
        if not (math.isfinite(number) or all(x.isfinite().all() for x in state.tensors())):
            raise self.divergence(state, f"by {self.clock(t)}")

    def clock(self, t: float) -> str:
        """A solver's time, converted to the time of the relaxation."""
        return f"t = {self.system.since + t:.4g}"

    def stuck(self, reason: str) -> DivergenceError:
        """The error for an adaptive method that fails: at what time, and what changes fastest."""
        rate = self.system(self.last_time, self.last_state).named()
        fastest = {
            name: float(dx.abs().max().nan_to_num(math.inf))
            for name, dx in rate.items()
            if dx.numel()
        }
        name = max(fastest, key=lambda each: fastest[each])
        dtype = str(rate[name].dtype).removeprefix("torch.")
        limit = f"the step that the tolerances need is below the resolution of {dtype}"
        cure = "use a larger rtol and atol, or float64"
        if "max_num_steps" in reason:
            limit = "it took max_num_steps between two recorded times"
            cure = "raise max_num_steps, or use a larger rtol and atol"
        return DivergenceError(
            f"'{self.method}' cannot go beyond {self.clock(self.last_time)}, where {name} changes "
            f"at a rate of {fastest[name]:.3g}: {limit}; {cure}"
        )

    def divergence(self, state: State, when: str) -> DivergenceError:
        """The error for a solution that is no longer finite: at what time, and in which unit."""
        for unit, x in state.activity.items():
            bad = ~torch.isfinite(x)
            if bad.any():
                axis = x.ndim - self.names.activity[unit].ndim
                of = f" of sample {int(bad.nonzero()[0, axis])}" if axis < x.ndim else ""
                return DivergenceError(
                    f"the relaxation became non-finite {when}, first seen in unit '{unit}'"
                    f"{of}; use a shorter step, or an adaptive method"
                )
        for name, x in state.named().items():
            if not torch.isfinite(x).all():
                return DivergenceError(
                    f"{name} became non-finite {when}; use a shorter step, an adaptive method, or "
                    f"a longer time constant"
                )
        return DivergenceError(
            f"the relaxation overflowed {when}; scale the inputs, the weights or the loss down"
        )
