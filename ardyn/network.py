"""Network: a graph of blocks, one relaxing unit per block."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, fx

from ardyn.layers import Activation, Layer, identity

INPUT = "input"
"""The network's input x⁰: the one source that does not relax."""


@dataclass(frozen=True)
class Block:
    """x^{l+1} = f(a), a = layer(x^l): a layer with its activation, driving one unit."""

    name: str
    """Name of the block and of the unit it drives: its layer's module name."""
    sources: tuple[str, ...]
    """Units the block reads; ``INPUT`` is the network's input."""
    layer: Layer
    node: str
    """Name of the traced operation whose value is the unit's activity."""
    activation: Activation = identity

    @cached_property
    def reads_units(self) -> bool:
        """Whether anything that relaxes lies below, so that sending back has a receiver."""
        return any(source != INPUT for source in self.sources)


@dataclass(frozen=True)
class Network:
    """Blocks in feed-forward order; structure only, it holds no parameter values."""

    blocks: tuple[Block, ...]
    graph: fx.Graph
    """The traced operations, to run through the module itself."""

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Names of the units x^1 … x^L, in feed-forward order."""
        return tuple(block.name for block in self.blocks)

    @property
    def output(self) -> str:
        """Name of the output unit x^L."""
        return self.blocks[-1].name

    @cached_property
    def is_chain(self) -> bool:
        """Whether every block reads the one just below it, and nothing else."""
        below = (INPUT, *self.units[:-1])
        return all(block.sources == (unit,) for block, unit in zip(self.blocks, below, strict=True))

    def descend(
        self,
        top: Tensor,
        send: Callable[[str, Tensor], Tensor],
        pull: Callable[[Block, Tensor], tuple[Tensor, ...]],
    ) -> None:
        """Visit the units from the output down; the one backward sweep that everything shares.

        A unit's drive is the sum of what its children pull back (paper, Eq. 7); the output's is
        ``top``. ``send(unit, drive)`` returns what the unit passes on to the blocks below it, and
        ``pull(block, v)`` what the block makes of that, one tensor per source.
        """
        drive: dict[str, Tensor] = {self.output: top}
        for block in reversed(self.blocks):
            sent = send(block.name, drive.pop(block.name))
            if not block.reads_units:
                continue
            for source, pulled in zip(block.sources, pull(block, sent), strict=True):
                drive[source] = drive[source] + pulled if source in drive else pulled
