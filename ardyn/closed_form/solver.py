"""The relaxation in closed form: exact states of the ODE, and of any one-step scheme for it.

With a frozen or dropped derivative the system is linear: with g its equilibrium, e = x − g, and the
coupling (A e)^l = Σ pull(e of the children), which is nilpotent,

    x^l(t) = g^l + Σ_k P_{l,l+k}(t) (A^k e(0))^l,    e(0) = x(0) − g,

where P is the scheme's propagator. A graph needs a single τ; P is then that of a chain as long as
the longest path, and P_{l,l+k} depends on k alone. One backward sweep gives the states of all
units, and pulls each block back once.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ardyn.closed_form.backward_sweep import (
    Carrier,
    Combination,
    EquilibriumOnly,
    PartialSums,
    Stack,
    StackedActivities,
    backward_sweep,
    broadcastable,
    check_states,
    combined,
    path_time_constants,
)
from ardyn.closed_form.propagator import Scheme, propagator, time_integral, trace_propagator
from ardyn.dynamics.activity import Dynamics
from ardyn.errors import InputError
from ardyn.solvers.stability import check_stable
from ardyn.solvers.system import Solution, Stop, System
from ardyn.state import State


@dataclass(frozen=True)
class ClosedForm:
    """The exact solution of the ODE, or the exact result of stepping it with a scheme.

    Args:
        of: None for the ODE; or a scheme, whose discretisation error is then included: a one-step
            ``Fixed``, a ``Sweep``, or your own with ``step``, ``step_matrix`` and ``growth``.

    Raises:
        InputError: a multistep or adaptive scheme, which has no such closed form.
    """

    of: Scheme = None
    steps: ClassVar[bool] = False
    """Whether it steps through time, which plastic weights need."""

    def __post_init__(self) -> None:
        if self.of is None:
            return
        # A scheme that has no is_one_step, such as Sweep or a user's own, is a one-step scheme.
        if isinstance(self.of, type) or not hasattr(self.of, "step_matrix"):
            raise InputError(
                f"ClosedForm takes a one-step scheme such as Fixed or Sweep, or nothing, got "
                f"{self.of!r}; pass one that has step, step_matrix and growth"
            )
        if not getattr(self.of, "is_one_step", True):
            raise InputError(
                f"ClosedForm needs a one-step scheme, got the multistep "
                f"{getattr(self.of, 'name', 'scheme')}; step it with {self.of!r}"
            )

    def check(self, system: System, stop: Stop | None = None) -> None:
        """Raise InputError for a nonlinear system, a scheme with a trace, an unstable step, a stop.

        The message names a solver to use.
        """
        check_linear(system)
        if getattr(system, "traced", ()) and self.of is not None:
            raise InputError(
                f"ClosedForm({self.of!r}) does not include the activity trace z; step it with "
                f"{self.of!r}, or use ClosedForm()"
            )
        if self.of is not None:
            check_stable(self.of, system.time_constants)
        if stop is not None:
            raise InputError(
                "ClosedForm takes no steps, so that it cannot stop early; drop stop, or read "
                "equilibrium"
            )

    def solve(self, system: Dynamics, times: Tensor, stop: Stop | None = None) -> Solution:
        """States of every unit at ``times``, from one backward sweep."""
        record = State(self.activities(system, times), self.traces(system, times))
        return Solution(record, is_exact=self.of is None)

    def activities(self, dynamics: Dynamics, times: Tensor) -> "StackedActivities":
        """Activities of every relaxing unit at ``times``, from one backward sweep.

        For dynamics that ``check_linear`` accepts.

        Raises:
            DivergenceError: states that exceed the range of the number format.
        """
        network, like = dynamics.forward_pass.network, dynamics.like
        tau, at = path_time_constants(dynamics), tuple(times.tolist())
        carrier: Carrier[Combination]
        if len(at) == 1:
            # One time, as in training: sums on the way down need no stack to combine afterwards.
            start, drive = _final_weights(self.of, tau, at[0], like.dtype, like.device)
            carrier = PartialSums(network, start, drive) if start else EquilibriumOnly()
        else:
            is_small = len(at) * len(tau) ** 2 <= _MAX_CACHED
            find = _weights if is_small else _weights.__wrapped__
            P, powers = find(self.of, tau, at, like.dtype, like.device)
            carrier = Stack(network, lambda unit, x: combined(network, unit, P, x), powers)
        # g alone is what autograd itself computes, so that nonlinear hooks do no harm to it.
        if not isinstance(carrier, EquilibriumOnly):
            check_hooks(dynamics)
        kept = backward_sweep(dynamics, carrier)
        check_states(dynamics, kept)
        return StackedActivities({unit: kept[unit] for unit in dynamics.tau})

    def traces(self, dynamics: Dynamics, times: Tensor) -> dict[str, Tensor]:
        """Activity traces z of the units for which the weight update reads it, [time, batch, …].

        z(t) = s(t) z(0) + (1 − s(t)) g + Σ_k P_z,k(t) A^k e(0), with s(t) = exp(−t / τ_z), as z is
        the low-pass filtered x = g + e.
        """
        if not dynamics.traced or dynamics.tau_trace is None:
            return {}
        tau = path_time_constants(dynamics)
        s = torch.exp(-times / dynamics.tau_trace).to(dynamics.like)
        P = trace_propagator(tau, dynamics.tau_trace, times).to(dynamics.like)
        network = dynamics.forward_pass.network
        kept = backward_sweep(
            dynamics, Stack(network, lambda unit, x: combined(network, unit, P, x, 1 - s))
        )
        # z(0) = x̄ on every unit, even where x starts at zero; [time, 1, …] times [batch, …].
        return {
            unit: torch.addcmul(kept[unit].states(), broadcastable(s, x), x)
            for unit, x in ((u, dynamics.forward_pass.activity[u]) for u in dynamics.traced)
        }


def integral(dynamics: Dynamics, start: float, end: float) -> dict[str, Tensor]:
    """∫ x dt from ``start`` to ``end`` of every relaxing unit, [batch, …], of the ODE itself.

    For dynamics that ``check_linear`` accepts.
    """
    check_hooks(dynamics)
    network, tau = dynamics.forward_pass.network, path_time_constants(dynamics)
    # Linear in the stack as the states are: g enters with ∫ dt, A^k e(0) with ∫ P dt. The integral
    # takes the place of a single time, [1, unit, unit].
    P = time_integral(tau, start, end).to(dynamics.like)[None]
    kept = backward_sweep(
        dynamics, Stack(network, lambda unit, x: combined(network, unit, P, x, end - start))
    )
    return {unit: kept[unit].states()[0] for unit in dynamics.tau}


def check_linear(system: System) -> None:
    """Raise InputError where there is no closed form; the message names a solver to use."""
    needs = getattr(system, "nonlinearity", "a relaxation that is linear in its activities")
    if needs:
        raise InputError(f"ClosedForm ('exact', the default) needs {needs}; {_CURE}")


def check_hooks(dynamics: Dynamics) -> None:
    """Raise InputError where hooks make pull-backs nonlinear; only the equilibrium is known."""
    if not dynamics.forward_pass.network.is_linear:
        raise InputError(
            f"ClosedForm ('exact') needs linear pull-backs, but a hook on a gradient makes them "
            f"nonlinear; {_CURE}, remove the hook, or relax until all units are at equilibrium"
        )


_CURE = "use an adaptive solver such as Adaptive('dopri5') (--solver dopri5)"


_MAX_CACHED = 2**17
"""Most elements of a propagator that is cached: one megabyte in float64."""


@lru_cache(maxsize=8)
def _weights(
    scheme: Scheme,
    tau: tuple[float, ...],
    times: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, int]:
    """P at each time, [time, unit, unit], and the number of its diagonals that aren't negligible.

    Cached, as it depends on the settings alone, which are the same for every batch of a training.
    """
    P = propagator(scheme, tau, torch.tensor(times, dtype=torch.float64))
    P = _without_rounding(P, dtype)
    # Diagonal k holds the weights of A^k e(0). At late times few of them remain, and the sweep then
    # carries that many entries instead of one for every unit above.
    powers = max((k + 1 for k in range(len(tau)) if P.diagonal(k, 1, 2).any()), default=0)
    return P.to(device, dtype), powers


def _without_rounding(P: Tensor, dtype: torch.dtype) -> Tensor:
    """P with zeros where its entries are negligible."""
    # Relative to g, A^k e(0) may be large: x(0) is a feed-forward activity, g a gradient. Entries
    # are dropped only below eps², so that e(0) may exceed g by 1/eps before a digit is lost.
    return torch.where(P.abs() < torch.finfo(dtype).eps ** 2, 0.0, P)


@lru_cache(maxsize=8)
def _final_weights(
    scheme: Scheme, tau: tuple[float, ...], time: float, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Weights of x(0), by level, and of the drive, for ``PartialSums``; cached, as above.

    Those of x(0) are empty where all of them are negligible.
    """
    P = propagator(scheme, tau, torch.tensor([time], dtype=torch.float64))[0]
    P = _without_rounding(P, dtype)
    # Entry d belongs to the unit d below: column l of P, read upwards from its diagonal. The drive
    # has the rest of the weight of each unit, 1 − Σ_m P_im, see PartialSums.
    start = tuple(P[: level + 1, level].flip(0).to(device, dtype) for level in range(len(tau)))
    return start if P.any() else (), (1 - P.sum(1)).flip(0).to(device, dtype)
