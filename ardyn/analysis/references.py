"""What a trajectory is compared with: BP gradients, and the equilibrium of its Rule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ardyn.errors import InputError


class References(Protocol):
    """Gradients and equilibrium; a Relaxation computes them when they are first read."""

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """∂𝓛/∂x̄ of every unit by autograd, [batch, unit]."""

    @property
    def equilibrium(self) -> Mapping[str, Tensor] | None:
        """Equilibrium of the rule's dynamics, [batch, unit]; None if there is no closed form."""

    @property
    def settings(self) -> Mapping[str, str]:
        """Rule, time constants and loss of the relaxation, as text."""

    def exact_convergence_time(
        self, tolerance: float, reference: str, per_sample: bool
    ) -> dict[str, Tensor]:
        """Convergence times as roots of the closed form, {unit: [] or [batch]}."""


@dataclass(frozen=True)
class KeptReferences:
    """Stored references: read from a file, or computed before the model changed."""

    gradients: Mapping[str, Tensor]
    equilibrium: Mapping[str, Tensor] | None
    settings: Mapping[str, str]

    def exact_convergence_time(
        self, tolerance: float, reference: str, per_sample: bool
    ) -> dict[str, Tensor]:
        """Raise InputError, as only a Relaxation has the closed form."""
        raise InputError(
            "a stored trajectory has no closed form; call exact_convergence_time of a Relaxation"
        )


def choose_reference(references: References, name: str) -> Mapping[str, Tensor]:
    """The reference of that name.

    Raises:
        InputError: an unknown name, or an equilibrium that has no closed form.
    """
    if name not in ("gradients", "equilibrium"):
        raise InputError(f"unknown reference {name!r}; choose 'gradients' or 'equilibrium'")
    found: Mapping[str, Tensor] | None = getattr(references, name)
    if found is None:
        raise InputError("this rule's equilibrium has no closed form; compare with 'gradients'")
    return found
