"""Tensors in tuples, lists, dicts, named tuples and dataclasses: what modules take and return."""

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

_SINGLE = frozenset({bool, int, float, str, slice})
"""Types of what holds no tensor, as most arguments are."""


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor, in order."""
    found: list[Tensor] = []
    _collect(value, found)
    return found


def swap_tensors(value: Any, by: Callable[[Tensor], Tensor]) -> Any:
    """The same with other tensors; a value without tensors is returned itself."""
    if isinstance(value, Tensor):
        return by(value)
    if isinstance(value, (tuple, list)):
        parts = [swap_tensors(each, by) for each in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if not tensors_in(value):
        return value
    new = copy.copy(value)
    if isinstance(value, dict):
        for key, each in value.items():
            new[key] = swap_tensors(each, by)
    elif is_dataclass(value):
        for field in fields(value):
            object.__setattr__(new, field.name, swap_tensors(getattr(value, field.name), by))
    return new


def _collect(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif value is None or type(value) in _SINGLE:
        return
    elif isinstance(value, (tuple, list)):
        for each in value:
            _collect(each, found)
    elif isinstance(value, dict):
        for each in value.values():
            _collect(each, found)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            _collect(getattr(value, field.name), found)
