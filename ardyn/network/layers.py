"""The local rules of layers: forward, send back, weight update.

A layer holds the *names* of its parameters, never their values: the values are arguments, so that
they may move in time. A layer of your own needs the surface of ``LocalLayer``, and ``run_layer``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from ardyn.ensembles import by_member

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

    def update_into(
        self, parameters: Parameters, v: Tensor, x: Tensor, into: Parameters
    ) -> dict[str, Tensor]:
        """The same, written into the tensors of these names, of a layer that can do so."""
        return self.update(parameters, v, x)

    def matrix(self, W: Tensor) -> Tensor:
        """W as [n_{l+1}, n_l]; ψ is shaped like its transpose."""
        return W


@final
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
        return self.update_into(parameters, v, x, {})

    def update_into(
        self, parameters: Parameters, v: Tensor, x: Tensor, into: Parameters
    ) -> dict[str, Tensor]:
        """The same, written into the tensors of these names."""
        v, x = _rows(v), _rows(x)
        weight = {self.weight: torch.mm(v.mT, x, out=into.get(self.weight))}
        if self.bias is None:
            return weight
        return weight | {self.bias: torch.sum(v, 0, out=into.get(self.bias))}


def _rows(x: Tensor) -> Tensor:
    """[…, n] as [row, n]."""
    return x if x.ndim == 2 else x[None].flatten(0, -2)


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
