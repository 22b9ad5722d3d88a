"""Plasticity: the rates of weights, biases and feedback weights (Eq. 2 and 3 in time)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.learning import Changes, block_gradients
from ardyn.errors import InputError, check_choice, check_time_constant, is_number

Reduction = Literal["sum", "mean"]
ROUNDING = 1e-9
"""Relative difference, to the duration of the relaxation, below which times count as equal."""


@dataclass(frozen=True)
class Plasticity:
    """Weights and feedback weights that change while the activities relax (Eq. 2 and 3 in time).

    τ_W dW/dt = −∂𝓛/∂W − λ_W W, likewise b; τ_ψ dψ/dt = −(∂𝓛/∂W)ᵀ − λ_ψ ψ. An infinite τ means
    constant weights.

    Args:
        tau_weights: τ_W of weights and biases, in the unit of the activities' τ.
        tau_feedback: τ_ψ of learned feedback weights, Rule(feedback="learned").
        weight_decay: λ_W, on weights and biases.
        feedback_decay: λ_ψ.
        reduction: whether gradients are summed or averaged over the batch.
        window: (t_on, t_off), the times between which weights are plastic; else they are constant.

    Raises:
        InputError: a τ that isn't positive, a decay below zero, or a window that does not end
            after it begins.
    """

    tau_weights: float = math.inf
    tau_feedback: float = math.inf
    weight_decay: float = 0.0
    feedback_decay: float = 0.0
    reduction: Reduction = "sum"
    window: tuple[float, float] = (0.0, math.inf)

    @property
    def moves(self) -> bool:
        """Whether any weights are plastic."""
        return min(self.tau_weights, self.tau_feedback) < math.inf

    def changes(
        self, dynamics: Dynamics, activity: Mapping[str, Tensor], trace: Mapping[str, Tensor]
    ) -> Changes:
        """Eq. 2 at these activities, {block: {parameter: gradient}}, summed over the batch.

        A subclass may use another rule here; Eq. 3 takes its transpose.
        """
        return block_gradients(dynamics, activity, trace)

    def weight_rate(self, W: Tensor, gradient: Tensor, share: float, span: float = 1.0) -> Tensor:
        """dW/dt, or ΔW over a time ``span`` of which ``gradient`` is the integral.

        Args:
            share: 1 to sum over the batch, 1 / batch size for the mean.
        """
        return rate(W, gradient, self.tau_weights, span * self.weight_decay, share)

    def feedback_rate(
        self, psi: Tensor, gradient: Tensor, share: float, span: float = 1.0
    ) -> Tensor:
        """dψ/dt or Δψ, likewise, with (∂𝓛/∂W)ᵀ as the gradient (Eq. 3)."""
        return rate(psi, gradient, self.tau_feedback, span * self.feedback_decay, share)

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, get_args(Reduction))
        for name in ("tau_weights", "tau_feedback"):
            check_time_constant(name, getattr(self, name))
        for name in ("weight_decay", "feedback_decay"):
            decay = getattr(self, name)
            if not is_number(decay) or not 0 <= decay < math.inf:
                raise InputError(
                    f"{name} must be finite and not below zero, got {decay}; pass such as 0.0"
                )
        check_window(self.window)


def check_is_plasticity(plasticity: object) -> None:
    """Raise InputError unless it has the interface of a ``Plasticity``."""
    if isinstance(plasticity, type) or not hasattr(plasticity, "weight_rate"):
        raise InputError(
            f"plasticity must be a Plasticity, got {plasticity!r}; pass Plasticity(1000.0)"
        )


def check_window(window: object) -> None:
    """Raise InputError unless it is a pair of times, the second after the first."""
    pair = window if isinstance(window, tuple | list) and len(window) == 2 else (math.nan,) * 2
    start, end = (t if is_number(t) else math.nan for t in pair)
    if not 0 <= start < end:
        raise InputError(
            f"the window of plasticity must begin at 0 or later and end after it begins, got "
            f"{window}; pass such as (9.0, 10.0)"
        )


def check_window_within(window: tuple[float, float], end: float) -> None:
    """Raise InputError for a window of plasticity that reaches beyond the relaxation, 0 … end."""
    start, stop = window
    if start >= end * (1 - ROUNDING) or end * (1 + ROUNDING) < stop < math.inf:
        raise InputError(
            f"the window of plasticity {start:g} … {stop:g} must lie in the relaxation, 0 … "
            f"{end:g}; relax longer, or move it"
        )


def has_own_rates(plasticity: Plasticity) -> bool:
    """Whether a subclass puts something in place of Eq. 2 or 3."""
    return any(
        getattr(type(plasticity), name, None) is not getattr(Plasticity, name)
        for name in ("changes", "weight_rate", "feedback_rate")
    )


def rate(W: Tensor, gradient: Tensor, tau: float, decay: float, share: float = 1.0) -> Tensor:
    """τ_W dW/dt = −∂𝓛/∂W − λ_W W, and likewise for b and ψ (Eq. 2 and 3 in time).

    ∂𝓛/∂W is ``share`` times the gradient.
    """
    # One pass over the gradient, and one over W only with decay: weights are large.
    found = gradient * (-share / tau)
    return found.add_(W, alpha=-decay / tau) if decay else found
