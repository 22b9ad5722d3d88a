"""The local rules of layers: forward, send back, weight update; and which calls are of one.

A layer holds the *names* of its parameters, never their values: the values are arguments, so that
they may move in time. A layer of your own needs the surface of ``LocalLayer``, and ``run_layer``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import handle_torch_function, has_torch_function

from ardyn.ensembles import Stacked, by_member, each_member

Parameters = Mapping[str, Tensor]


class Layer:
    """a = layer(h), with a rule of its own for what it sends back and for its weight update.

    Activities are [batch, …]; what is sent back has any number of leading axes, [entry, batch, …].
    """

    weight: str | None
    """Name of the weights that ψ can stand in for."""
    bias: str | None
    """Name of the biases."""
    is_local: ClassVar[bool] = True
    """Whether it has this rule; else autograd differentiates it at the frozen pass."""
    is_stacked: ClassVar[bool] = False
    """Whether its parameters are those of an ensemble, [member, …]."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its parameters."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)

    def forward(self, parameters: Parameters, x: Tensor) -> Tensor:
        """a, from x = h."""
        raise NotImplementedError

    def send_back(self, parameters: Parameters, v: Tensor, psi: Tensor | None, x: Tensor) -> Tensor:
        """v W, or v ψᵀ where there are feedback weights; x is what the layer reads."""
        raise NotImplementedError

    def update(self, parameters: Parameters, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Gradients by parameter, from v = x^{l+1} ⊙ f′ and the activity below (paper, Eq. 2)."""
        raise NotImplementedError

    def matrix(self, W: Tensor) -> Tensor:
        """W as [n_{l+1}, n_l]; ψ is shaped like its transpose."""
        return W


@dataclass(frozen=True)
class Linear(Layer):
    """A fully connected layer; W is [n_{l+1}, n_l], as torch stores it."""

    weight: str
    bias: str | None

    def forward(self, parameters: Parameters, x: Tensor) -> Tensor:
        """a = x Wᵀ + b; x is [batch, …, n_l], a is [batch, …, n_{l+1}]."""
        return functional.linear(x, parameters[self.weight], _bias(self, parameters))

    def send_back(self, parameters: Parameters, v: Tensor, psi: Tensor | None, x: Tensor) -> Tensor:
        """v W, or v ψᵀ where there are feedback weights; v is [entry, batch, …, n_{l+1}].

        ψ is [n_l, n_{l+1}], the shape of Wᵀ.
        """
        return v @ (parameters[self.weight] if psi is None else psi.mT)

    def update(self, parameters: Parameters, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        """vᵀ x for W and Σ v for b, summed over the batch (paper, Eq. 2)."""
        v, x = v[None].flatten(0, -2), x[None].flatten(0, -2)
        weight = {self.weight: v.mT @ x}
        return weight if self.bias is None else weight | {self.bias: v.sum(0)}


_Sizes = tuple[int, ...]
_Geometry = tuple[_Sizes, _Sizes, _Sizes, bool, _Sizes, int]


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution, transposed or not, in one to three dimensions; padded with zeros."""

    weight: str
    bias: str | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    is_transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @property
    def _geometry(self) -> _Geometry:
        shape = (self.stride, self.padding, self.dilation)
        return (*shape, self.is_transposed, self.output_padding, self.groups)

    def forward(self, parameters: Parameters, x: Tensor) -> Tensor:
        """a = W ∗ x + b; x is [batch, channel, …]."""
        return torch.convolution(
            x, parameters[self.weight], _bias(self, parameters), *self._geometry
        )

    def send_back(self, parameters: Parameters, v: Tensor, psi: Tensor | None, x: Tensor) -> Tensor:
        """v pulled back through W, or through the kernel that ψ makes; v is [entry, batch, …].

        ψ is [n, m], the shape of the transpose of the kernel flattened to [m, n].
        """
        W = parameters[self.weight]
        kernel = W if psi is None else psi.mT.reshape(W.shape)
        entries = v.shape[: v.ndim - x.ndim]
        flat = v.reshape(-1, *v.shape[v.ndim - x.ndim + 1 :])
        # Only the shape of what was convolved matters here, so that it takes no memory.
        shaped = x.new_empty(1).expand(len(flat), *x.shape[1:])
        pulled = self._backward(flat, shaped, kernel, (True, False, False))[0]
        return pulled.reshape(*entries, *x.shape)

    def update(self, parameters: Parameters, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        """The same products as a fully connected layer's, summed over positions too."""
        wanted = (False, True, self.bias is not None)
        _, weight, bias = self._backward(v, x, parameters[self.weight], wanted)
        return {self.weight: weight} | ({} if self.bias is None else {self.bias: bias})

    def matrix(self, W: Tensor) -> Tensor:
        """The kernel flattened to [m, n]; ψ is shaped like its transpose."""
        return W.flatten(1)

    def _backward(
        self, v: Tensor, x: Tensor, W: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        channels = [v.shape[1]]
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            v, x, W, channels, *self._geometry, wanted
        )
        return found


@dataclass(frozen=True)
class PerMember(Layer):
    """The rule of a layer for every member of an ensemble: its parameters and ψ are [member, …].

    Activities are [member · batch, …], and so are the errors that are sent back.
    """

    layer: Linear | Conv
    is_stacked: ClassVar[bool] = True

    @property
    def weight(self) -> str:  # type: ignore[override]
        """Name of the weights, [member, …]."""
        return self.layer.weight

    @property
    def bias(self) -> str | None:  # type: ignore[override]
        """Name of the biases, [member, …]."""
        return self.layer.bias

    def forward(self, parameters: Parameters, x: Tensor) -> Tensor:
        """The layer's forward pass, for each member."""
        own, count = self._own(parameters)
        a: Tensor = vmap(self.layer.forward)(own, by_member(x, count))
        return a.flatten(0, 1)

    def send_back(self, parameters: Parameters, v: Tensor, psi: Tensor | None, x: Tensor) -> Tensor:
        """What the layer sends back, for each member."""
        own, count = self._own(parameters)
        axis = v.ndim - x.ndim
        in_dims = (0, axis, None if psi is None else 0, 0)
        pull = vmap(self.layer.send_back, in_dims=in_dims, out_dims=axis)
        pulled: Tensor = pull(own, by_member(v, count, axis), psi, by_member(x, count))
        return pulled.flatten(axis, axis + 1)

    def update(self, parameters: Parameters, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        """The layer's update, for each member, [member, …]."""
        own, count = self._own(parameters)
        changes: dict[str, Tensor] = vmap(self.layer.update)(
            own, by_member(v, count), by_member(x, count)
        )
        return changes

    def matrix(self, W: Tensor) -> Tensor:
        """[member, m, n]; ψ is [member, n, m]."""
        flat: Tensor = vmap(self.layer.matrix)(W)
        return flat

    def _own(self, parameters: Parameters) -> tuple[Parameters, int]:
        own = {name: parameters[name] for name in (self.weight, self.bias) if name is not None}
        return own, len(own[self.weight])


@dataclass(frozen=True)
class PassThrough(Layer):
    """No layer: an activation that stands alone. a = x, nothing to learn."""

    weight: None = field(default=None, init=False)
    bias: None = field(default=None, init=False)

    def forward(self, parameters: Parameters, x: Tensor) -> Tensor:
        """a = x."""
        return x

    def send_back(self, parameters: Parameters, v: Tensor, psi: Tensor | None, x: Tensor) -> Tensor:
        """v, unchanged."""
        return v

    def update(self, parameters: Parameters, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        """No parameters, no update."""
        return {}


@dataclass(frozen=True)
class Operation(Layer):
    """Anything else: autograd differentiates it at the frozen pass, whatever the Rule."""

    parameters: tuple[str, ...] = ()
    """Names of the parameters that it reads."""
    weight: None = field(default=None, init=False)
    bias: None = field(default=None, init=False)
    is_local: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of its parameters."""
        return self.parameters


def _bias(layer: Linear | Conv, parameters: Parameters) -> Tensor | None:
    return None if layer.bias is None else parameters[layer.bias]


def run_layer(kind: Callable[..., Layer], x: Tensor, **parameters: Tensor) -> Tensor:
    """a = layer(x) of a layer of your own, as one call that a Relaxation recognises.

    To be called in a module's ``forward``, with its parameters by the fields of the layer:
    ``run_layer(MyLayer, x, weight=self.weight)``.

    Args:
        kind: makes the layer from the names of its parameters, a subclass of ``Layer``.

    Raises:
        InputError: where it is relaxed, if its rule does not give autograd's gradients.
    """
    if has_torch_function((x,)):
        return handle_torch_function(run_layer, (x,), kind, x, **parameters)
    return kind(**{name: name for name in parameters}).forward(parameters, x)


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
