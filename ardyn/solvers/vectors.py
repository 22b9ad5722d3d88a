"""The state of an ODE as one vector, and views of it as a State."""

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ardyn.state import State

_ALIGNED = 16
"""Every tensor of the state begins at a multiple of so many numbers of the vector: 64 bytes in
float32, as vector instructions and complex views want it. What lies between stays zero."""


class Layout:
    """Where each tensor of a state is in a vector, [number], or in one per sample, [batch, number].

    Args:
        like: a state of the same shapes.
        by_sample: one vector for each sample; every tensor is [batch, …].
    """

    def __init__(self, like: State, by_sample: bool = False) -> None:
        self.like, self.tensors = like, like.tensors()
        self.leading = self.tensors[0].shape[:1] if by_sample else torch.Size()
        self.shapes = [x.shape[len(self.leading) :] for x in self.tensors]
        sizes = [shape.numel() for shape in self.shapes]
        padded = [-(-size // _ALIGNED) * _ALIGNED for size in sizes]
        ends = list(itertools.accumulate(padded, initial=0))
        self.places = [slice(at, at + size) for at, size in zip(ends, sizes, strict=False)]
        self.size = ends[-1]
        self.roots = [max(size, 1) ** 0.5 for size in sizes]
        """√(numbers of each tensor)."""
        kind = functools.reduce(torch.promote_types, (x.dtype for x in self.tensors))
        self._like = self.tensors[0].new_empty(0, dtype=kind)
        self._gaps = [
            slice(own.stop, end)
            for own, end in zip(self.places, ends[1:], strict=True)
            if own.stop < end
        ]
        kinds = {x.dtype for x in (*self.tensors, *_plain(like))}
        self.has_views = len(kinds) == 1
        """Whether all tensors have one real type; else a vector is copied into a State."""

    def new(self, *leading: int) -> Tensor:
        """Room for vectors, [*leading, (batch,) number]; only what lies between tensors is set."""
        room = self.record(*leading)
        for gap in self._gaps:
            room[..., gap].zero_()
        return room

    def record(self, *leading: int) -> Tensor:
        """Room for a record of vectors: [*leading, (batch,) number]."""
        return self._like.new_empty((*leading, *self.leading, self.size))

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of each tensor's own numbers, [*leading, (batch,) number]."""
        return [vector[..., place] for place in self.places]

    def state(self, vector: Tensor) -> State:
        """As a State, its tensors [*leading, (batch,) …]."""
        leading = vector.shape[:-1]
        parts = zip(self.split(vector), self.shapes, strict=True)
        return self.like.with_tensors([part.view(*leading, *shape) for part, shape in parts])

    def write(self, state: State, vector: Tensor) -> None:
        """Copy a state into a vector."""
        for x, place in zip(state.tensors(), self.split(vector), strict=True):
            place.copy_(x.reshape(place.shape))

    def norm(self, vector: Tensor) -> list[float]:
        """The largest root mean square of any tensor, [1] or [batch]; torchdiffeq's norm."""
        return self.norm_and(self.split(vector))[0]

    def norm_and(self, parts: Sequence[Tensor], *numbers: Tensor) -> tuple[list[float], ...]:
        """The norm of a vector, and other numbers as floats; one wait for the device.

        Args:
            parts: the vector, split.
            numbers: [], or [batch] each.
        """
        if self.leading:
            found = [torch.linalg.vector_norm(part, dim=-1) for part in parts]
        else:
            found = list(torch._foreach_norm(list(parts)))
        rows = torch.stack([*found, *numbers]).view(len(found) + len(numbers), -1).tolist()
        sizes = zip(*rows[: len(found)], strict=True)
        return [_largest(each, self.roots) for each in sizes], *rows[len(found) :]


def _largest(norms: Sequence[float], roots: Sequence[float]) -> float:
    """The largest norm / √n; NaN if any is."""
    shares = [norm / root for norm, root in zip(norms, roots, strict=True)]
    return math.nan if any(map(math.isnan, shares)) else max(shares)


def _plain(state: State) -> Sequence[Tensor]:
    return list(state.named().values())
