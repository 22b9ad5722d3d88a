"""Graph: which cuts and leaves autograd's graph leads to from any tensor of a run."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction


@dataclass(frozen=True, slots=True)
class Reached:
    """What autograd's graph leads to from a tensor."""

    cuts: frozenset[int]
    """Indices of cuts."""
    leaves: frozenset[int]
    """Identities of parameters, and of other leaves that are not ours."""


_NOTHING = Reached(frozenset(), frozenset())


class Graph:
    """The graph of a run so far; what leads from a node does not change, and is looked up once.

    Tensors are known by their identity: whoever asks keeps them alive.
    """

    def __init__(self) -> None:
        self.leaves: dict[int, Tensor] = {}
        """Parameters and other leaves that gradients reach, by identity."""
        self.has_functions = False
        """Whether an autograd.Function of the user's takes part."""
        self._known: dict[int, Reached] = {}
        self._nodes: dict[Any, Reached] = {}

    def end_at(self, cut: int, leaf: Tensor, handed: Tensor, goes_on: bool) -> None:
        """Paths end at a cut, whether or not the graph goes on below it."""
        here = Reached(frozenset({cut}), frozenset())
        self._known[id(leaf)] = self._known[id(handed)] = here
        if goes_on:
            self._nodes[handed.grad_fn] = here

    def is_end(self, x: Tensor) -> bool:
        """Whether paths end at this tensor, unmodified since."""
        return id(x) in self._known and x._version == 0

    def reached(self, x: Tensor) -> Reached:
        """Which cuts and leaves autograd's graph leads to."""
        known = self._known.get(id(x))
        if known is not None and x._version == 0:
            return known
        if x.grad_fn is None:
            return self._reached_leaf(x) if x.requires_grad else _NOTHING
        found, left = self._nodes, [x.grad_fn]
        while left:
            node = left[-1]
            if node in found:
                left.pop()
            elif type(node).__name__ == "AccumulateGrad":
                found[left.pop()] = self._reached_leaf(node.variable)  # type: ignore[attr-defined]
            else:
                self.has_functions |= isinstance(node, BackwardCFunction)
                below = [each for each, _ in node.next_functions if each is not None]
                missing = [each for each in below if each not in found]
                if missing:
                    left += missing
                else:
                    found[left.pop()] = _union([found[each] for each in below])
        return found[x.grad_fn]

    def _reached_leaf(self, x: Tensor) -> Reached:
        if id(x) not in self._known:
            self.leaves[id(x)] = x
            self._known[id(x)] = Reached(frozenset(), frozenset({id(x)}))
        return self._known[id(x)]


def _union(reached: list[Reached]) -> Reached:
    first = reached[0] if reached else _NOTHING
    if all(each is first or each is _NOTHING for each in reached):
        return first
    return Reached(
        frozenset().union(*(each.cuts for each in reached)),
        frozenset().union(*(each.leaves for each in reached)),
    )
