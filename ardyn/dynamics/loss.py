"""Losses, summed over samples, so that a sample's trajectory does not depend on its batch."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ardyn.errors import InputError, check_choice, is_finite, is_postponing

LossFunction = Callable[[Any, Any], Tensor]
Loss = str | LossFunction


def sse(output: Tensor, target: Tensor) -> Tensor:
    """Σ (x − t)², the authors' choice; gradient 2 (x − t)."""
    return (output - target).square().sum()


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean of (x − t)² over the output neurons, summed over samples."""
    return (output - target).square().reshape(len(output), -1).mean(1).sum()


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """−Σ log softmax(x)_t; targets are class indices [batch] or probabilities [batch, class]."""
    return functional.cross_entropy(output, target, reduction="sum")


LOSSES: Mapping[str, LossFunction] = {"sse": sse, "mse": mse, "cross_entropy": cross_entropy}


def loss_function(loss: Loss) -> LossFunction:
    """The loss of that name, summed over all outputs, or the callable itself.

    Raises:
        InputError: an unknown name.
    """
    if callable(loss):
        return loss
    check_choice("loss", loss, LOSSES)
    return partial(_sum_over_outputs, loss)


def evaluation(loss: Loss, target: Any) -> Callable[[Any], Tensor]:
    """𝓛 as a function of what the module returns.

    Args:
        target: the second argument of the loss; for a named loss, in the same structure as the
            output, with None for outputs without a target.
    """
    return lambda output: _value(loss, output, target)


def check_drive(loss: Loss, drive: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Raise InputError for loss gradients that are not finite; the message names the cause."""
    if is_finite(drive.values()):
        return
    for name, each in outputs.items():
        if not is_finite([each]):
            raise InputError(
                f"the feed-forward pass became non-finite in unit '{name}'; scale the inputs or "
                f"the weights down"
            )
    raise InputError(
        f"the gradient of the loss {loss_name(loss)!r} is not finite; look for NaN or "
        f"infinity in the targets"
    )


def loss_name(loss: Loss) -> str:
    """The name of a loss; of a callable, its ``__name__``."""
    return loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))


def _sum_over_outputs(loss: str, output: Any, target: Any) -> Tensor:
    terms = [_term(loss, each, its_target) for each, its_target in _pairs(output, target)]
    if not terms:
        raise InputError(f"the loss {loss!r} needs a target, got None for each output; pass one")
    return sum(terms[1:], start=terms[0])


def _pairs(output: Any, target: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Every output with its target, from tuples, lists and dicts of the same structure."""
    if target is None:
        return
    if isinstance(output, Tensor) and isinstance(target, Tensor):
        yield output, target
        return
    if isinstance(output, dict) and isinstance(target, dict) and output.keys() == target.keys():
        output, target = list(output.values()), [target[key] for key in output]
    sequences = isinstance(output, (tuple, list)) and isinstance(target, (tuple, list))
    if not sequences or len(output) != len(target):
        raise InputError(
            f"targets {_structure(target)} don't fit the output {_structure(output)}; pass them in "
            f"the same structure as the module's outputs, with None where there is no target"
        )
    for each, its_target in zip(output, target, strict=True):
        yield from _pairs(each, its_target)


def _structure(value: Any) -> str:
    """Tuples, lists and dicts as text, with tensors as their shapes."""
    if isinstance(value, Tensor):
        return f"[{', '.join(map(str, value.shape))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_structure(each)}' for key, each in value.items())}}}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_structure, value))})"
    return type(value).__name__


def _term(loss: str, output: Tensor, target: Tensor) -> Tensor:
    """A named loss of one output."""
    if loss in ("sse", "mse") and target.shape != output.shape:
        cure = "pass one-hot targets" if target.ndim < output.ndim else "pass one per output"
        raise InputError(
            f"targets of shape {list(target.shape)} don't fit an output of shape "
            f"{list(output.shape)} under the loss {loss!r}; {cure}"
        )
    if loss == "cross_entropy" and not target.is_floating_point() and output.ndim > 1:
        _check_classes(target, output.shape[1])
    return LOSSES[loss](output, target)


def _value(loss: Loss, output: Any, target: Any) -> Tensor:
    """𝓛, checked to be a scalar that depends on the output."""
    function = loss_function(loss)
    try:
        value = function(output, target)
    except InputError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        kind = f" and type {target.dtype}" if isinstance(target, Tensor) else ""
        raise InputError(
            f"targets of shape {_structure(target)}{kind} don't fit an output of shape "
            f"{_structure(output)} under the loss {loss_name(loss)!r} ({error}); pass targets of "
            f"the shape and type that it takes"
        ) from error
    if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputError(
            f"the loss {loss_name(loss)!r} must return one number that depends on the "
            f"output, got {got}; sum over the samples"
        )
    return value


def _check_classes(target: Tensor, classes: int) -> None:
    """Raise InputError for a class out of range, which on a GPU makes CUDA fail irrecoverably."""
    if is_postponing():
        outside = ((target < 0) | (target >= classes)).any()
        is_finite([torch.where(outside, math.nan, 0.0)])
        return
    outside = target[(target < 0) | (target >= classes)]
    if len(outside):
        raise InputError(
            f"targets hold the class {outside[0].item()}, which is out of bounds for an output of "
            f"{classes} classes; use 0 … {classes - 1}"
        )
