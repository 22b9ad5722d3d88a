"""One sweep down the blocks that carries all it takes to know every state, each pulled back once.

What it carries is a batch, [entry, batch, …], of one of three kinds:

- a *stack*, [g, e(0), A e(0), A² e(0), …], one entry more at every unit on the way down, of which
  the states at all recorded times are combinations;
- for a single time, *states*: the unit's own, and what the units below will need of it;
- long after the start, g alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ardyn.dynamics.activity import Dynamics
from ardyn.errors import DivergenceError
from ardyn.network.network import Block, Network
from ardyn.network.put_back import alias

Kept = TypeVar("Kept", covariant=True)


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
class Settled(Carrier["Mixture"]):
    """g alone, so long after the start that nothing else is left in the numbers."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """The drive itself."""
        return drive[None]

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple["Mixture", Tensor]:
        """x = g."""
        return Mixture(v), v

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """As it is."""
        return pulled


@dataclass(frozen=True)
class States(Carrier["Mixture"]):
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
        return spread(self.tails[: self.network.level[output]], drive) * drive

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple["Mixture", Tensor]:
        """Add the part of x(0), and leave this unit's state behind."""
        if start is not None:
            share = self.shares[self.network.level[unit] - 1]
            v.addcmul_(spread(share, start), start)
        own, below = v[:1], v[1:]
        return Mixture(own.clone() if len(below) else own), below

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """As many as there are units below; written on by none but ``visit``."""
        taken = pulled[: self.network.level[source]]
        return taken.clone() if 0 in taken.stride() else alias(taken)


def spread(weights: Tensor, x: Tensor) -> Tensor:
    """[entry], to multiply [batch, …] with."""
    return weights.view(-1, *[1] * x.ndim).to(x.dtype)


class Mixture:
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


def mixed(
    network: Network, unit: str, weights: Tensor, stack: Tensor, share: Tensor | float = 1.0
) -> Mixture:
    """The states at all times, ``share`` the weight of g in them, [time] or one for all.

    Mixed at once where they take less memory than the stack.
    """
    row = weights.shape[1] - network.height[unit]
    of_g = torch.as_tensor(share).to(weights).expand(len(weights))[:, None]
    of_e = weights[:, row, row : row + len(stack) - 1]
    mixture = Mixture(stack, torch.cat([of_g, of_e], dim=1))
    if len(weights) < len(stack):
        mixture.states()
    return mixture


class StackedActivities(Mapping[str, Tensor]):
    """Activities of each unit, [time, batch, …], mixed from its stack when first asked for.

    A stack of fewer entries than there are times stands for all of them, in less memory.
    """

    def __init__(self, mixtures: Mapping[str, Mixture]) -> None:
        self._mixtures = mixtures

    def __getitem__(self, unit: str) -> Tensor:
        return self._mixtures[unit].states()

    def __contains__(self, unit: object) -> bool:
        return unit in self._mixtures

    def __iter__(self) -> Iterator[str]:
        return iter(self._mixtures)

    def __len__(self) -> int:
        return len(self._mixtures)


def check_states(dynamics: Dynamics, kept: Mapping[str, "Mixture"]) -> None:
    """Raise DivergenceError for infinities and NaN; from above they spread to the lowest."""
    network = dynamics.forward_pass.network
    if not all(block.layer.is_local for block in network.blocks):
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
