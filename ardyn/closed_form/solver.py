"""The relaxation without stepping: exact states of the ODE, and of any one-step scheme for it.

With a frozen or dropped derivative the system is linear: with g its equilibrium, e = x − g, and the
coupling (A e)^l = Σ pull(e of the children), which is nilpotent,

    x^l(t) = g^l + Σ_k P_{l,l+k}(t) (A^k e(0))^l,    e(0) = x(0) − g,

where P is the scheme's propagator. On a graph this needs one τ; P then is that of a chain as long
as the longest path, and depends on k alone. One backward sweep serves every unit, each block pulled
back once.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ardyn.closed_form.backward_sweep import (
    Carrier,
    Mixture,
    Settled,
    Stack,
    StackedActivities,
    States,
    backward_sweep,
    check_states,
    mixed,
    path_time_constants,
    spread,
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
        of: None for the ODE; a one-step ``Fixed``, a ``Sweep`` or a scheme of your own that has
            ``step``, ``step_matrix`` and ``growth``, for what that scheme would give, its
            discretisation error included.

    Raises:
        InputError: a multistep or adaptive scheme, for which there is no such form.
    """

    of: Scheme = None
    steps: ClassVar[bool] = False
    """Whether it steps through time, so that weights can move meanwhile."""

    def __post_init__(self) -> None:
        if self.of is None:
            return
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
        """Raise InputError for a system that is not linear, a trace that no scheme follows, a stop.

        The message names a solver to use.
        """
        check_linear(system)
        if getattr(system, "remembered", ()) and self.of is not None:
            raise InputError(
                f"ClosedForm({self.of!r}) does not follow the activity trace z; step it with "
                f"{self.of!r}, or use ClosedForm()"
            )
        if self.of is not None:
            check_stable(self.of, system.time_constants)
        if stop is not None:
            raise InputError(
                "ClosedForm doesn't step, so it cannot stop; drop stop, or read equilibrium"
            )

    def solve(self, system: Dynamics, times: Tensor, stop: Stop | None = None) -> Solution:
        """States of every unit at ``times``, from one backward sweep."""
        record = State(self.activities(system, times), self.traces(system, times))
        return Solution(record, is_exact=self.of is None)

    def activities(self, dynamics: Dynamics, times: Tensor) -> "StackedActivities":
        """Activities of every relaxing unit at ``times``, from one backward sweep.

        For dynamics that ``check_linear`` accepts.

        Raises:
            DivergenceError: states beyond what the number format holds.
        """
        network, like = dynamics.forward_pass.network, dynamics.like
        tau, at = path_time_constants(dynamics), tuple(times.tolist())
        carrier: Carrier[Mixture]
        if len(at) == 1:
            shares, tails = _final_weights(self.of, tau, at[0], like.dtype, like.device)
            carrier = States(network, shares, tails) if shares else Settled()
        else:
            small = len(at) * len(tau) ** 2 <= _KEPT_AT_MOST
            find = _weights if small else _weights.__wrapped__
            weights, most = find(self.of, tau, at, like.dtype, like.device)
            carrier = Stack(network, lambda unit, x: mixed(network, unit, weights, x), most)
        if not isinstance(carrier, Settled):
            check_hooks(dynamics)
        kept = backward_sweep(dynamics, carrier)
        check_states(dynamics, kept)
        return StackedActivities({unit: kept[unit] for unit in dynamics.tau})

    def traces(self, dynamics: Dynamics, times: Tensor) -> dict[str, Tensor]:
        """Activity traces z of the units that the weight update remembers, [time, batch, …] each.

        z(t) = s(t) z(0) + (1 − s(t)) g + P_z(t) e(0), s(t) = exp(−t / τ_z): linear, as x is.
        """
        if not dynamics.remembered or dynamics.tau_trace is None:
            return {}
        tau = path_time_constants(dynamics)
        fading = torch.exp(-times / dynamics.tau_trace).to(dynamics.like)
        P = trace_propagator(tau, dynamics.tau_trace, times).to(dynamics.like)
        network = dynamics.forward_pass.network
        kept = backward_sweep(
            dynamics, Stack(network, lambda unit, x: mixed(network, unit, P, x, 1 - fading))
        )
        return {
            unit: torch.addcmul(kept[unit].states(), spread(fading, x), x)
            for unit, x in ((u, dynamics.forward_pass.activity[u]) for u in dynamics.remembered)
        }


def integral(dynamics: Dynamics, start: float, end: float) -> dict[str, Tensor]:
    """∫ x dt from ``start`` to ``end`` of every relaxing unit, [batch, …], of the ODE itself.

    For dynamics that ``check_linear`` accepts.
    """
    check_hooks(dynamics)
    network, tau = dynamics.forward_pass.network, path_time_constants(dynamics)
    P = time_integral(tau, start, end).to(dynamics.like)[None]
    kept = backward_sweep(
        dynamics, Stack(network, lambda unit, x: mixed(network, unit, P, x, end - start))
    )
    return {unit: kept[unit].states()[0] for unit in dynamics.tau}


def check_linear(system: System) -> None:
    """Raise InputError where there is no closed form; the message names a solver to use."""
    needs = getattr(system, "nonlinearity", "a relaxation that is linear in its activities")
    if needs:
        raise InputError(f"ClosedForm ('exact', the default) needs {needs}; {_CURE}")


def check_hooks(dynamics: Dynamics) -> None:
    """Raise InputError where hooks make pull-backs nonlinear: only the equilibrium is known."""
    if not dynamics.forward_pass.network.is_linear:
        raise InputError(
            f"ClosedForm ('exact') needs linear pull-backs, but a hook on a gradient changes them "
            f"in another way; {_CURE}, remove it, or relax so long that all is settled"
        )


_CURE = "use an adaptive solver such as Adaptive('dopri5') (--solver dopri5)"


_KEPT_AT_MOST = 2**17
"""Numbers in a propagator that is kept for reuse: a megabyte of them."""


@lru_cache(maxsize=8)
def _weights(
    scheme: Scheme,
    tau: tuple[float, ...],
    times: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, int]:
    """P at each time, [time, unit, unit], and how many of its diagonals count.

    Kept, as it depends on the settings alone: training asks for the same one at every batch.
    """
    P = propagator(scheme, tau, torch.tensor(times, dtype=torch.float64))
    P = _without_rounding(P, dtype)
    most = max((k + 1 for k in range(len(tau)) if P.diagonal(k, 1, 2).any()), default=0)
    return P.to(device, dtype), most


def _without_rounding(P: Tensor, dtype: torch.dtype) -> Tensor:
    """P with zeros where no e(0) could matter beside g; the square leaves room for a small g."""
    return torch.where(P.abs() < torch.finfo(dtype).eps ** 2, 0.0, P)


@lru_cache(maxsize=8)
def _final_weights(
    scheme: Scheme, tau: tuple[float, ...], time: float, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Shares and tails of ``States``; kept for the same reason. No shares where all are 0."""
    P = propagator(scheme, tau, torch.tensor([time], dtype=torch.float64))[0]
    P = _without_rounding(P, dtype)
    shares = tuple(P[: level + 1, level].flip(0).to(device, dtype) for level in range(len(tau)))
    return shares if P.any() else (), (1 - P.sum(1)).flip(0).to(device, dtype)
