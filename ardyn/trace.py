"""Trace: what one frozen feed-forward pass leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ardyn.errors import InputError
from ardyn.layers import Parameters, activate
from ardyn.network import INPUT, Network


@dataclass(frozen=True)
class Trace:
    """Feed-forward activities and local derivatives of one batch (DESIGN 1.1).

    Tensors are [batch, unit].
    """

    network: Network
    parameters: Parameters
    activity: Mapping[str, Tensor]
    """x̄ of every unit, the network's input among them."""
    derivative: Mapping[str, Tensor]
    """f′(a) of every block, at its true pre-activation, bias included."""

    @property
    def output(self) -> Tensor:
        """x̄^L."""
        return self.activity[self.network.output]

    def samples(self, which: slice) -> "Trace":
        """The same pass, for some samples of the batch only."""
        return replace(
            self,
            activity={name: x[which] for name, x in self.activity.items()},
            derivative={name: x[which] for name, x in self.derivative.items()},
        )


def feed_forward(network: Network, parameters: Parameters, inputs: Tensor) -> Trace:
    """The first phase of AR: x̄^{l+1} = f(a^l), a^l = x̄^l Wᵀ + b.

    Args:
        inputs: x⁰, [batch, unit].

    Raises:
        InputError: the inputs do not fit a block.
    """
    activity = {INPUT: inputs}
    derivative: dict[str, Tensor] = {}
    for block in network.blocks:
        x = activity[block.sources[0]]
        try:
            a = block.layer.forward(parameters, x)
        except RuntimeError as error:
            raise InputError(
                f"block '{block.name}' cannot take activities of shape {list(x.shape)} and type "
                f"{x.dtype} ({error}); pass inputs that the module itself accepts"
            ) from error
        activity[block.name], derivative[block.name] = activate(block.activation, a)
    return Trace(network, parameters, activity, derivative)
