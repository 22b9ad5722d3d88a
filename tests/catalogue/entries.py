"""What an entry of the catalogue is, and how entries are listed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Make = Callable[[], nn.Module]
Inputs = Callable[[], Any]
MakeOrModule = TypeVar("MakeOrModule", bound=Make)


@dataclass(frozen=True)
class Entry:
    """A module such as someone brings, and a batch for it."""

    name: str
    group: str
    make: Make
    """Makes the module anew, from torch's random numbers."""
    inputs: Inputs
    """A tensor, a tuple of positional arguments, or a dict of keywords."""
    train: bool = False
    """Whether it runs in training mode."""
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-6
    """Largest relative error, in norm, of a gradient that is right."""
    needs: str = ""
    """The library that it comes from, where that is not torch."""


@dataclass
class Group:
    """Entries of one kind, listed in the order in which they are added."""

    name: str
    needs: str = ""
    entries: list[Entry] = field(default_factory=list)

    def add(self, name: str, make: Make, inputs: Inputs, **settings: Any) -> None:
        """List a module."""
        settings.setdefault("needs", self.needs)
        self.entries.append(Entry(name, self.name, make, inputs, **settings))

    def __call__(
        self, inputs: Inputs, name: str = "", **settings: Any
    ) -> Callable[[MakeOrModule], MakeOrModule]:
        """List the class, or the function that makes a module, that is defined below."""

        def decorate(make: MakeOrModule) -> MakeOrModule:
            self.add(name or getattr(make, "__name__", ""), make, inputs, **settings)
            return make

        return decorate


def normal(*shapes: tuple[int, ...]) -> Inputs:
    """Normal numbers: a tensor, or of several shapes a tuple of them."""
    return lambda: _one_or_all(tuple(torch.randn(shape) for shape in shapes))


def positive(*shapes: tuple[int, ...]) -> Inputs:
    """Numbers in 0 … 1."""
    return lambda: _one_or_all(tuple(torch.rand(shape) for shape in shapes))


def tokens(count: int, *shape: int) -> Inputs:
    """Token ids below ``count``."""
    return lambda: torch.randint(count, shape)


def _one_or_all(tensors: tuple[Tensor, ...]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors
