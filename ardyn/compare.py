"""How far activities are from gradients; and those gradients, by autograd."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ardyn.evaluate import Evaluator
from ardyn.loss import LossFunction
from ardyn.network import Network


def bp_gradients(
    model: nn.Module,
    network: Network,
    inputs: Sequence[Tensor],
    targets: Any,
    loss: LossFunction,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """∂𝓛/∂x̄ and x̄ of every unit, by autograd through the module's traced operations.

    What comes out of these, and the gradients of all parameters, were compared with those of the
    module itself when it was traced. [batch, …] each.
    """
    run = Evaluator(model, network.graph)
    leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
    with torch.enable_grad():
        output = run.run(*leaves)
        at = {node.name: value for node, value in run.env.items()}
        values = [at[network.block[unit].node] for unit in network.units]
        gradients = torch.autograd.grad(loss(output, targets), values, materialize_grads=True)
    units = network.units
    return dict(zip(units, gradients, strict=True)), dict(zip(units, values, strict=True))


def relative_error(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """‖x − g‖ / ‖g‖ at each time.

    Args:
        x: activities, [time, batch, …].
        reference: g, [batch, …].
        per_sample: one value per sample; else the norms run over the batch too.

    Returns:
        [time], or [time, batch]; infinite where g = 0 and x is not.
    """
    return norm(x - reference, per_sample) / norm(reference[None], per_sample)


def cosine(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """x · g / (‖x‖ ‖g‖) at each time; shapes as in ``relative_error``. NaN where x = 0."""
    dot = _flat(x * reference, per_sample).sum(-1)
    return dot / (norm(x, per_sample) * norm(reference[None], per_sample))


def norm_ratio(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """‖x‖ / ‖g‖ at each time; shapes as in ``relative_error``."""
    return norm(x, per_sample) / norm(reference[None], per_sample)


def _flat(x: Tensor, per_sample: bool) -> Tensor:
    return x.reshape(*x.shape[: 2 if per_sample else 1], -1)


def norm(x: Tensor, per_sample: bool = False) -> Tensor:
    """‖x‖ at each time; shapes as in ``relative_error``."""
    length: Tensor = torch.linalg.vector_norm(_flat(x, per_sample), dim=-1)
    return length
