"""How far does learning need the frozen feed-forward pass? (paper, Fig. 1 and 3)

Trains the paper's MLP by backprop, by activation relaxation, and by relaxations that use current
activities where the paper's Eq. 1 and 2 have frozen ones.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

import ardyn
from ardyn import InputError, Learner, Rule
from ardyn.errors import check_choice, check_positive
from ardyn.solvers.system import Solver
from plots.frozen_pass import draw
from studies.problems import images as data
from studies.problems import networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import both_sets, main
from studies.running.run_folder import RunFolder
from studies.running.training_variables import described, summary
from studies.training.angles import gradient_angles
from studies.training.loop import learn
from studies.training.settings import (
    Condition,
    Rules,
    SchemeTraining,
    check_conditions,
    check_hidden,
)

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
class Config(SchemeTraining):
    """What is trained, and how; times are in units of τ."""

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    """Which of: bp (backprop); ar (all frozen, the paper's baseline); f′ at the current activity in
    (a) the relaxation, (b) the weight update, a+b both; (c) the current activity itself in the
    weight update."""
    tau_z: tuple[float, ...] = ()
    """Also conditions whose weight update reads a trace of the activity, τ_z dz/dt = x − z, in
    units of τ: between the current activity (c, τ_z = 0) and the frozen one (ar, τ_z = ∞)."""
    nonlinear_scheme: str = "rk4"
    """The scheme of a and a+b, where f′ is taken at the current activities: no closed form."""
    nonlinear_step: float = 1.0
    """Its step h, in units of τ. rk4 with h = 1 costs 40 evaluations in 10 τ, and is nearer to the
    ODE than the paper's 100 Euler steps."""
    hidden: tuple[int, ...] = (300, 300, 100)
    """Neurons of the hidden layers (paper: 300 300 100)."""
    probe_size: int = 512
    """Training samples on which AR and BP gradients are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_conditions(self.conditions, CONDITIONS)
        if len(set(self.tau_z)) < len(self.tau_z):
            raise InputError(f"tau-z must be different, got {list(self.tau_z)}; give each once")
        for tau in self.tau_z:
            check_positive("tau-z", tau, 10)
        check_hidden(self.hidden)
        check_positive("probe-size", self.probe_size, 512)
        check_positive("nonlinear-step", self.nonlinear_step)
        check_choice("nonlinear-scheme", self.nonlinear_scheme, ardyn.SOLVER_NAMES)

    def solver(self, rule: Rules, scheme: str) -> Solver:
        """The solver of a condition."""
        if isinstance(rule, Rule) and not rule.is_linear:
            return ardyn.solver_named(self.nonlinear_scheme, self.nonlinear_step)
        return super().solver(rule, scheme)


def run(config: Config, sets: data.Sets, folder: RunFolder) -> xr.Dataset:
    """Train in every condition, with every seed.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: the numbers were lost in some epoch and batch.
    """
    make = networks.mlp_for(config.dataset, config.hidden)
    conditions = {name: CONDITIONS[name] for name in config.conditions} | {
        f"z={tau:g}": Condition(f"trace, τ_z = {tau:g} τ", rule=TRACE, tau_trace=tau)
        for tau in config.tau_z
    }
    checkpoints = Checkpoints.of(folder.path, config, sets.checksum)
    sample = sets.train.inputs[: config.probe_size], sets.train.targets[: config.probe_size]

    def probe(learner: Learner) -> dict[str, xr.DataArray]:
        return {"gradient_angle": gradient_angles(learner, *sample)}

    results = learn(config, conditions, make, sets, checkpoints, probe)
    tau = {"bp": np.nan, "ar": np.inf, "c": 0.0}
    tau_z = [each.tau_trace or tau.get(name, np.nan) for name, each in conditions.items()]
    results = results.assign_coords(tau_z=("condition", tau_z))
    return described(results, "frozen_pass", config, sets.checksum, conditions)


if __name__ == "__main__":
    main("frozen_pass", Config, run, summary, draw, __doc__, both_sets)
