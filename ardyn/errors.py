"""Exceptions and checks. Every message is one sentence: the value, the rule, the cure."""

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from numbers import Real
from typing import TypeGuard

import torch
from torch import Tensor


class ArdynError(Exception):
    """Base class of ardyn's exceptions."""


class InputError(ArdynError, ValueError):
    """A value that ardyn cannot use."""


class DivergenceError(ArdynError, ArithmeticError):
    """A solution that became infinite or NaN, or an adaptive step that became too small."""


def check_choice(what: str, value: object, allowed: Iterable[str]) -> None:
    """Raise InputError unless ``value`` is one of ``allowed``; suggests the most similar one."""
    names = list(allowed)
    if isinstance(value, str) and value in names:
        return
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise InputError(f"unknown {what} {value!r}: {hint}choose one of {', '.join(names)}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number of Python or NumPy; a bool is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(what: str, value: float, such_as: float = 1) -> None:
    """Raise InputError unless ``value`` is a positive, finite number."""
    if not is_number(value):
        raise InputError(f"{what} must be a number, got {value!r}; pass one such as {such_as:g}")
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            f"{what} must be positive and finite, got {value}; pass one such as {such_as:g}"
        )


_POSTPONED: ContextVar[list[Tensor] | None] = ContextVar("postponed", default=None)


@contextlib.contextmanager
def postponing(sums: list[Tensor]) -> Iterator[None]:
    """Within it, checks for finite numbers add to ``sums`` what they would read from the device."""
    token = _POSTPONED.set(sums)
    try:
        yield
    finally:
        _POSTPONED.reset(token)


def is_postponing() -> bool:
    """Whether a number that a check needs must not be read now."""
    return _POSTPONED.get() is not None


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity; True if that is postponed."""
    tensors = [x.detach() for x in tensors if x.is_floating_point() or x.is_complex()]
    sums = [_sum(x) for x in tensors]
    postponed = _POSTPONED.get()
    if postponed is not None:
        postponed += sums
        return True
    if not sums or all(map(math.isfinite, torch.stack(sums).tolist())):
        return True
    return all(bool(x.isfinite().all()) for x in tensors)  # finite numbers may have an infinite sum


def _sum(x: Tensor) -> Tensor:
    if x.is_complex():
        return x.sum().abs()
    return x.sum(dtype=torch.float32 if x.dtype.itemsize == 2 else None)


class StepSums:
    """Which step was the first that was not finite, found without reading from the device."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.count = 0
        self._sums: list[Tensor] = []
        self._numbers: list[int] = []
        self._lost: Tensor | None = None

    def add(self, sums: Sequence[Tensor]) -> None:
        """One more step, and the numbers that are finite if it is."""
        self.count += 1
        self._sums += sums
        self._numbers += [self.count] * len(sums)
        if len(self._sums) > _MOST_SUMS:
            self._fold()

    def first_lost(self) -> int | None:
        """The first step that was not finite, from 1; None if all were. Begins anew."""
        if self._sums:
            self._fold()
        lost = math.inf if self._lost is None else float(self._lost)
        self.clear()
        return int(lost) if lost < math.inf else None

    def _fold(self) -> None:
        finite = torch.cat([each.reshape(1) for each in self._sums]).isfinite()
        numbers = torch.tensor(self._numbers, dtype=torch.float64, device=finite.device)
        lost = numbers.masked_fill(finite, math.inf).min()
        self._lost = lost if self._lost is None else torch.minimum(self._lost, lost)
        self._sums, self._numbers = [], []


_MOST_SUMS = 1000
"""Numbers kept before they are gathered into one."""


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError for NaN or infinity; the message gives the tensor and the index."""
    if is_finite(tensors.values()):
        return
    for name, x in tensors.items():
        bad = (~x.isfinite()).nonzero()
        if len(bad):
            where = bad[0].tolist()
            raise InputError(
                f"{name} holds {x[tuple(where)].item()} at {where} ({len(bad)} such values); "
                f"replace values that are not finite"
            )


def check_time_constant(what: str, tau: float) -> None:
    """Raise InputError unless τ is positive or infinite."""
    if not is_number(tau) or not tau > 0:
        raise InputError(f"{what} must be positive, or infinite, got {tau}; use one such as 1000")


def first_line(error: BaseException | None) -> str:
    """What an error of another library says, without its further lines."""
    return (str(error).splitlines() or [""])[0]
