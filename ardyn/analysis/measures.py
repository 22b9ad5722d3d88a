"""Distance of activities from gradients, and when it falls to a tolerance."""

import math

import torch
from torch import Tensor


def relative_error(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """‖x − g‖ / ‖g‖ at each time.

    Args:
        x: activities, [time, batch, …].
        reference: g, [batch, …].
        per_sample: one value per sample; else norms are taken over the whole batch.

    Returns:
        [time], or [time, batch]; infinite where g = 0 and x is not, 0 where both are.
    """
    gap = norm(x - reference, per_sample)
    return (gap / norm(reference[None], per_sample)).masked_fill(gap == 0, 0.0)


def cosine(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """x · g / (‖x‖ ‖g‖) at each time; shapes as in ``relative_error``. NaN where x = 0."""
    wide = _wide(x)
    dot = _flat((x.to(wide) * reference.conj().to(wide)).real, per_sample).sum(-1)
    return dot / (norm(x, per_sample) * norm(reference[None], per_sample))


def norm_ratio(x: Tensor, reference: Tensor, per_sample: bool = False) -> Tensor:
    """‖x‖ / ‖g‖ at each time; shapes as in ``relative_error``."""
    return norm(x, per_sample) / norm(reference[None], per_sample)


def _flat(x: Tensor, per_sample: bool) -> Tensor:
    return x.reshape(*x.shape[: 2 if per_sample else 1], -1)


def norm(x: Tensor, per_sample: bool = False) -> Tensor:
    """‖x‖ at each time; shapes as in ``relative_error``."""
    length: Tensor = torch.linalg.vector_norm(_flat(x, per_sample), dim=-1, dtype=_wide(x))
    return length


def _wide(x: Tensor) -> torch.dtype:
    """Double precision: in single, squares of the small gradients of deep networks are zero."""
    return torch.promote_types(x.dtype, torch.float64)


def crossing_time(times: Tensor, error: Tensor, tolerance: float) -> Tensor:
    """First time after which ``error`` ≤ ``tolerance`` stays true, between recorded times.

    Interpolates the log error linearly; NaN where the last recorded error is still above. Where all
    errors are below, it is the first recorded time; record from t = 0 to find the true one.

    Args:
        times: [time].
        error: relative errors, [time, …].

    Returns:
        [...], in the units of ``times``.
    """
    # The last record above the tolerance, as argmax finds the first True of the reversed axis.
    above = ~(error <= tolerance)  # NaN is no convergence
    last = len(times) - 1 - above.flip(0).int().argmax(0)
    last = torch.where(above.any(0), last, -1)
    before, after = last.clamp(min=0), (last + 1).clamp(max=len(times) - 1)
    floor = torch.finfo(error.dtype).tiny  # an error of 0 has no logarithm
    log_error = error.clamp(min=floor).log().double()
    high, low = log_error.gather(0, before[None])[0], log_error.gather(0, after[None])[0]
    share = ((high - math.log(tolerance)) / (high - low)).nan_to_num(0.0)
    t = times.to(error.device)
    crossed = torch.lerp(t[before], t[after], share)
    crossed = torch.where(last < 0, t[0], crossed)
    return torch.where(last == len(times) - 1, torch.nan, crossed)
