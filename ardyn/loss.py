"""Losses, summed over the samples, so that a sample's trajectory never depends on its batch."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ardyn.errors import InputError, check_choice

LossFunction = Callable[[Tensor, Tensor], Tensor]
Loss = str | LossFunction


def sse(output: Tensor, target: Tensor) -> Tensor:
    """Σ (x − t)², the authors' choice; gradient 2 (x − t)."""
    return (output - target).square().sum()


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Per sample the mean of (x − t)² over the outputs, summed over samples."""
    return (output - target).square().flatten(1).mean(1).sum()


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """−Σ log softmax(x)_t; targets are class indices [batch] or probabilities [batch, class]."""
    return functional.cross_entropy(output, target, reduction="sum")


LOSSES: Mapping[str, LossFunction] = {"sse": sse, "mse": mse, "cross_entropy": cross_entropy}


def loss_function(loss: Loss) -> LossFunction:
    """The loss of that name, or the callable itself.

    Raises:
        InputError: an unknown name.
    """
    if callable(loss):
        return loss
    check_choice("loss", loss, LOSSES)
    return LOSSES[loss]


def loss_gradient(loss: Loss, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """𝓛 and the output drive g^L = ∂𝓛/∂x̄^L, by autograd.

    Raises:
        InputError: targets that don't fit the output, or a loss that isn't one finite number.
    """
    if loss in ("sse", "mse") and target.shape != output.shape:
        cure = "pass one-hot targets" if target.ndim < output.ndim else "pass one per output"
        raise InputError(
            f"targets of shape {list(target.shape)} don't fit an output of shape "
            f"{list(output.shape)} under the loss {loss!r}; {cure}"
        )
    if loss == "cross_entropy" and not target.is_floating_point():
        _check_classes(target, output.shape[1])
    with torch.enable_grad():
        x = output.detach().requires_grad_()
        try:
            value = loss_function(loss)(x, target)
        except (RuntimeError, IndexError, ValueError) as error:
            raise InputError(
                f"targets of shape {list(target.shape)} and type {target.dtype} don't fit an "
                f"output of shape {list(output.shape)} under the loss {loss_name(loss)!r} ({error})"
            ) from error
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
            got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise InputError(
                f"the loss {loss_name(loss)!r} must return one number that depends on the "
                f"output, got {got}; sum over the samples"
            )
        (drive,) = torch.autograd.grad(value, x)
    if not drive.isfinite().all():
        raise InputError(
            f"the gradient of the loss {loss_name(loss)!r} is not finite; look for NaN or "
            f"infinity in the targets"
        )
    return value.detach(), drive


def _check_classes(target: Tensor, classes: int) -> None:
    """Raise InputError for a class out of range; on a GPU torch itself would not survive it."""
    outside = target[(target < 0) | (target >= classes)]
    if len(outside):
        raise InputError(
            f"targets hold the class {outside[0].item()}, which is out of bounds for an output of "
            f"{classes} classes; use 0 … {classes - 1}"
        )


def loss_name(loss: Loss) -> str:
    """The loss's name, for a callable its own."""
    return loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))
