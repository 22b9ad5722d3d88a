"""Weights so slow that activities never notice them move.

    τ_W ΔW = −∫ ∂𝓛/∂W dt − (t_off − t_on) λ_W W,   and likewise b and ψ

over the window of plasticity, by the time integral of the closed form.
"""

from dataclasses import replace

from torch import Tensor

from ardyn.closed_form.solver import integral
from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.coupled import Coupled, slow_rate
from ardyn.dynamics.learning import block_gradients
from ardyn.dynamics.plasticity import Plasticity
from ardyn.state import State


def integrated_gradients(
    dynamics: Dynamics, start: float, end: float
) -> dict[str, dict[str, Tensor]]:
    """∫ ∂𝓛/∂W dt from ``start`` to ``end``, by block and parameter, summed over the batch."""
    x = integral(dynamics, start, end)
    clamped = {unit: (end - start) * g for unit, g in dynamics.clamped.items()}
    at = replace(dynamics, drive={**dynamics.drive, **clamped})
    return block_gradients(at, x, {})


def stimulus_change(dynamics: Dynamics, plasticity: Plasticity, duration: float) -> State:
    """ΔW, Δb and Δψ of one stimulus, to first order in duration / τ_W; its activities are empty."""
    start, end = plasticity.window[0], min(plasticity.window[1], duration)
    changes = integrated_gradients(dynamics, start, end)
    state = Coupled.of(dynamics, plasticity, State({})).initial()
    return slow_rate(plasticity, dynamics, state, changes, span=end - start)
