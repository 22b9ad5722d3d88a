"""The relaxation without stepping: exact states of the ODE, and of any one-step scheme for it.

With a frozen or dropped derivative the system is linear, and on a chain

    x^l(t) = (1 − Σ_m P_lm) g^l + Σ_{m ≥ l} P_lm J_{l→m} x^m(0),  J_{l→m} = pull_l ∘ … ∘ pull_{m−1}

with g the equilibrium and P(t) the scheme's propagator. One backward sweep serves every unit and
every time. It carries [g^l, J x^L(0), …, J x^{l+1}(0), x^l(0)] as one batch, the stack, so that
each block is pulled back once. Where the units below need fewer combinations of the stack than it
has entries, the sweep goes on with those combinations in its place.
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
        kept = stacked_sweep(dynamics, lambda unit, stack: levels[unit].split(stack))
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
    dynamics: Dynamics, split: Callable[[str, Tensor], tuple[Kept, Tensor]]
) -> dict[str, Kept]:
    """Carry the stack down the blocks, each pulled back once.

    Args:
        split: from a unit and its stack, [stack, batch, unit], what to keep of it and what to
            carry on in its place.

    Returns:
        {relaxing unit: what was kept}, from the top.
    """
    start = dynamics.initial().activity
    kept: dict[str, Kept] = {}

    def send(unit: str, stack: Tensor) -> Tensor:
        if unit not in start:
            return stack
        if not dynamics.starts_at_zero:
            stack = torch.cat([stack, start[unit][None]])
        kept[unit], carried = split(unit, stack)
        return carried

    dynamics.trace.network.descend(
        dynamics.drive[None], send, lambda block, stack: dynamics.pull(block, stack, {})
    )
    return kept


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
    return torch.mm(weights, stack.flatten(1)).view(-1, *stack.shape[1:])


@dataclass(frozen=True)
class _Level:
    """What the sweep does at one unit."""

    weights: Tensor
    """[time, stack]: the unit's states in terms of its stack; then, where the sweep folds, the
    fewer combinations to carry on in the stack's place."""
    times: int

    def split(self, stack: Tensor) -> tuple[_Mixture, Tensor]:
        """The unit's states, and what to carry on."""
        if self.weights.shape[0] == self.times:
            return _Mixture(stack, self.weights), stack
        states, carried = _combine(self.weights, stack).tensor_split((self.times,))
        return _Mixture(states, None), carried


@lru_cache(maxsize=64)
def _plan(
    scheme: Scheme,
    tau: tuple[float, ...],
    times: tuple[float, ...],
    starts_at_zero: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[_Level, ...]:
    """The levels of the sweep, from the top.

    Kept, as they depend on the settings alone: training asks for the same ones at every batch.
    """
    P = propagator(scheme, tau, torch.tensor(times, dtype=torch.float64))
    from_top = P.flip(-1, -2).transpose(0, 1)
    return tuple(
        _Level(weights.to(device, dtype), len(times))
        for weights in _weights(from_top, starts_at_zero)
    )


def _weights(P: Tensor, starts_at_zero: bool) -> Iterator[Tensor]:
    """The weights of each level; P is [unit, time, unit], units from the top."""
    units, times, _ = P.shape
    carried = 1 - P.sum(-1, keepdim=True)
    for i in range(units):
        if not starts_at_zero:
            carried = torch.cat([carried, P[..., i : i + 1]], dim=-1)
        below = carried[i + 1 :].flatten(0, 1)
        if 0 < len(below) < carried.shape[-1]:
            yield torch.cat([carried[i], below])
            carried = torch.zeros(units, times, len(below), dtype=P.dtype)
            carried[i + 1 :] = torch.eye(len(below), dtype=P.dtype).view(-1, times, len(below))
        else:
            yield carried[i]
