"""Network: blocks in feed-forward order, and which of them are relaxing units."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from torch import Tensor

from ardyn.network.activations import Activation, identity
from ardyn.network.layers import Layer, Operation

INPUT = "input"
"""The network's input x⁰: the one source that does not relax. Of several, "input.NAME" each."""

Units = Literal["block", "operation"]
UNITS = get_args(Units)


@dataclass(frozen=True)
class Block:
    """x = f(a), a = layer(h): a layer with its activation, or whatever lies between two cuts.

    h is computed from the values of the sources, without parameters; what does so is differentiated
    by autograd, and transmits instantaneously.
    """

    name: str
    """Name of the block and of the unit it drives: its layer's module name."""
    sources: tuple[str, ...]
    """Blocks and inputs that it reads, where gradients flow."""
    layer: Layer
    activation: Activation = identity
    relaxes: bool = True
    """Whether it drives a leaky integrator; otherwise it transmits instantaneously."""
    reads_as_is: bool = True
    """Whether h is the value of its only source, as it is."""


@dataclass(frozen=True)
class Network:
    """Blocks in feed-forward order; structure only, it holds no parameter values."""

    blocks: tuple[Block, ...]
    outputs: tuple[str, ...]
    """Blocks whose values the loss reads."""
    inputs: tuple[str, ...] = (INPUT,)
    is_linear: bool = True
    """Whether every pull-back at the frozen pass is; hooks on gradients can change that."""

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Names of the relaxing units x^1 … x^L, in feed-forward order."""
        return tuple(block.name for block in self.blocks if block.relaxes)

    @cached_property
    def block(self) -> dict[str, Block]:
        """Blocks by name."""
        return {block.name: block for block in self.blocks}

    @cached_property
    def terminal(self) -> frozenset[str]:
        """Outputs that nothing else reads: those that can be clamped."""
        read = {source for block in self.blocks for source in block.sources}
        return frozenset(self.outputs) - read

    @cached_property
    def clamped(self) -> "Network":
        """The same with its terminal outputs held at the loss gradient, without a leak."""
        blocks = (
            replace(b, relaxes=b.relaxes and b.name not in self.terminal) for b in self.blocks
        )
        return replace(self, blocks=tuple(blocks))

    @cached_property
    def by_autograd(self) -> "Network":
        """The same without local rules: every block as autograd differentiates it."""

        def plain(block: Block) -> Block:
            layer = Operation(block.layer.names)
            return replace(block, layer=layer, activation=identity, reads_as_is=False)

        return replace(self, blocks=tuple(map(plain, self.blocks)))

    @cached_property
    def is_chain(self) -> bool:
        """Whether every block reads the one just below it, and nothing else."""
        below = (*self.inputs, *(block.name for block in self.blocks))
        return len(self.inputs) == len(self.outputs) == 1 and all(
            block.sources == (name,) for block, name in zip(self.blocks, below, strict=False)
        )

    @cached_property
    def level(self) -> dict[str, int]:
        """Units on the longest path from each block down to an input, its own included."""
        level: dict[str, int] = dict.fromkeys(self.inputs, 0)
        for block in self.blocks:
            below = max((level[source] for source in block.sources), default=0)
            level[block.name] = below + block.relaxes
        return level

    @cached_property
    def height(self) -> dict[str, int]:
        """Units on the longest path from each block up to an output, its own included."""
        height: dict[str, int] = {}
        for block in reversed(self.blocks):
            own = height[block.name] = height.get(block.name, 0) + block.relaxes
            for source in block.sources:
                height[source] = max(height.get(source, 0), own)
        return height

    @cached_property
    def depth(self) -> int:
        """Units on the longest path."""
        return max(self.level.values())

    @cached_property
    def towards_units(self) -> frozenset[str]:
        """Blocks that relax, and those above a block that does."""
        found: set[str] = set()
        for block in self.blocks:
            if block.relaxes or found.intersection(block.sources):
                found.add(block.name)
        return frozenset(found)

    @cached_property
    def _route(self) -> tuple[tuple[Block, tuple[str, ...]], ...]:
        return self._route_towards(self.towards_units)

    def _route_towards(self, towards: frozenset[str]) -> tuple[tuple[Block, tuple[str, ...]], ...]:
        """Blocks from the outputs down, each with those of its sources that take drives."""
        return tuple(
            (block, tuple(source for source in block.sources if source in towards))
            for block in reversed(self.blocks)
        )

    def descend(
        self,
        top: Mapping[str, Tensor],
        send: Callable[[Block, Tensor], Tensor],
        pull: Callable[[Block, Tensor, tuple[str, ...]], tuple[Tensor, ...]],
        towards: frozenset[str] | None = None,
    ) -> dict[str, Tensor]:
        """Visit the blocks from the outputs down: the backward sweep that all dynamics share.

        A unit's drive is the sum of what its children pull back (paper, Eq. 7), and for some
        ``top``, from where the sweep starts. ``send(block, drive)`` returns what the block's unit
        passes on below, and ``pull(block, v, sources)`` what the block makes of that, one tensor
        for each of these sources.

        Args:
            towards: blocks and inputs that take drives; by default the blocks on the way to a
                relaxing unit.

        Returns:
            What arrives at the inputs among them.
        """
        route = self._route if towards is None else self._route_towards(towards)
        drive = dict(top)
        for block, sources in route:
            if block.name not in drive:
                continue
            sent = send(block, drive.pop(block.name))
            if not sources:
                continue
            for source, pulled in zip(sources, pull(block, sent, sources), strict=True):
                drive[source] = drive[source] + pulled if source in drive else pulled
        return drive
