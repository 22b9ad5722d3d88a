"""The quasi-static limit τ_W → ∞: weight changes to first order in 1/τ_W.

    τ_W ΔW = −∫ ∂𝓛/∂W dt − (t_off − t_on) λ_W W,   likewise for b and ψ

over the window of plasticity, from the time integral of the closed form.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from ardyn.closed_form.solver import integral
from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.coupled import Coupled, slow_rate
from ardyn.dynamics.learning import Changes, block_gradients
from ardyn.dynamics.plasticity import Plasticity
from ardyn.errors import InputError
from ardyn.state import State

WeightRule = Callable[[Dynamics, Mapping[str, Tensor], Mapping[str, Tensor]], Changes]


def integrated_gradients(
    dynamics: Dynamics, start: float, end: float, rule: WeightRule = block_gradients
) -> Changes:
    """∫ ∂𝓛/∂W dt from ``start`` to ``end``, by block and parameter, summed over the batch.

    Args:
        rule: Eq. 2, or the rule of a plasticity in its place; linear in the activities.
    """
    # With frozen x̄ and f′, Eq. 2 is linear in x: ∫ ∂𝓛/∂W dt is Eq. 2 evaluated at ∫ x dt. Of a
    # clamped output, x^L ≡ g^L, that is (end − start) g^L.
    x = integral(dynamics, start, end)
    clamped = {unit: (end - start) * g for unit, g in dynamics.clamped.items()}
    at = replace(dynamics, drive={**dynamics.drive, **clamped})
    return rule(at, x, {})


def stimulus_change(dynamics: Dynamics, plasticity: Plasticity, duration: float) -> State:
    """ΔW, Δb and Δψ of one stimulus, to first order in duration / τ_W; no activities."""
    # Activities are those at the weights of stimulus onset: that weights move during the stimulus
    # changes ΔW only to second order in duration / τ_W.
    start, end = plasticity.window[0], min(plasticity.window[1], duration)
    changes = integrated_gradients(dynamics, start, end, plasticity.changes)
    state = Coupled.of(dynamics, plasticity, State({})).initial()
    return slow_rate(plasticity, dynamics, state, changes, span=end - start)


def check_update_linear(dynamics: Dynamics) -> None:
    """Raise InputError unless every update is linear in the activities above."""
    for block, rule in dynamics.rules.items():
        if rule.update_derivative not in ("frozen", "dropped") or rule.update_activity != "frozen":
            raise InputError(
                f"the quasi-static change needs a frozen or dropped update derivative and a frozen "
                f"update activity, got {rule.update_derivative!r} and {rule.update_activity!r} for "
                f"block '{block}'; solve a Relaxation with plasticity instead"
            )
