"""Which calls and modules of torch apply a layer with a local rule, and with what geometry."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ardyn.ensembles import Stacked, each_member
from ardyn.network.layers import Conv, Layer, Linear, PerMember, run_layer

_CONVOLUTIONS: Mapping[Any, bool] = {
    torch.conv1d: False,
    torch.conv2d: False,
    torch.conv3d: False,
    torch.conv_transpose1d: True,
    torch.conv_transpose2d: True,
    torch.conv_transpose3d: True,
}
"""Whether each is transposed."""


LAYERS = frozenset({functional.linear, each_member, run_layer, *_CONVOLUTIONS})
"""Calls that may be of a layer with a local rule."""


_SHARED = ("input", "weight", "bias", "stride", "padding")


_ARGUMENTS: Mapping[bool, tuple[str, ...]] = {
    False: (*_SHARED, "dilation", "groups"),
    True: (*_SHARED, "output_padding", "groups", "dilation"),
}


Name = Callable[[object], str | None]
"""The name of a parameter, None of anything else."""


def called_layer(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: Name
) -> tuple[Layer, Tensor] | None:
    """The fully connected layer or convolution that a torch call applies, and to what.

    None for other calls, and where a local rule would not be what autograd does: a weight that is
    itself computed, complex numbers, autocast.
    """
    if function is each_member:
        return _called_stack(args, name)
    if function is run_layer:
        kind, x = args
        names = {field: name(p) for field, p in kwargs.items()}
        return None if None in names.values() else (kind(**names), x)
    if function is functional.linear and len(args) == 3:
        return _called_linear(*args, name)
    is_transposed = _CONVOLUTIONS.get(function, False)
    given = dict(zip(_ARGUMENTS[is_transposed], args, strict=False)) | dict(kwargs)
    x, weight, bias = given["input"], name(given["weight"]), name(given.get("bias"))
    if weight is None or (bias is None and given.get("bias") is not None):
        return None
    if function is functional.linear:
        return _called_linear(x, given["weight"], given.get("bias"), name)
    W = given["weight"]
    if type(x) is not Tensor or W.is_complex() or torch.is_autocast_enabled(x.device.type):
        return None
    layer = _convolution(given, W, is_transposed, weight, bias)
    return None if layer is None or x.ndim != W.ndim else (layer, x)


def layer_of(module: nn.Module, name: str) -> Layer | None:
    """The layer that a module of torch's applies, by its settings; ``name`` is the module's own."""
    if isinstance(module, Stacked):
        layer = layer_of(module.one, name)
        return layer and PerMember(layer)  # type: ignore[arg-type]
    if type(module) is not nn.Linear and not isinstance(module, _ConvNd):
        return None
    prefix = f"{name}." if name else ""
    if "weight" not in module._parameters:
        return None
    bias = None if module.bias is None else f"{prefix}bias"
    if isinstance(module, nn.Linear):
        return Linear(f"{prefix}weight", bias)
    transposed = isinstance(module, _ConvTransposeNd)
    return _convolution(vars(module), module.weight, transposed, f"{prefix}weight", bias)


def _convolution(
    given: Mapping[str, Any], W: Tensor, transposed: bool, weight: str, bias: str | None
) -> Conv | None:
    size = W.shape[2:]
    stride, dilation, output_padding = (
        _each(given.get(name, default), size)
        for name, default in (("stride", 1), ("dilation", 1), ("output_padding", 0))
    )
    padding, groups = _padding(given.get("padding", 0), dilation, size), given.get("groups", 1)
    if padding is None:
        return None
    return Conv(weight, bias, stride, padding, dilation, transposed, output_padding, groups)


def _called_linear(
    x: Tensor, W: Tensor, b: Tensor | None, name: Name
) -> tuple[Layer, Tensor] | None:
    weight, bias = name(W), None if b is None else name(b)
    if weight is None or (bias is None and b is not None) or W.ndim != 2:
        return None
    if type(x) is not Tensor or W.is_complex() or torch.is_autocast_enabled(x.device.type):
        return None
    return Linear(weight, bias), x


def _called_stack(args: tuple[Any, ...], name: Name) -> tuple[Layer, Tensor] | None:
    """The layer that an ensemble applies for each of its members."""
    module, *inputs = args
    W = name(getattr(module, "weight", None))
    is_plain = getattr(module.one, "padding_mode", "zeros") == "zeros"
    if W is None or not is_plain or len(inputs) != 1:
        return None
    layer = layer_of(module, W.rpartition(".")[0])
    return None if layer is None else (layer, inputs[0])


def _padding(
    padding: str | int | Sequence[int], dilation: Sequence[int], kernel: Sequence[int]
) -> tuple[int, ...] | None:
    """Zeros on each side of each dimension; None where the sides differ."""
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return None if any(each % 2 for each in reach) else tuple(each // 2 for each in reach)
    return (0,) * len(kernel) if isinstance(padding, str) else _each(padding, kernel)


def _each(value: int | Sequence[int], like: Sequence[int]) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * len(like)
    return tuple(value) * (len(like) if len(value) == 1 else 1)
