"""How far activities are from gradients."""

import torch
from torch import Tensor


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
    dot = _flat((x * reference.conj()).real, per_sample).sum(-1)
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
