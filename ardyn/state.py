"""State: all variables of one relaxation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """The state of the ODE, or its rate of change, or a record of it with a leading time axis."""

    activity: Mapping[str, Tensor]
    """x of every relaxing unit, [batch, unit]."""
    trace: Mapping[str, Tensor] = field(default_factory=dict)
    """z of every unit whose trace a Rule uses, [batch, unit]."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Plastic weights and biases, by parameter name."""
    feedback: Mapping[str, Tensor] = field(default_factory=dict)
    """Plastic ψ, by block."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, in a fixed order; complex ones as real [..., 2], as solvers need."""
        return tuple(
            torch.view_as_real(x) if x.is_complex() else x
            for each in fields(self)
            for x in getattr(self, each.name).values()
        )

    def named(self) -> dict[str, Tensor]:
        """Every tensor by a descriptive name, for messages."""
        kinds = {
            "activity": "unit",
            "trace": "trace of",
            "weights": "parameter",
            "feedback": "ψ of",
        }
        return {
            f"{kinds[each.name]} '{name}'": x
            for each in fields(self)
            for name, x in getattr(self, each.name).items()
        }

    def with_tensors(self, tensors: Sequence[Tensor]) -> "State":
        """A state with the same names and types, and these tensors in the order of ``tensors``."""
        rest = iter(tensors)
        filled = {
            each.name: {name: _of_type(next(rest), x) for name, x in own.items()}
            for each in fields(self)
            for own in (getattr(self, each.name),)
        }
        return State(**filled)


def _of_type(x: Tensor, like: Tensor) -> Tensor:
    return torch.view_as_complex(x.contiguous()) if like.is_complex() else x.to(like.dtype)
