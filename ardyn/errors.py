"""Exceptions and checks. Every message is one sentence: the value, the rule, the cure."""

import difflib
import math
from collections.abc import Iterable, Mapping
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


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity, judged by their sums."""
    sums = [x.detach().sum() for x in tensors if x.is_floating_point() or x.is_complex()]
    return all(math.isfinite(abs(each)) for each in torch.stack(sums).tolist()) if sums else True


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
