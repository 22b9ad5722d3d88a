"""Which traced operations are layers and activations whose local rules ardyn knows.

They may be called as modules, as functions or as methods.
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ardyn.layers import (
    ELEMENTWISE_FUNCTIONS,
    ELEMENTWISE_METHODS,
    ELEMENTWISE_MODULES,
    Activation,
    Conv,
    Linear,
    PerMember,
    Weighted,
)
from ardyn.stacked import Stacked

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_FUNCTIONS: Mapping[type[nn.Module], Activation] = {
    nn.Tanh: torch.tanh,
    nn.Sigmoid: torch.sigmoid,
    nn.ReLU: torch.relu,
}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def weighted_layer(model: nn.Module, node: fx.Node) -> Weighted | None:
    """The fully connected layer or convolution that a node applies, or None.

    A weight that is itself computed makes it None, as autograd must follow the computation.
    """
    if node.op == "call_module":
        module, name = model.get_submodule(str(node.target)), str(node.target)
        if isinstance(module, Stacked):
            layer = _called_module(module.one, name)
            return layer and PerMember(layer)
        return _called_module(module, name)
    if node.op == "call_function" and node.target in (functional.linear, *_CONVOLUTIONS):
        return _called_function(model, node)
    return None


def elementwise(model: nn.Module, node: fx.Node) -> Activation | None:
    """The elementwise function that a node applies, never in place, or None."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if not isinstance(module, ELEMENTWISE_MODULES):
            return None
        if type(module) in _FUNCTIONS:
            return _FUNCTIONS[type(module)]
        if getattr(module, "inplace", False):
            module = copy.copy(module)
            setattr(module, "inplace", False)  # noqa: B010  (not declared on nn.Module)
        return module
    settings: Mapping[str, object] = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    name = str(getattr(node.target, "__name__", node.target)).rstrip("_")
    if node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS and len(node.args) == 1:
        if name in ELEMENTWISE_METHODS:
            return getattr(torch, name)  # type: ignore[no-any-return]
        if len(node.all_input_nodes) > 1:
            return None
        return functools.partial(cast(Activation, node.target), **settings)
    if node.op == "call_method" and name in ELEMENTWISE_METHODS:
        return getattr(torch, name)  # type: ignore[no-any-return]
    return None


def _called_module(module: nn.Module, name: str) -> Linear | Conv | None:
    if "weight" not in module._parameters:
        return None
    weight = f"{name}.weight"
    has_bias = getattr(module, "bias", None) is not None
    if has_bias and "bias" not in module._parameters:
        return None
    bias = f"{name}.bias" if has_bias else None
    if type(module) is nn.Linear:
        return Linear(weight, bias)
    if not isinstance(module, _ConvNd) or module.padding_mode != "zeros":
        return None
    padding = _padding(module.padding, module.dilation, module.kernel_size)
    if padding is None:
        return None
    return Conv(
        weight,
        bias,
        module.stride,
        padding,
        module.dilation,
        isinstance(module, _ConvTransposeNd),
        module.output_padding,
        module.groups,
    )


def _called_function(model: nn.Module, node: fx.Node) -> Linear | Conv | None:
    given: dict[str, Any] = dict(zip(_ARGUMENTS, node.args, strict=False)) | node.kwargs
    own = dict(model.named_parameters(remove_duplicate=False))
    weight, bias = (_parameter(given.get(each)) for each in ("weight", "bias"))
    if weight not in own or (bias not in own and given.get("bias") is not None):
        return None
    if node.target is functional.linear:
        return Linear(weight, bias)
    size = own[weight].shape[2:]
    stride, dilation = (_each(given.get(name, 1), size) for name in ("stride", "dilation"))
    padding = _padding(given.get("padding", 0), dilation, size)
    if padding is None:
        return None
    none = (0,) * len(size)
    return Conv(weight, bias, stride, padding, dilation, False, none, given.get("groups", 1))


def _parameter(argument: object) -> str | None:
    """Name of what a node reads from the module."""
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        return str(argument.target)
    return None


def _padding(
    padding: str | int | Sequence[int], dilation: Sequence[int], kernel: Sequence[int]
) -> tuple[int, ...] | None:
    """Zeros on each side of each dimension; None where the sides differ."""
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return None if any(each % 2 for each in reach) else tuple(each // 2 for each in reach)
    return (0,) * len(kernel) if isinstance(padding, str) else _each(padding, kernel)


def _each(value: int | Sequence[int], like: Sequence[int]) -> tuple[int, ...]:
    return (value,) * len(like) if isinstance(value, int) else tuple(value)
