"""The mean field of a stream of stimuli: what they teach on average, in one solve without jumps.

    dW/dt = ⟨ΔW⟩ / T

A stimulus lasts T, begins with a feed-forward sweep, and changes the weights by ΔW. Where weights
are slow, T ≪ τ_W, the order of the stimuli no longer matters: a stream of them follows this ODE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ardyn.batch import check_moves, check_plasticity, check_tolerance, check_update_linear
from ardyn.closed_form.quasi_static import stimulus_change
from ardyn.closed_form.solver import check_linear
from ardyn.dynamics.coupled import Coupled, Learned
from ardyn.dynamics.loss import Loss
from ardyn.dynamics.plasticity import Plasticity
from ardyn.dynamics.rule import Rule
from ardyn.errors import InputError, check_positive
from ardyn.relaxation import Relaxation
from ardyn.solvers.integrators import Adaptive, Fixed
from ardyn.solvers.system import as_times
from ardyn.state import State


def mean_field(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    times: Sequence[float] | Tensor,
    plasticity: Plasticity,
    duration: float = 10.0,
    solver: Adaptive | Fixed = Adaptive("dopri5"),  # noqa: B008  (frozen)
    loss: Loss = "sse",
    rule: Rule | Mapping[str, Rule] = Rule(),  # noqa: B008  (frozen)
    tau: float | Sequence[float] = 1.0,
    feedback: Mapping[str, Tensor] | None = None,
) -> Learned:
    """Weights over the time of a stream, as all stimuli teach them on average.

    Args:
        inputs: every stimulus of which the stream is made, [stimulus, …]; they are relaxed at
            once.
        times: recorded, in the unit of ``tau``; n stimuli take n · duration.
        plasticity: time constants, and the window within each stimulus; its reduction is "mean".
        duration: T, of one stimulus.
        solver: of the weights; activities are integrated in closed form.

    The others are those of ``Relaxation``. Model and feedback are left as they are.

    Returns:
        Weights and feedback weights at each time.

    Raises:
        InputError: settings that cannot be used, or a Rule without a closed form.
        DivergenceError: the weights left the finite numbers.
    """
    t = as_times(times)
    check_positive("duration", duration, such_as=10)
    is_one = isinstance(plasticity, Plasticity)
    if not is_one or plasticity.reduction != "mean" or not plasticity.moves:
        raise InputError(
            f"a mean field needs weights that move by the mean over stimuli, got {plasticity}; "
            f"pass Plasticity(tau_weights=1000.0, reduction='mean')"
        )
    if not isinstance(solver, Adaptive | Fixed):
        raise InputError(f"a mean field is solved by Adaptive or Fixed, got {solver!r}")
    sim = Relaxation(model, inputs, targets, loss, rule, tau, feedback)
    check_moves(plasticity, sim.dynamics)
    check_plasticity(plasticity, sim.dynamics, solver, duration)
    check_tolerance(solver, sim.dynamics.like.dtype)
    check_linear(sim.dynamics)
    check_update_linear(sim.dynamics)
    with torch.no_grad():
        record = solver.solve(MeanField(sim, plasticity, duration), t).record
    return Learned(t, dict(record.weights), dict(record.feedback))


@dataclass(frozen=True)
class MeanField:
    """The right-hand side, of weights and feedback weights alone."""

    sim: Relaxation
    """Of all stimuli at once, with the weights as they are at first."""
    plasticity: Plasticity
    duration: float
    since = 0.0

    def initial(self) -> State:
        """The weights as they are."""
        return Coupled.of(self.sim.dynamics, self.plasticity, State({})).initial()

    def __call__(self, t: Tensor | float, state: State) -> State:
        """dW/dt = ⟨ΔW⟩ / T, and likewise b and ψ."""
        now = self.sim.dynamics_with(state.weights, state.feedback)
        change = stimulus_change(now, self.plasticity, self.duration)
        return change.with_tensors([each / self.duration for each in change.tensors()])
