"""State: everything that moves in one relaxation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from torch import Tensor


@dataclass(frozen=True)
class State:
    """The state of the ODE, or its rate of change, or a record of it with a leading time axis."""

    activity: Mapping[str, Tensor]
    """x of every relaxing unit, [batch, unit]."""
    trace: Mapping[str, Tensor] = field(default_factory=dict)
    """z of every unit whose activity a synapse remembers, [batch, unit]."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights and biases that move, by the names of the parameters."""
    feedback: Mapping[str, Tensor] = field(default_factory=dict)
    """ψ that move, by block."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, in a fixed order."""
        return tuple(x for each in fields(self) for x in getattr(self, each.name).values())

    def named(self) -> dict[str, Tensor]:
        """Every tensor, under a name that tells what it is."""
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
        """A state of the same names, holding these tensors."""
        rest = iter(tensors)
        filled = {
            each.name: {name: next(rest) for name in getattr(self, each.name)}
            for each in fields(self)
        }
        return State(**filled)
