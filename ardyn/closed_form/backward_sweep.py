"""One sweep down the blocks that yields the states of every unit, each block pulled back once.

It carries a batch [entry, batch, …], of one of three kinds:

- a *stack*, [g, e(0), A e(0), A² e(0), …], which grows by one entry at every unit on the way down;
  the states at all recorded times are linear combinations of its entries;
- for a single time, *partial sums*: what has been summed so far of the states of this unit and of
  the units below it;
- long after the start, g alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ardyn.dynamics.activity import Dynamics
from ardyn.errors import DivergenceError, is_finite
from ardyn.network.network import Block, Network
from ardyn.network.put_back import alias

Kept = TypeVar("Kept", covariant=True)


def path_time_constants(dynamics: Dynamics) -> tuple[float, ...]:
    """τ of the units along the longest path, lowest unit first; on a graph all τ are equal."""
    tau = tuple(dynamics.tau.values())
    network = dynamics.forward_pass.network
    return tau if network.is_chain else tau[:1] * network.depth


class Carrier(Protocol[Kept]):
    """What a backward sweep carries down, as a batch [entry, batch, …]."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """The batch at an output, from its loss gradient ``drive``, [batch, …]."""

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple[Kept, Tensor]:
        """What to keep for a unit, and the batch to carry on.

        Args:
            v: the batch that arrives at the unit, [entry, batch, …].
            start: x(0) of the unit, [batch, …]; None where it is zero.
        """

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """A batch that was pulled back to ``source``, with the number of entries needed there."""


def backward_sweep(dynamics: Dynamics, carrier: Carrier[Kept]) -> dict[str, Kept]:
    """Carry a batch of activities down from the loss gradients, each block pulled back once.

    Returns:
        {relaxing unit: what was kept}, from the output down.
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
    """[g, e(0), A e(0), A² e(0), …]; ``keep`` computes what is kept of it at each unit."""

    network: Network
    keep: Callable[[str, Tensor], Kept]
    max_powers: int | None = None
    """How many A^k e(0) are carried at most; the weights of all further ones are below rounding."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """g alone."""
        return self._padded(output, drive[None])

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple[Kept, Tensor]:
        """Insert the unit's own e(0) = x(0) − g, the entry of A⁰."""
        # v is [g, A e(0), A² e(0), …]: the coupling A takes e from the units above to this one, so
        # that pulling back has already raised the power of every entry but g by one.
        g = v[:1]
        stack = torch.cat([g, -g if start is None else start - g, v[1:]])[: self._entries(unit)]
        return self.keep(unit, stack), stack

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """Padded with zeros: A^k e(0) = 0 for any k beyond the length of this path."""
        return self._padded(source, pulled)

    def _padded(self, name: str, v: Tensor) -> Tensor:
        # Where paths of several lengths meet, their stacks are added entry by entry (Eq. 7), which
        # needs equal lengths: that of the longest path.
        missing = self._entries(name, self.network.block[name].relaxes) - len(v)
        return functional.pad(v, (0, 0) * (v.ndim - 1) + (0, missing)) if missing else v

    def _entries(self, name: str, own: bool = False) -> int:
        """Number of entries at a block: g and the A^k e(0), less its ``own`` before a visit."""
        height = self.network.height[name] - own
        return 1 + (height if self.max_powers is None else min(height, self.max_powers))


@dataclass(frozen=True)
class EquilibriumOnly(Carrier["Combination"]):
    """g alone, for times so late that e is below rounding in every unit."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """The drive itself."""
        return drive[None]

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple["Combination", Tensor]:
        """x = g."""
        return Combination(v), v

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """Unchanged."""
        return pulled


@dataclass(frozen=True)
class PartialSums(Carrier["Combination"]):
    """States at one time, summed on the way down: those of a unit and of the units below it.

    With g^i = J_{i→L} g^L, the solution is a sum over the units m ≥ i above unit i,

        x^i = Σ_m P_im J_{i→m} x^m(0) + (1 − Σ_m P_im) J_{i→L} g^L.

    At unit l, entry d holds the terms m ≥ l of the unit i = l − d, pulled back to l so far. Entry 0
    is therefore complete, and entry d + 1 becomes entry d of the unit below. On a graph, where P_im
    depends on m − i alone, d counts the units on a path.
    """

    network: Network
    start_weights: tuple[Tensor, ...]
    """By level: P_{l−d,l}, the weight of x^l(0) in the unit d below, [d]."""
    drive_weights: Tensor
    """1 − Σ_m P_{L−d,m}, the weight of the drive at the top in the unit d below, [d]."""

    def top(self, output: str, drive: Tensor) -> Tensor:
        """The term of the drive in the state of every unit, [d, batch, …]."""
        return broadcastable(self.drive_weights[: self.network.level[output]], drive) * drive

    def visit(self, unit: str, v: Tensor, start: Tensor | None) -> tuple["Combination", Tensor]:
        """Add the terms of x(0), and keep this unit's state."""
        if start is not None:
            weights = self.start_weights[self.network.level[unit] - 1]
            v.addcmul_(broadcastable(weights, start), start)
        own, below = v[:1], v[1:]
        # A view would keep the sums of all units below in memory for as long as this state.
        return Combination(own.clone() if len(below) else own), below

    def fit(self, source: str, pulled: Tensor) -> Tensor:
        """The entries of the units at or below ``source``, in memory that ``visit`` may change."""
        taken = pulled[: self.network.level[source]]
        # A pull-back may return one tensor to two sources, as that of a sum does, or an expanded
        # one (stride 0); adding in place would then change the other source, or fail.
        return taken.clone() if 0 in taken.stride() else alias(taken)


def broadcastable(weights: Tensor, x: Tensor) -> Tensor:
    """Weights [entry] as [entry, 1, …], to be multiplied by x, [batch, …]."""
    return weights.view(-1, *[1] * x.ndim).to(x.dtype)


class Combination:
    """States of one unit: linear combinations of its stack, computed when first read."""

    def __init__(self, stack: Tensor, weights: Tensor | None = None) -> None:
        """``weights`` is [time, entry]; None where the entries are the states themselves."""
        self._pending = None if weights is None else (weights, stack)
        self._states = stack if weights is None else None

    def states(self) -> Tensor:
        """[time, batch, …]; the first call replaces the stack, whose memory is then released."""
        if self._pending is not None:
            weights, stack = self._pending
            flat = stack.reshape(len(stack), -1)
            self._states = torch.mm(weights.to(stack.dtype), flat).view(-1, *stack.shape[1:])
            self._pending = None
        assert self._states is not None
        return self._states

    @property
    def held(self) -> Tensor:
        """The states, or the stack that they are computed from."""
        return self.states() if self._pending is None else self._pending[1]


def combined(
    network: Network, unit: str, P: Tensor, stack: Tensor, g_weight: Tensor | float = 1.0
) -> Combination:
    """The states of a unit at all times, g_weight · g + Σ_k P_{l,l+k} A^k e(0).

    Computed immediately where they take less memory than the stack.

    Args:
        P: the propagator, [time, unit, unit].
        stack: [entry, batch, …].
        g_weight: weight of g, [time] or one for all times.
    """
    # The unit's row of P, [time, unit, unit]: height counts the units from here to the output. On a
    # graph P is Toeplitz, so that this row holds the same c_0, c_1, … as that of any other unit.
    row = P.shape[1] - network.height[unit]
    of_g = torch.as_tensor(g_weight).to(P).expand(len(P))[:, None]
    of_e = P[:, row, row : row + len(stack) - 1]
    combination = Combination(stack, torch.cat([of_g, of_e], dim=1))
    if len(P) < len(stack):
        combination.states()
    return combination


class StackedActivities(Mapping[str, Tensor]):
    """Activities of each unit, [time, batch, …], computed from its stack when first read.

    Where there are more times than entries, the stack takes less memory than the activities.
    """

    def __init__(self, combinations: Mapping[str, Combination]) -> None:
        self._combinations = combinations

    def __getitem__(self, unit: str) -> Tensor:
        return self._combinations[unit].states()

    def __contains__(self, unit: object) -> bool:
        return unit in self._combinations

    def __iter__(self) -> Iterator[str]:
        return iter(self._combinations)

    def __len__(self) -> int:
        return len(self._combinations)


def check_states(dynamics: Dynamics, kept: Mapping[str, Combination]) -> None:
    """Raise DivergenceError for infinities and NaN."""
    network = dynamics.forward_pass.network
    # Products with weights and slopes carry infinities and NaN on to the lowest units, so that one
    # sum there replaces one for every unit; autograd may drop them, as max pooling and relu do.
    drops = any(not b.layer.is_local or b.activation is torch.relu for b in network.blocks)
    level = dict.fromkeys(kept, 1) if drops else network.level
    if is_finite(kept[unit].held for unit in kept if level[unit] == 1):
        return
    unit = next((unit for unit in kept if not is_finite([kept[unit].held])), "")
    if not unit:
        return
    dtype = str(dynamics.like.dtype).removeprefix("torch.")
    raise DivergenceError(
        f"the closed form exceeds the range of {dtype}, first seen in unit '{unit}'; scale the "
        f"inputs, the weights, ψ or the loss down, or use float64"
    )
