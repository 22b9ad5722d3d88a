"""The mean field of a stream of stimuli: their average weight change, as one smooth ODE.

    dW/dt = ⟨ΔW⟩ / T

A stimulus lasts T, begins with a feed-forward sweep, and changes the weights by ΔW. Where weights
are slow, T ≪ τ_W, the order of the stimuli no longer matters: a stream of them follows this ODE.
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
    """Weights over the time of a stream, by the weight change of its stimuli on average.

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
    check_is_plasticity(plasticity)
    if plasticity.reduction != "mean" or not plasticity.moves:
        raise InputError(
            f"a mean field needs weights that move by the mean over stimuli, got {plasticity}; "
            f"pass Plasticity(tau_weights=1000.0, reduction='mean')"
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
    """The right-hand side, of weights and feedback weights alone."""

    sim: Relaxation
    """Of all stimuli at once, with the weights as they are at first."""
    plasticity: Plasticity
    duration: float
    since = 0.0

    @property
    def time_constants(self) -> Mapping[str, float]:
        """Of weights and feedback weights."""
        of_psi = self.plasticity.tau_feedback
        return {"weights": self.plasticity.tau_weights, "feedback weights": of_psi}

    def initial(self) -> State:
        """The weights as they are."""
        return Coupled.of(self.sim.dynamics, self.plasticity, State({})).initial()

    def __call__(self, t: Tensor | float, state: State) -> State:
        """dW/dt = ⟨ΔW⟩ / T, and likewise b and ψ."""
        now = self.sim.dynamics_with(state.weights, state.feedback)
        change = stimulus_change(now, self.plasticity, self.duration)
        return change.with_tensors([each / self.duration for each in change.tensors()])
