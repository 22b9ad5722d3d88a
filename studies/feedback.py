"""Do learned feedback weights ψ align with Wᵀ, and AR gradients with BP gradients? (paper, Eq. 3)

Trains the paper's MLP by activation relaxation (AR) with Wᵀ, and with learned and fixed ψ in its
place, each with and without the nonlinear derivative f′; measures the angles between ψ and Wᵀ, and
between the weight gradients of AR and of backprop (BP).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ardyn import Learner, Rule
from plots.feedback import draw
from studies.problems import images, networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import both_sets, main
from studies.running.flags import HiddenLayers, check_positive_settings
from studies.running.run_folder import RunFolder
from studies.running.variables import described_training, training_summary
from studies.training.angles import feedback_angles, gradient_angles
from studies.training.loop import train_conditions
from studies.training.settings import (
    DROPPED,
    Condition,
    SchemeTraining,
    check_conditions,
)

if TYPE_CHECKING:
    import xarray as xr

CONDITIONS = {
    "transpose": Condition("Wᵀ"),
    "learned": Condition("learned ψ", rule=Rule(feedback="learned")),
    "fixed": Condition("fixed ψ", rule=Rule(feedback="fixed")),
    "transpose-drop": Condition("Wᵀ, no f′", rule=DROPPED),
    "learned-drop": Condition("learned ψ, no f′", rule=replace(DROPPED, feedback="learned")),
    "fixed-drop": Condition("fixed ψ, no f′", rule=replace(DROPPED, feedback="fixed")),
}


@dataclass(frozen=True)
class Config(HiddenLayers, SchemeTraining):
    """Settings of training; times are in units of τ."""

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    """Conditions to train in: feedback through Wᵀ (transpose), through ψ learned by Eq. 3
    (learned), or through fixed random ψ (fixed); each also without the nonlinear derivative f′
    (transpose-drop, learned-drop, fixed-drop)."""
    probe_size: int = 512
    """Number of training samples on which AR and BP gradients are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_conditions(self.conditions, CONDITIONS)
        self.check_hidden()
        check_positive_settings(self, "probe_size")


def run(config: Config, sets: images.Sets, folder: RunFolder) -> xr.Dataset:
    """Train in every condition, with every seed, and measure the angles after every epoch.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: training diverged.
    """
    make = networks.mlp_for(config.dataset, config.hidden)
    conditions = {name: CONDITIONS[name] for name in config.conditions}
    checkpoints = Checkpoints.of(folder.path, config, sets.checksum)
    inputs, targets = sets.train.first(config.probe_size)
    probe = partial(measured_angles, inputs=inputs, targets=targets)
    results = train_conditions(config, conditions, make, sets, checkpoints, probe)
    return described_training(results, "feedback", config, sets.checksum)


def measured_angles(
    learner: Learner, inputs: Tensor, targets: Tensor
) -> Mapping[str, xr.DataArray]:
    """Angles of gradients and of feedback weights, [layer, seed] each."""
    return {
        "gradient_angle": gradient_angles(learner, inputs, targets),
        "feedback_angle": feedback_angles(learner),
    }


if __name__ == "__main__":
    main("feedback", Config, run, training_summary, draw, __doc__, both_sets)
