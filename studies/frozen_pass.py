"""Which quantities must stay frozen at the feed-forward pass for AR to learn? (paper, Fig. 1, 3)

Trains the paper's MLP by backprop (BP), by activation relaxation (AR), and by variants of AR in
which current activities replace those of the feed-forward pass in the paper's Eq. 1 or 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import ardyn
from ardyn import Learner, Rule
from ardyn.errors import check_choice
from ardyn.solvers.system import Solver
from plots.frozen_pass import draw
from studies.problems import images, networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import both_sets, main
from studies.running.flags import HiddenLayers, check_positive_settings, check_time_constants
from studies.running.run_folder import RunFolder
from studies.running.variables import described_training, training_summary
from studies.training.angles import gradient_angles
from studies.training.loop import train_conditions
from studies.training.settings import (
    Condition,
    Rules,
    SchemeTraining,
    check_conditions,
    rule_of_each_pattern,
)

if TYPE_CHECKING:
    import xarray as xr

CONDITIONS = {
    "bp": Condition("backprop", "bp"),
    "ar": Condition("AR"),
    "a": Condition("(a) current f′ in the relaxation", rule=Rule(relaxation_derivative="current")),
    "b": Condition("(b) current f′ in the update", rule=Rule(update_derivative="current")),
    "a+b": Condition(
        "(a + b) current f′ in both",
        rule=Rule(relaxation_derivative="current", update_derivative="current"),
    ),
    "c": Condition("(c) current activity in the update", rule=Rule(update_activity="current")),
}
TRACE = Rule(update_activity="trace")


@dataclass(frozen=True)
class Config(HiddenLayers, SchemeTraining):
    """Settings of training; times are in units of τ."""

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    """Conditions to train in: bp (backprop); ar (everything frozen, the paper's baseline); f′ at
    the current activities in the relaxation (a), in the weight update (b), or in both (a+b);
    current instead of feed-forward activities in the weight update (c)."""
    tau_z: tuple[float, ...] = ()
    """Time constants τ_z of further conditions, in units of τ, in which the weight update uses a
    trace of the activity, τ_z dz/dt = x − z. Condition c is τ_z = 0, and ar is τ_z = ∞."""
    nonlinear_scheme: str = "rk4"
    """Solver of conditions a and a+b, which have no closed form, as f′ depends on x: sweep, or any
    method of torchdiffeq."""
    nonlinear_step: float = 1.0
    """Step h of the nonlinear scheme, in units of τ. With h = 1, rk4 takes 40 evaluations in 10 τ
    and is closer to the ODE than the paper's 100 Euler steps."""
    probe_size: int = 512
    """Number of training samples on which AR and BP gradients are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_conditions(self.conditions, CONDITIONS)
        check_time_constants("tau_z", self.tau_z, such_as=10)
        self.check_hidden()
        check_positive_settings(self, "probe_size", "nonlinear_step")
        check_choice("nonlinear-scheme", self.nonlinear_scheme, ardyn.SOLVER_NAMES)

    def solver(self, rule: Rules, scheme: str) -> Solver:
        """The solver of a condition."""
        if not all(each.is_linear for each in rule_of_each_pattern(rule).values()):
            return ardyn.solver_named(self.nonlinear_scheme, self.nonlinear_step)
        return super().solver(rule, scheme)


def run(config: Config, sets: images.Sets, folder: RunFolder) -> xr.Dataset:
    """Train in every condition, with every seed.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: training diverged.
    """
    make = networks.mlp_for(config.dataset, config.hidden)
    conditions = {name: CONDITIONS[name] for name in config.conditions} | {
        f"z={tau:g}": Condition(f"trace, τ_z = {tau:g} τ", rule=TRACE, tau_trace=tau)
        for tau in config.tau_z
    }
    checkpoints = Checkpoints.of(folder.path, config, sets.checksum)
    sample = sets.train.first(config.probe_size)

    def probe(learner: Learner) -> dict[str, xr.DataArray]:
        return {"gradient_angle": gradient_angles(learner, *sample)}

    results = train_conditions(config, conditions, make, sets, checkpoints, probe)
    tau = {"bp": np.nan, "ar": np.inf, "c": 0.0}
    tau_z = [each.tau_trace or tau.get(name, np.nan) for name, each in conditions.items()]
    results = results.assign_coords(tau_z=("condition", tau_z))
    return described_training(results, "frozen_pass", config, sets.checksum)


if __name__ == "__main__":
    main("frozen_pass", Config, run, training_summary, draw, __doc__, both_sets)
