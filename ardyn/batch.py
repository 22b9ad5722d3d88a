"""The tensors of a batch, and time constants per unit, checked before use."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from ardyn.dynamics.loss import Loss
from ardyn.errors import InputError, check_positive
from ardyn.network.containers import tensors_in

Value = TypeVar("Value")


def as_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Every tensor among the arguments of a module.

    Raises:
        InputError: arguments that should be tensors, or a batch without samples.
    """
    found = tuple(tensors_in(inputs))
    is_call = isinstance(inputs, (tuple, dict)) or (isinstance(inputs, list) and found)
    given = inputs if is_call and not isinstance(inputs, dict) else (inputs,)
    for name, x in numbered("inputs", given).items():
        if isinstance(x, np.ndarray) or not (is_call or isinstance(x, Tensor)):
            raise InputError(
                f"{name} must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor"
            )
    if found and all(x.numel() == 0 for x in found):
        raise InputError(
            f"inputs must be [batch, …] with at least one sample, got "
            f"{', '.join(str(list(x.shape)) for x in found)}; pass one or more"
        )
    return found


def numbered(name: str, values: Sequence[Value]) -> dict[str, Value]:
    """{name: value}, or {name[i]: value} where there are several."""
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}[{i}]": value for i, value in enumerate(values)}


def check_differentiable(
    parameters: Mapping[str, Tensor], inputs: Sequence[Tensor], targets: object, loss: Loss
) -> None:
    """Raise InputError for tensors or a mode for which autograd records no graph."""
    compared = tensors_in(targets)
    if not compared and not callable(loss):
        raise InputError(
            f"targets must be a torch.Tensor, got {type(targets).__name__}; use torch.as_tensor"
        )
    if torch.is_inference_mode_enabled():
        raise InputError(
            "torch.inference_mode() is on, in which autograd computes no gradients; use "
            "torch.no_grad()"
        )
    named = numbered("inputs", inputs) | numbered("targets", compared)
    for name, x in (dict(parameters) | named).items():
        if isinstance(x, UninitializedParameter):
            raise InputError(
                f"'{name}' has no shape yet; run the model on one batch first to initialise it"
            )
        if x.is_inference():
            raise InputError(
                f"'{name}' was made under torch.inference_mode(), so that autograd cannot use it; "
                f"make it outside of that mode, or clone it there"
            )


def tau_of_each(tau: float | Sequence[float], units: Sequence[str]) -> dict[str, float]:
    """The time constant of each relaxing unit."""
    values: list[Any] = [tau] * len(units) if np.ndim(tau) == 0 else list(tau)  # type: ignore[arg-type]
    values = [value.item() if hasattr(value, "item") else value for value in values]
    if len(values) != len(units):
        raise InputError(
            f"tau has {len(values)} values for {len(units)} relaxing units ({', '.join(units)}); "
            f"pass one number, or one per unit"
        )
    for unit, value in zip(units, values, strict=True):
        check_positive(f"tau of unit '{unit}'", value)
    return dict(zip(units, map(float, values), strict=True))
