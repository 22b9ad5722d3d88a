"""Cut: one place where autograd's graph of a module's run is cut; it becomes a block."""

from dataclasses import dataclass

from torch import Tensor

from ardyn.network.activations import Activation
from ardyn.network.layers import Layer

VIEWS = "*views"
"""Stands among the names of what stays whole where views, or their bases, are written on."""


class CannotCutError(Exception):
    """Within the named modules, innermost first, autograd's graph must stay whole."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        super().__init__(*modules)
        self.modules = modules


@dataclass(frozen=True, slots=True)
class Returned:
    """Of which call a value is, and which part of what it returned."""

    call: int
    """The number of its first cut."""
    part: str = ""


@dataclass(frozen=True, slots=True)
class Below:
    """What a layer with a local rule reads."""

    value: Tensor | None = None
    """With its graph."""
    is_as_is: bool = False
    """Whether that is the value of one other cut, or an input."""


@dataclass(eq=False, slots=True)
class Cut:
    """One place where the graph is cut; it becomes a block of the network."""

    index: int
    """Its number in the run."""
    place: str
    """Where it is: the module, the operation, or both."""
    returned: Returned
    value: Tensor
    """x̄, with the graph that leads to it."""
    leaf: Tensor
    """The leaf of autograd that takes its place in the rest of the run."""
    handed: Tensor
    """An alias of the leaf, which the module may write on."""
    layer: Layer
    activation: Activation
    below: Below
    joins: "Cut | None"
    """For an activation the layer right below it: both are one block, if nothing else reads it."""
    inputs: frozenset[str]
    """Inputs that it reads, where no graph tells."""
    relaxes: bool
    readers: int = 0
    """How many calls read it."""
    name: str = ""
    """Of the block that it becomes."""
