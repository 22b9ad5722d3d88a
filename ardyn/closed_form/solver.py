"""The relaxation without stepping: exact states of the ODE, and of any one-step scheme for it.

With a frozen or dropped derivative the system is linear: with g its equilibrium, e = x − g, and the
coupling (A e)^l = Σ pull(e of the children), which is nilpotent,

    x^l(t) = g^l + Σ_k P_{l,l+k}(t) (A^k e(0))^l,    e(0) = x(0) − g,

where P is the scheme's propagator. On a graph this needs one τ; P then is that of a chain as long
as the longest path, and depends on k alone. One backward sweep serves every unit, each block pulled
back once, in either of two ways:

- it carries a *stack*, [g, e(0), A e(0), A² e(0), …], one entry more at every unit on the way down,
  of which all recorded times are combinations;
- for a single time, it carries *states*: the unit's own, and what the units below will need of it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ardyn.closed_form.propagator import Scheme, propagator, time_integral, trace_propagator
from ardyn.dynamics.activity import Dynamics
from ardyn.errors import DivergenceError, InputError
from ardyn.network.layers import Operation
from ardyn.network.network import Block, Network
from ardyn.network.put_back import alias
from ardyn.solvers.integrators import Fixed
from ardyn.solvers.sweep import Sweep

Kept = TypeVar("Kept", covariant=True)


@dataclass(frozen=True)
class ClosedForm:
    """The exact solution of the ODE, or the exact result of stepping it with a scheme.

    Args:
        of: None for the ODE; a one-step ``Fixed`` or a ``Sweep`` for what that scheme would give,
            its discretisation error included.

    Raises:
        InputError: a multistep or adaptive scheme, for which there is no such form.
    """

    of: Scheme = None

    def __post_init__(self) -> None:
        if self.of is not None and not isinstance(self.of, (Fixed, Sweep)):
            raise InputError(f"ClosedForm takes a Fixed, a Sweep or nothing, got {self.of!r}")
        if isinstance(self.of, Fixed) and not self.of.is_one_step:
            raise InputError(
                f"ClosedForm needs a one-step scheme, got the multistep '{self.of.method}'; "
                f"step it with {self.of!r}"
            )

    def activities(self, dynamics: Dynamics, times: Tensor) -> "StackedActivities":
        """Activities of every relaxing unit at ``times``, from one backward sweep.

        For dynamics that ``check_linear`` lets pass.

        Raises:
            DivergenceError: states beyond what the number format holds.
        """
        network, like = dynamics.forward_pass.network, dynamics.like
        tau, at = path_time_constants(dynamics), tuple(times.tolist())
        carrier: Carrier[_Mixture]
        if len(at) == 1:
            shares, tails = _final_weights(self.of, tau, at[0], like.dtype, like.device)
            carrier = _States(network, shares, tails) if shares else _Settled()
        else:
            small = len(at) * len(tau) ** 2 <= _KEPT_AT_MOST
            find = _weights if small else _weights.__wrapped__
            weights, most = find(self.of, tau, at, like.dtype, like.device)
            carrier = Stack(network, lambda unit, x: _mix(network, unit, weights, x), most)
        if not isinstance(carrier, _Settled):
            check_hooks(dynamics)
        kept = backward_sweep(dynamics, carrier)
        _check_finite(dynamics, kept)
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
            dynamics, Stack(network, lambda unit, x: _mix(network, unit, P, x, 1 - fading))
        )
        return {
            unit: torch.addcmul(kept[unit].states(), _spread(fading, x), x)
            for unit, x in ((u, dynamics.forward_pass.activity[u]) for u in dynamics.remembered)
        }


def integral(dynamics: Dynamics, start: float, end: float) -> dict[str, Tensor]:
    """∫ x dt from ``start`` to ``end`` of every relaxing unit, [batch, …], of the ODE itself.

    For dynamics that ``check_linear`` lets pass.
    """
    check_hooks(dynamics)
    network, tau = dynamics.forward_pass.network, path_time_constants(dynamics)
    P = time_integral(tau, start, end).to(dynamics.like)[None]
    kept = backward_sweep(
        dynamics, Stack(network, lambda unit, x: _mix(network, unit, P, x, end - start))
    )
    return {unit: kept[unit].states()[0] for unit in dynamics.tau}


def check_linear(dynamics: Dynamics) -> None:
    """Raise InputError where there is no closed form; the message names a solver to use."""
    cure = _CURE
    for block, rule in dynamics.rules.items():
        if not rule.is_linear:
            raise InputError(
                f"ClosedForm ('exact') needs a frozen or dropped relaxation derivative, got "
                f"{rule.relaxation_derivative!r} for block '{block}'; {cure}"
            )
    different = sorted(set(dynamics.tau.values()))
    if len(different) > 1 and not dynamics.forward_pass.network.is_chain:
        raise InputError(
            f"ClosedForm ('exact') needs one tau where paths of several lengths meet, got "
            f"{different[0]:g} to {different[-1]:g}; {cure}, or give all units one tau"
        )


def check_hooks(dynamics: Dynamics) -> None:
    """Raise InputError where hooks make pull-backs nonlinear: only the equilibrium is known."""
    if not dynamics.forward_pass.network.is_linear:
        raise InputError(
            f"ClosedForm ('exact') needs linear pull-backs, but a hook on a gradient changes them "
            f"in another way; {_CURE}, remove it, or relax so long that all is settled"
        )


_CURE = "use an adaptive solver such as Adaptive('dopri5') (--solver dopri5)"


def path_time_constants(dynamics: Dynamics) -> tuple[float, ...]:
    """τ of the units along the longest path, from the lowest; on a graph they all have one."""
    tau = tuple(dynamics.tau.values())
    network = dynamics.forward_pass.network
    return tau if network.is_chain else tau[:1] * network.depth


class Carrier(Protocol[Kept]):
    """What a backward sweep carries down, as a batch [entry, batch, …]."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """What the sweep starts with at an output."""

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple[Kept, Tensor]:
        """From what arrives at a unit, and x(0) (None if zero): what to keep, what to carry on."""

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """What was pulled back, with the entries that a source takes."""


def backward_sweep(dynamics: Dynamics, carrier: Carrier[Kept]) -> dict[str, Kept]:
    """Carry a batch of activities down from the loss gradients, each block pulled back once.

    Returns:
        {relaxing unit: what was kept}, from the top.
    """
    start = {} if dynamics.starts_at_zero else dynamics.forward_pass.activity
    kept: dict[str, Kept] = {}

    def send(block: Block, v: Tensor) -> Tensor:
        if block.name not in dynamics.tau:
            return v
        kept[block.name], carried = carrier.visit(block.name, v, start.get(block.name))
        return carried

    def pull(block: Block, v: Tensor, sources: tuple[str, ...]) -> tuple[Tensor, ...]:
        pulled = zip(sources, dynamics.pull(block, v, sources), strict=True)
        return tuple(carrier.fit(source, x) for source, x in pulled)

    top = {output: carrier.top(output, drive) for output, drive in dynamics.drive.items()}
    dynamics.forward_pass.network.descend(top, send, pull)
    return kept


def _check_finite(dynamics: Dynamics, kept: Mapping[str, "_Mixture"]) -> None:
    """Raise DivergenceError for infinities and NaN; from above they spread to the lowest."""
    network = dynamics.forward_pass.network
    if any(isinstance(block.layer, Operation) for block in network.blocks):
        level = dict.fromkeys(kept, 1)  # what autograd pulls back through may stop them
    else:
        level = network.level
    if all(kept[unit].is_finite() for unit in kept if level[unit] == 1):
        return
    unit = next((unit for unit in kept if not kept[unit].is_finite()), "")
    if not unit:
        return
    dtype = str(dynamics.like.dtype).removeprefix("torch.")
    raise DivergenceError(
        f"the closed form left the numbers of {dtype}, first seen in unit '{unit}'; scale the "
        f"inputs, the weights, ψ or the loss down, or use float64"
    )


@dataclass(frozen=True)
class Stack(Carrier[Kept]):
    """[g, e(0), A e(0), A² e(0), …]; ``keep`` says what of it is kept at each unit."""

    network: Network
    keep: Callable[[str, Tensor], Kept]
    most: int | None = None
    """How many A^k e(0) are carried at most; the weights of those beyond are below rounding."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """g alone."""
        return self._padded(output, drive[None])

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple[Kept, Tensor]:
        """The unit's own e(0) joins as A⁰ e(0)."""
        g = v[:1]
        stack = torch.cat([g, -g if start is None else start - g, v[1:]])[: self._entries(unit)]
        return self.keep(unit, stack), stack

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """Paths of several lengths meet: a shorter one ends in zeros."""
        return self._padded(source, pulled)

    def _padded(self, name: str, v: Tensor) -> Tensor:
        missing = self._entries(name, self.network.block[name].relaxes) - len(v)
        return functional.pad(v, (0, 0) * (v.ndim - 1) + (0, missing)) if missing else v

    def _entries(self, name: str, own: bool = False) -> int:
        """g and the A^k e(0) at a block, its own e(0) left out where it is yet to come."""
        height = self.network.height[name] - own
        return 1 + (height if self.most is None else min(height, self.most))


@dataclass(frozen=True)
class _Settled(Carrier["_Mixture"]):
    """g alone, so long after the start that nothing else is left in the numbers."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """The drive itself."""
        return drive[None]

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple["_Mixture", Tensor]:
        """x = g."""
        return _Mixture(v), v

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """As it is."""
        return pulled


@dataclass(frozen=True)
class _States(Carrier["_Mixture"]):
    """States at one time: of a unit, and of the units 1, 2, … further down what depends on it.

    Entry d at a unit is Σ_k P_{i,i+d+k} A^k x(0), and the like for the drive, with i a unit that
    lies d below; pulled back, entry d + 1 becomes entry d.
    """

    network: Network
    shares: tuple[Tensor, ...]
    """By level: P_{l−d,l}, the part that x^l(0) has in the unit d below, [d]."""
    tails: Tensor
    """1 − Σ P_{l−d,·}, the part that the drive at the top has in the unit d below, [d]."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """The drive's part in each."""
        return _spread(self.tails[: self.network.level[output]], drive) * drive

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple["_Mixture", Tensor]:
        """Add the part of x(0), and leave this unit's state behind."""
        if start is not None:
            share = self.shares[self.network.level[unit] - 1]
            v.addcmul_(_spread(share, start), start)
        own, below = v[:1], v[1:]
        return _Mixture(own.clone() if len(below) else own), below

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """As many as there are units below; written on by none but ``visit``."""
        taken = pulled[: self.network.level[source]]
        return taken.clone() if 0 in taken.stride() else alias(taken)


def _spread(weights: Tensor, x: Tensor) -> Tensor:
    """[entry], to multiply [batch, …] with."""
    return weights.view(-1, *[1] * x.ndim).to(x.dtype)


class _Mixture:
    """States of one unit; combinations of its stack until they are asked for."""

    def __init__(self, stack: Tensor, mix: Tensor | None = None) -> None:
        """``mix`` is [time, entry]; None where the entries are the states themselves."""
        self._unmixed = None if mix is None else (mix, stack)
        self._states = stack if mix is None else None

    def states(self) -> Tensor:
        """[time, batch, …]; from then on the stack is let go."""
        if self._unmixed is not None:
            mix, stack = self._unmixed
            flat = stack.reshape(len(stack), -1)
            self._states = torch.mm(mix.to(stack.dtype), flat).view(-1, *stack.shape[1:])
            self._unmixed = None
        assert self._states is not None
        return self._states

    def is_finite(self) -> bool:
        """Whether the sum of all that is held is: it is not where an entry is not."""
        held = self.states() if self._unmixed is None else self._unmixed[1]
        return math.isfinite(abs(held.sum().item()))


def _mix(
    network: Network, unit: str, weights: Tensor, stack: Tensor, share: Tensor | float = 1.0
) -> _Mixture:
    """The states at all times, ``share`` the weight of g in them, [time] or one for all.

    Mixed at once where they take less memory than the stack.
    """
    row = weights.shape[1] - network.height[unit]
    of_g = torch.as_tensor(share).to(weights).expand(len(weights))[:, None]
    of_e = weights[:, row, row : row + len(stack) - 1]
    mixture = _Mixture(stack, torch.cat([of_g, of_e], dim=1))
    if len(weights) < len(stack):
        mixture.states()
    return mixture


class StackedActivities(Mapping[str, Tensor]):
    """Activities of each unit, [time, batch, …], mixed from its stack when first asked for.

    A stack of fewer entries than there are times stands for all of them, in less memory.
    """

    def __init__(self, mixtures: Mapping[str, _Mixture]) -> None:
        self._mixtures = mixtures

    def __getitem__(self, unit: str) -> Tensor:
        return self._mixtures[unit].states()

    def __contains__(self, unit: object) -> bool:
        return unit in self._mixtures

    def __iter__(self) -> Iterator[str]:
        return iter(self._mixtures)

    def __len__(self) -> int:
        return len(self._mixtures)


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
    """Shares and tails of ``_States``; kept for the same reason. No shares where all are 0."""
    P = propagator(scheme, tau, torch.tensor([time], dtype=torch.float64))[0]
    P = _without_rounding(P, dtype)
    shares = tuple(P[: level + 1, level].flip(0).to(device, dtype) for level in range(len(tau)))
    return shares if P.any() else (), (1 - P.sum(1)).flip(0).to(device, dtype)
