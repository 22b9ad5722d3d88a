"""Elementwise activations: f, f′, and which torch calls they are.

They may be called as modules, as functions or as methods, in place or not.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """f(a) = a."""
    return x


def _times_tanh(v: Tensor, y: Tensor) -> Tensor:
    """v ⊙ (1 − y²)."""
    return torch.ops.aten.tanh_backward(v, y)  # type: ignore[no-any-return]


def _times_sigmoid(v: Tensor, y: Tensor) -> Tensor:
    """v ⊙ y (1 − y)."""
    return torch.ops.aten.sigmoid_backward(v, y)  # type: ignore[no-any-return]


def _times_relu(v: Tensor, y: Tensor) -> Tensor:
    """v where y > 0."""
    return torch.ops.aten.threshold_backward(v, y, 0)  # type: ignore[no-any-return]


TIMES_SLOPE: Mapping[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    torch.tanh: _times_tanh,
    torch.sigmoid: _times_sigmoid,
    torch.relu: _times_relu,
}
"""v ⊙ f′(a) from v and y = f(a), in one pass over memory, so that f′ is never written out."""


@dataclass(frozen=True)
class Slope:
    """f′(a) of an elementwise f, one number per neuron."""

    activation: Activation
    known: Tensor
    """y = f(a) where ``TIMES_SLOPE`` has f, else f′(a) itself."""

    @classmethod
    def at(cls, f: Activation, a: Tensor, y: Tensor | None = None) -> "Slope":
        """At the pre-activation a; y = f(a), where that is known already."""
        a = a.detach()
        if f in TIMES_SLOPE:
            return cls(f, f(a) if y is None else y)
        with torch.enable_grad():
            a = a.requires_grad_()
            (slope,) = torch.autograd.grad(f(a).sum(), a)
        return cls(f, slope)

    def times(self, v: Tensor) -> Tensor:
        """v ⊙ f′(a); v is [batch, …], or a stack of such."""
        times = TIMES_SLOPE.get(self.activation, torch.mul)
        return times(v, self.known)

    def value(self) -> Tensor:
        """f′(a)."""
        return self.times(torch.ones_like(self.known))

    def samples(self, which: slice) -> "Slope":
        """Of some samples of the batch only."""
        return replace(self, known=self.known[which])


def scale(v: Tensor, slope: Slope | None) -> Tensor:
    """v ⊙ f′; None stands for f′ = 1."""
    return v if slope is None else slope.times(v)


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
"""Of built-in functions, which have no signature."""
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
