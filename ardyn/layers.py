"""The local rules of each kind of layer: forward, send back, weight update.

A layer holds the *names* of its parameters, never their values: the values are handed in, so that
they may move in time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from ardyn.stacked import by_member

Parameters = Mapping[str, Tensor]
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Linear:
    """A fully connected layer; W is [n_{l+1}, n_l], as torch stores it."""

    weight: str
    bias: str | None
    learns: ClassVar[bool] = True

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
        v, x = v.reshape(-1, v.shape[-1]), x.reshape(-1, x.shape[-1])
        weight = {self.weight: v.mT @ x}
        return weight if self.bias is None else weight | {self.bias: v.sum(0)}

    def matrix(self, W: Tensor) -> Tensor:
        """W, [n_{l+1}, n_l]; ψ is shaped like its transpose."""
        return W


_Sizes = tuple[int, ...]
_Geometry = tuple[_Sizes, _Sizes, _Sizes, bool, _Sizes, int]


@dataclass(frozen=True)
class Conv:
    """A convolution, transposed or not, in one to three dimensions; padded with zeros."""

    weight: str
    bias: str | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    is_transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    learns: ClassVar[bool] = True

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
class PerMember:
    """The rule of a layer for every member of an ensemble: its parameters and ψ are [member, …].

    Activities are [member · batch, …], and so are the errors that are sent back.
    """

    layer: Linear | Conv
    learns: ClassVar[bool] = True

    @property
    def weight(self) -> str:
        """Name of the weights, [member, …]."""
        return self.layer.weight

    @property
    def bias(self) -> str | None:
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
class PassThrough:
    """No layer: an activation that stands alone. a = x, nothing to learn."""

    weight: ClassVar[None] = None
    learns: ClassVar[bool] = False

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
class Operation:
    """Anything else: autograd differentiates it at the frozen pass, whatever the Rule."""

    parameters: tuple[str, ...] = ()
    """Names of the parameters that it reads itself."""
    part: tuple[object, ...] = ()
    """Indices of the part of its value that counts, where it returns a tuple."""

    @property
    def learns(self) -> bool:
        """Whether it has parameters."""
        return bool(self.parameters)


Weighted = Linear | Conv | PerMember
LocalLayer = Weighted | PassThrough
Layer = LocalLayer | Operation


def _bias(layer: Linear | Conv, parameters: Parameters) -> Tensor | None:
    return None if layer.bias is None else parameters[layer.bias]


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


# Only functions that act on each element alone may stand here: their f′ is one number per neuron.
ELEMENTWISE_MODULES: tuple[type[nn.Module], ...] = (
    nn.Tanh,
    nn.ReLU,
    nn.Sigmoid,
    nn.GELU,
    nn.LeakyReLU,
    nn.ELU,
    nn.SiLU,
    nn.Softplus,
    nn.Hardtanh,
)
ELEMENTWISE_FUNCTIONS: frozenset[object] = frozenset(
    {
        torch.tanh,
        torch.relu,
        torch.sigmoid,
        functional.tanh,
        functional.relu,
        functional.sigmoid,
        functional.gelu,
        functional.leaky_relu,
        functional.elu,
        functional.silu,
        functional.softplus,
        functional.hardtanh,
    }
)
ELEMENTWISE_METHODS: frozenset[str] = frozenset({"tanh", "relu", "sigmoid"})
