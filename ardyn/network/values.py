"""What is known of the tensors of a run: whether they depend on data, on which inputs, and how."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ardyn.network.calls import is_continuous
from ardyn.network.graph import Graph

NO_INPUTS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a call reads."""

    inputs: frozenset[str]
    """Names of the network's inputs, where autograd's graph does not tell."""
    has_data: bool
    """Whether any of it depends on the batch."""
    is_smooth: bool
    """Whether a gradient could flow to what depends on the batch."""
    has_parameters: bool


class Values:
    """Tensors by their identity; they are kept alive, so that it lasts.

    Args:
        names: of parameters, by identity.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.names, self.graph = names, Graph()
        self.calls: list[object] = []
        """The sequence of calls, as far as the network depends on it."""
        self.types: set[torch.dtype] = set()
        """Of every value of the run."""
        self._alive: list[Tensor] = []
        self._inputs: dict[int, frozenset[str]] = {}
        self._smooth: set[int] = set()
        self._number: dict[int, int] = {}

    def mark(self, x: Tensor, inputs: frozenset[str], is_smooth: bool = True) -> None:
        """Note that it depends on the batch."""
        self._alive.append(x)
        self._inputs[id(x)] = inputs
        if is_smooth and is_continuous(x):
            self._smooth.add(id(x))

    def inputs_of(self, x: Tensor) -> frozenset[str] | None:
        """Inputs that it depends on, not counting paths through cuts; None if none."""
        return self._inputs.get(id(x))

    def has_gradient(self, x: Tensor) -> bool:
        """Whether a gradient could flow to it."""
        return x.requires_grad or id(x) in self._smooth

    def read(self, given: list[Tensor]) -> Reading:
        """What a call reads that is given these."""
        inputs, has_data, is_smooth, has_parameters = NO_INPUTS, False, False, False
        for x in given:
            reached, own = self.graph.reached(x), self._inputs.get(id(x))
            if own is not None or reached.cuts:
                has_data = True
                inputs |= own or NO_INPUTS
                is_smooth |= bool(reached.cuts) or id(x) in self._smooth
            has_parameters |= bool(reached.leaves) or id(x) in self.names
        return Reading(inputs, has_data, is_smooth, has_parameters)

    def is_plain_data(self, x: Tensor) -> bool:
        """Whether it depends on data, but on no parameter save by way of cuts."""
        reached = self.graph.reached(x)
        is_data = bool(reached.cuts) or id(x) in self._inputs
        return is_data and not reached.leaves and not x.is_complex()

    def owner(self, x: Tensor) -> str:
        """The module that holds the parameters of a layer that was not watched."""
        names = [self.names.get(key, "").split(".")[:-1] for key in self.graph.reached(x).leaves]
        shared = [parts[0] for parts in zip(*names, strict=False) if len(set(parts)) == 1]
        return ".".join(shared) or "module"

    def token(self, x: Tensor) -> object:
        """Its entry in the sequence of calls: a number, a name, or shape and type."""
        number = self._number.get(id(x))
        if number is not None:
            return number
        return self.names.get(id(x)) or (x.shape, x.dtype, x.requires_grad)

    def record(self, token: object, found: list[Tensor]) -> None:
        """Add a call, and what it returned."""
        self.calls.append((token, *((x.shape, x.dtype) for x in found)))
        for x in found:
            self.types.add(x.dtype)
            self._number[id(x)] = len(self._number)
            self._alive.append(x)

    def number_cut(self, handed: Tensor, index: int) -> None:
        """Number what a cut returns by the cut's own number, below zero."""
        self._number[id(handed)] = -index - 1
