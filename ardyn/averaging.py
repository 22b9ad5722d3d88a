"""Mean-field limit of a stream of stimuli: an ODE of the weights, with their mean change.

    dW/dt = ⟨ΔW⟩ / T

A stimulus lasts T, begins with a feed-forward sweep, and changes the weights by ΔW. For T ≪ τ_W the
order of the stimuli does not matter to first order, and the weights follow this averaged ODE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ardyn.closed_form.quasi_static import check_update_linear, stimulus_change
from ardyn.closed_form.solver import check_linear
from ardyn.dynamics.coupled import Coupled, check_moves
from ardyn.dynamics.loss import Loss
from ardyn.dynamics.plasticity import Plasticity, check_is_plasticity
from ardyn.dynamics.rule import Rule
from ardyn.dynamics.windows import Learned, check_plasticity
from ardyn.errors import InputError, check_positive
from ardyn.relaxation import Relaxation
from ardyn.solvers.integrators import Adaptive
from ardyn.solvers.system import Solver, as_times, check_is_solver
from ardyn.state import State


def mean_field(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    times: Sequence[float] | Tensor,
    plasticity: Plasticity,
    duration: float = 10.0,
    solver: Solver = Adaptive("dopri5"),  # noqa: B008  (frozen)
    loss: Loss = "sse",
    rule: Rule | Mapping[str, Rule] = Rule(),  # noqa: B008  (frozen)
    tau: float | Sequence[float] = 1.0,
    feedback: Mapping[str, Tensor] | None = None,
) -> Learned:
    """Weights over a stream of stimuli, from the mean weight change of its stimuli.

    Args:
        inputs: all stimuli of the stream, [stimulus, …]; they are relaxed as one batch.
        times: times to record, in the unit of ``tau``; n stimuli take n · duration.
        plasticity: time constants, and the window within each stimulus; its reduction must be
            "mean".
        duration: T, the duration of one stimulus.
        solver: integrates the weights; activities are integrated in closed form.

    The other arguments are those of ``Relaxation``. Model and feedback are not changed.

    Returns:
        Weights and feedback weights at each time.

    Raises:
        InputError: settings that cannot be used, or a Rule without a closed form.
        DivergenceError: the weights became infinite or NaN.
    """
    t = as_times(times)
    check_positive("duration", duration, such_as=10)
    check_is_plasticity(plasticity)
    if plasticity.reduction != "mean" or not plasticity.moves:
        raise InputError(
            f"mean_field needs plastic weights and the mean over stimuli, got {plasticity}; pass "
            f"Plasticity(tau_weights=1000.0, reduction='mean')"
        )
    check_is_solver(solver)
    sim = Relaxation(model, inputs, targets, loss, rule, tau, feedback)
    check_moves(plasticity, sim.dynamics)
    check_plasticity(plasticity, sim.dynamics, solver, duration)
    check_linear(sim.dynamics)
    check_update_linear(sim.dynamics)
    system = MeanField(sim, plasticity, duration)
    solver.check(system)
    with torch.no_grad():
        record = solver.solve(system, t).record
    return Learned(t, dict(record.weights), dict(record.feedback))


@dataclass(frozen=True)
class MeanField:
    """The right-hand side for weights and feedback weights."""

    sim: Relaxation
    """The Relaxation of all stimuli as one batch, with the initial weights."""
    plasticity: Plasticity
    duration: float
    since = 0.0

    @property
    def time_constants(self) -> Mapping[str, float]:
        """Time constants of weights and feedback weights."""
        of_psi = self.plasticity.tau_feedback
        return {"weights": self.plasticity.tau_weights, "feedback weights": of_psi}

    def initial(self) -> State:
        """The initial weights and feedback weights."""
        return Coupled.of(self.sim.dynamics, self.plasticity, State({})).initial()

    def __call__(self, t: Tensor | float, state: State) -> State:
        """dW/dt = ⟨ΔW⟩ / T, and likewise b and ψ."""
        now = self.sim.dynamics_with(state.weights, state.feedback)
        change = stimulus_change(now, self.plasticity, self.duration)
        return change.with_tensors([each / self.duration for each in change.tensors()])
