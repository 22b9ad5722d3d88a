"""What a trajectory is compared with: BP gradients, and the equilibrium of its Rule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ardyn.errors import InputError


class References(Protocol):
    """Gradients and equilibrium; a Relaxation computes them when they are first asked for."""

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """∂𝓛/∂x̄ of every unit by autograd, [batch, unit]."""

    @property
    def equilibrium(self) -> Mapping[str, Tensor] | None:
        """Where the rule's own dynamics settle, [batch, unit]; None if not known in closed form."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What was relaxed, and how: rule, time constants and loss, as one would write them."""

    def exact_convergence_time(
        self, tolerance: float, reference: str, per_sample: bool
    ) -> dict[str, Tensor]:
        """Convergence times as roots of the closed form."""


@dataclass(frozen=True)
class KeptReferences:
    """References as they were: read from a file, or kept while the model learns on."""

    gradients: Mapping[str, Tensor]
    equilibrium: Mapping[str, Tensor] | None
    settings: Mapping[str, str]

    def exact_convergence_time(
        self, tolerance: float, reference: str, per_sample: bool
    ) -> dict[str, Tensor]:
        """Not known any more."""
        raise InputError("a stored trajectory has no closed form; relax it again to have the root")


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
