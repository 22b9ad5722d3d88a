"""How far activities are from gradients; and those gradients, by autograd."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ardyn.loss import LossFunction
from ardyn.network import Network


def bp_gradients(
    model: nn.Module, network: Network, inputs: Tensor, targets: Tensor, loss: LossFunction
) -> dict[str, Tensor]:
    """∂𝓛/∂x̄ of every unit, by autograd through the user's own module, [batch, unit] each."""
    with torch.enable_grad():
        recorder = _Recorder(model, graph=network.graph)
        output = recorder.run(inputs.detach().requires_grad_())
        values = [recorder.values[block.node] for block in network.blocks]
        gradients = torch.autograd.grad(loss(output, targets), values)
    return dict(zip(network.units, gradients, strict=True))


class _Recorder(fx.Interpreter):
    """Runs a module operation by operation, and keeps what each returned."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.values: dict[str, Tensor] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Spare the recorded value below a module that works in place."""
        in_place = getattr(self.fetch_attr(target), "inplace", False)
        return super().call_module(target, _clones(args) if in_place else args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same for functions."""
        in_place = kwargs.get("inplace", False)
        return super().call_function(target, _clones(args) if in_place else args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        value = self.values[n.name] = super().run_node(n)
        return value


def _clones(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.clone() if isinstance(each, Tensor) else each for each in values)


def relative_error(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """‖x − g‖ / ‖g‖ at each time.

    Args:
        x: activities, [time, batch, …].
        reference: g, [batch, …].
        per_sample: one value per sample; else the norms run over the batch too.

    Returns:
        [time], or [time, batch]; infinite where g = 0 and x is not.
    """
    return _norm(x - reference, per_sample) / _norm(reference[None], per_sample)


def cosine(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """x · g / (‖x‖ ‖g‖) at each time; shapes as in ``relative_error``. NaN where x = 0."""
    dot = _flat(x * reference, per_sample).sum(-1)
    return dot / (_norm(x, per_sample) * _norm(reference[None], per_sample))


def norm_ratio(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """‖x‖ / ‖g‖ at each time; shapes as in ``relative_error``."""
    return _norm(x, per_sample) / _norm(reference[None], per_sample)


def _flat(x: Tensor, per_sample: bool) -> Tensor:
    return x.flatten(2 if per_sample else 1)


def _norm(x: Tensor, per_sample: bool) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(_flat(x, per_sample), dim=-1)
    return norm
