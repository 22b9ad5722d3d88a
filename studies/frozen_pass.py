"""How far does learning need the frozen feed-forward pass? (paper, Fig. 1 and 3)

Trains the paper's MLP by backprop, by activation relaxation, and by relaxations that use current
activities where the paper's Eq. 1 and 2 have frozen ones.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import nn

import ardyn
from ardyn import InputError, Learner, Rule
from ardyn.errors import check_positive
from ardyn.models import IMAGES
from plots.frozen_pass import draw
from studies.alignment import gradient_angles
from studies.checkpoints import Checkpoints
from studies.command_line import both_sets, main
from studies.runs import RunFolder
from studies.training import Condition, Sets, Training, check_conditions, check_hidden, learn
from studies.training_results import described, summary

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
class Config(Training):
    """What is trained, and how; times are in units of τ."""

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    """Which of: bp (backprop); ar (all frozen, the paper's baseline); f′ at the current activity in
    (a) the relaxation, (b) the weight update, a+b both; (c) the current activity itself in the
    weight update."""
    tau_z: tuple[float, ...] = ()
    """Also conditions whose weight update reads a trace of the activity, τ_z dz/dt = x − z, in
    units of τ: between the current activity (c, τ_z = 0) and the frozen one (ar, τ_z = ∞)."""
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
        check_positive("probe-size", self.probe_size, 512)
        check_hidden(self.hidden)


def run(config: Config, sets: Sets, folder: RunFolder) -> xr.Dataset:
    """Train in every condition, with every seed.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: the numbers were lost in some epoch and batch.
    """
    channels, side, classes = IMAGES[config.dataset]

    def make(generator: torch.Generator) -> nn.Module:
        return ardyn.mlp([channels * side**2, *config.hidden, classes], generator=generator)

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
    return described(results, "frozen_pass", config, conditions, sets.checksum)


if __name__ == "__main__":
    main("frozen_pass", Config, run, summary, draw, __doc__, both_sets)
