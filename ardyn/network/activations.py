"""Elementwise activations: f, f′, and which torch calls they are.

They may be called as modules, as functions or as methods, in place or not.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """f(a) = a."""
    return x


def scale(v: Tensor, slope: Tensor | None) -> Tensor:
    """v ⊙ f′; None stands for f′ = 1."""
    return v if slope is None else v * slope


SLOPES: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    torch.tanh: lambda y: torch.addcmul(y.new_ones(()), y, y, value=-1),  # 1 − y², in one pass
    torch.sigmoid: lambda y: y * (1 - y),
    torch.relu: lambda y: (y > 0).to(y),
}
"""f′(a) as a function of y = f(a)."""


def activate(f: Activation, a: Tensor) -> tuple[Tensor, Tensor]:
    """f(a) and f′(a) of an elementwise f, both shaped like a; f′ by ``SLOPES``, or by autograd."""
    a = a.detach()
    if f in SLOPES:
        y = f(a)
        return y, SLOPES[f](y)
    with torch.enable_grad():
        y = f(a.requires_grad_())
        (slope,) = torch.autograd.grad(y, a, torch.ones_like(y))
    return y.detach(), slope


def slope_at(f: Activation, a: Tensor, y: Tensor) -> Tensor:
    """f′(a), where y = f(a) is known already."""
    return SLOPES[f](y) if f in SLOPES else activate(f, a)[1]


@dataclass(frozen=True)
class Elementwise:
    """An elementwise function with its settings, such as a slope."""

    function: Callable[..., Tensor]
    settings: tuple[tuple[str, Any], ...]

    def __call__(self, x: Tensor) -> Tensor:
        """f(x)."""
        return self.function(x, **dict(self.settings))


# Only functions that act on each element alone may stand here: their f′ is one number per neuron.
_PLAIN = ("tanh", "relu", "sigmoid")
_SET = ("gelu", "softplus", "leaky_relu", "elu", "silu", "hardtanh", "selu", "celu", "mish")
_SETTINGS = {"gelu": ("approximate",), "softplus": ("beta", "threshold")}
"""Of those that are built in, and have no signature to ask."""
_WAYS: dict[Any, Any] = {
    way: getattr(torch, name)
    for name in _PLAIN
    for home in (torch, Tensor, functional)
    for way in (getattr(home, name, None), getattr(home, f"{name}_", None))
    if way is not None
} | {
    getattr(functional, way): getattr(functional, name)
    for name in _SET
    for way in (name, f"{name}_")
    if hasattr(functional, way)
}
ELEMENTWISE: Mapping[Any, Any] = _WAYS
"""The function that returns a new tensor, by each way to call it."""


def called_activation(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Activation | None:
    """The elementwise function that a call applies, never in place, or None."""
    if function not in ELEMENTWISE:
        return None
    f: Activation = ELEMENTWISE[function]
    if len(args) == 1 and not kwargs:
        return f
    given = dict(zip(_names(f), args, strict=False)) | dict(kwargs)
    settings = {name: given[name] for name in given if name not in ("input", "self", "inplace")}
    if f.__name__ in _PLAIN or not settings:
        return f
    return Elementwise(f, tuple(sorted(settings.items())))


def argument(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
    """An argument of a call by its name; None if it has none."""
    if name in kwargs or not args:
        return kwargs.get(name)
    names = _names(function)
    at = names.index(name) if name in names else len(args)
    return args[at] if at < len(args) else None


@functools.lru_cache(maxsize=256)
def _names(function: Any) -> tuple[str, ...]:
    """Names of a function's arguments."""
    name = getattr(function, "__name__", "").rstrip("_")
    if name in _SETTINGS:
        return ("input", *_SETTINGS[name])
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ("input",)
