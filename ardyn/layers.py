"""The local rules of each kind of layer: forward, send back, weight update.

A layer holds the *names* of its parameters, never their values: the values are handed in, so that
they may carry leading ensemble axes or move in time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Parameters = Mapping[str, Tensor]
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Linear:
    """A fully connected layer; W is [n_{l+1}, n_l], as torch stores it."""

    weight: str
    bias: str | None

    def forward(self, parameters: Parameters, x: Tensor) -> Tensor:
        """a = x Wᵀ + b; x is [..., batch, n_l], a is [..., batch, n_{l+1}]."""
        a = x @ parameters[self.weight].mT
        return a if self.bias is None else a + parameters[self.bias]

    def send_back(self, parameters: Parameters, v: Tensor, psi: Tensor | None) -> Tensor:
        """v W, or v ψᵀ where there are feedback weights; v is [..., batch, n_{l+1}].

        ψ is [n_l, n_{l+1}], the shape of Wᵀ.
        """
        return v @ (parameters[self.weight] if psi is None else psi.mT)

    def update(self, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        """vᵀ x for W and Σ v for b, summed over the batch (paper, Eq. 2)."""
        weight = {self.weight: v.mT @ x}
        return weight if self.bias is None else weight | {self.bias: v.sum(-2)}


@dataclass(frozen=True)
class PassThrough:
    """No layer: an activation that stands alone. a = x, nothing to learn."""

    weight: str | None = None

    def forward(self, parameters: Parameters, x: Tensor) -> Tensor:
        """a = x."""
        return x

    def send_back(self, parameters: Parameters, v: Tensor, psi: Tensor | None) -> Tensor:
        """v, unchanged."""
        return v

    def update(self, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        """No parameters, no update."""
        return {}


Layer = Linear | PassThrough


def identity(x: Tensor) -> Tensor:
    """f(a) = a."""
    return x


def activate(f: Activation, a: Tensor) -> tuple[Tensor, Tensor]:
    """f(a) and f′(a) of an elementwise f, both shaped like a; f′ by autograd."""
    with torch.enable_grad():
        a = a.detach().requires_grad_()
        y = f(a)
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
