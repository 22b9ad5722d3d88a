"""The relaxation without stepping: exact states of the ODE, and of any one-step scheme for it.

With a frozen or dropped derivative the system is linear, and on a chain

    x^l(t) = (1 − Σ_m P_lm) g^l + Σ_{m ≥ l} P_lm J_{l→m} x^m(0),  J_{l→m} = pull_l ∘ … ∘ pull_{m−1}

with g the equilibrium and P(t) the scheme's propagator. One backward sweep serves every unit and
every time. It carries [g^l, J x^L(0), …, J x^{l+1}(0), x^l(0)] as one batch, the stack, so that
each block is pulled back once. From the unit on where the states still to come are fewer than the
entries of the stack, the sweep carries those states in its place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from ardyn.dynamics import Dynamics
from ardyn.errors import InputError
from ardyn.integrators import Fixed
from ardyn.propagator import Scheme, propagator
from ardyn.sweep import Sweep

Kept = TypeVar("Kept")


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
        """
        tau, like = tuple(dynamics.tau.values()), dynamics.drive
        at_zero = dynamics.starts_at_zero
        plan = _plan(self.of, tau, tuple(times.tolist()), at_zero, like.dtype, like.device)
        levels = dict(zip(reversed(tuple(dynamics.tau)), plan, strict=True))
        kept = stacked_sweep(dynamics, lambda unit, v, start: levels[unit].visit(v, start))
        return StackedActivities({unit: kept[unit] for unit in dynamics.tau})


def check_linear(dynamics: Dynamics) -> None:
    """Raise InputError where there is no closed form; the message names a solver to use."""
    cure = "use an adaptive solver such as Adaptive('dopri5') (--solver dopri5)"
    for block, rule in dynamics.rules.items():
        if not rule.is_linear:
            raise InputError(
                f"ClosedForm ('exact') needs a frozen or dropped relaxation derivative, got "
                f"{rule.relaxation_derivative!r} for block '{block}'; {cure}"
            )
    if dynamics.remembered:
        raise InputError(f"ClosedForm ('exact') does not follow the activity trace z; {cure}")
    if not dynamics.trace.network.is_chain:
        raise InputError(f"ClosedForm ('exact') needs a chain of blocks; {cure}")


def stacked_sweep(
    dynamics: Dynamics, visit: Callable[[str, Tensor, Tensor | None], tuple[Kept, Tensor]]
) -> dict[str, Kept]:
    """Carry a batch of activities down the blocks, from g^L on, each block pulled back once.

    Args:
        visit: from a unit, what is pulled back to it, [entry, batch, unit], and x(0) (None if
            zero): what to keep, and what to carry on, [entry, batch, unit].

    Returns:
        {relaxing unit: what was kept}, from the top.
    """
    start = {} if dynamics.starts_at_zero else dynamics.trace.activity
    kept: dict[str, Kept] = {}

    def send(unit: str, v: Tensor) -> Tensor:
        if unit not in dynamics.tau:
            return v
        kept[unit], carried = visit(unit, v, start.get(unit))
        return carried

    dynamics.trace.network.descend(
        dynamics.drive[None], send, lambda block, v: dynamics.pull(block, v, {})
    )
    return kept


def grow(stack: Tensor, start: Tensor | None) -> Tensor:
    """The stack with x^l(0) as its last entry, unless it is zero."""
    return stack if start is None else torch.cat([stack, start[None]])


@dataclass
class _Mixture:
    """States of one unit, as combinations of its stack until they are asked for."""

    stack: Tensor
    mix: Tensor | None
    """[time, stack]; None once mixed."""

    def states(self) -> Tensor:
        """[time, batch, unit]; from then on they stand in the stack's place."""
        if self.mix is not None:
            self.stack, self.mix = _combine(self.mix, self.stack), None
        return self.stack


class StackedActivities(Mapping[str, Tensor]):
    """Activities of each unit, [time, batch, unit], mixed from its stack when first asked for.

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


def _combine(weights: Tensor, stack: Tensor) -> Tensor:
    """weights @ stack, over the stack's first axis."""
    if stack.shape[0] == 1:
        return weights[..., None] * stack
    return torch.mm(weights, stack.flatten(1)).view(-1, *stack.shape[1:])


@dataclass(frozen=True)
class _StackLevel:
    """A unit at which the sweep carries the stack."""

    weights: Tensor
    """[time, stack]: the unit's states in terms of the stack."""

    def visit(self, stack: Tensor, start: Tensor | None) -> tuple[_Mixture, Tensor]:
        """Keep the unit's states, or the stack with the weights where that takes less memory."""
        stack = grow(stack, start)
        if self.weights.shape[0] < stack.shape[0]:
            return _Mixture(_combine(self.weights, stack), None), stack
        return _Mixture(stack, self.weights), stack


@dataclass(frozen=True)
class _StateLevel:
    """A unit at which the sweep carries states: its own at each time, then those below."""

    enter: Tensor | None
    """[state, stack]: what makes states of the stack that arrives; None if they arrive already."""
    share: Tensor
    """[state, 1, 1]: the part that x^l(0) has in each."""
    times: int

    def visit(self, states: Tensor, start: Tensor | None) -> tuple[_Mixture, Tensor]:
        """Add the part of x^l(0), and leave this unit's states behind."""
        if self.enter is not None:
            states = _combine(self.enter, states)
        if start is not None:
            states = torch.addcmul(states, self.share, start)
        own, below = states.tensor_split((self.times,))
        return _Mixture(own.clone() if len(below) else own, None), below


@lru_cache(maxsize=8)
def _plan(
    scheme: Scheme,
    tau: tuple[float, ...],
    times: tuple[float, ...],
    starts_at_zero: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[_StackLevel | _StateLevel, ...]:
    """The levels of the sweep, from the top.

    Kept, as they depend on the settings alone: training asks for the same ones at every batch.
    """
    P = propagator(scheme, tau, torch.tensor(times, dtype=torch.float64))
    P = P.flip(-1, -2).transpose(0, 1)  # [unit, time, unit], units from the top
    like = torch.empty(0, dtype=dtype, device=device)
    weights = 1 - P.sum(-1, keepdim=True)
    levels: list[_StackLevel | _StateLevel] = []
    carries_states = False
    for i in range(len(tau)):
        share = P[i:, :, i].flatten().clone()
        stack = weights.shape[-1]
        states = len(share) - len(times)
        # An entry or two more are less work than to mix further down.
        enters = not carries_states and 0 < states <= stack + 2
        carries_states = carries_states or enters
        if carries_states:
            enter = weights[i:].flatten(0, 1).to(like) if enters else None
            levels.append(_StateLevel(enter, share[:, None, None].to(like), len(times)))
            continue
        if not starts_at_zero:
            weights = torch.cat([weights, P[..., i : i + 1]], dim=-1)
        levels.append(_StackLevel(weights[i].clone().to(like)))
    return tuple(levels)
