"""What do feedback weights ψ learn, and what do they teach? (paper, Eq. 3)

Trains the paper's MLP with Wᵀ, and with learned and fixed ψ in its place, each with and without the
nonlinear derivative f′, and follows the angles between ψ and Wᵀ, and between AR and BP gradients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import xarray as xr
from torch import Tensor

from ardyn import Learner, Rule
from ardyn.errors import check_positive
from plots.feedback import draw
from studies.problems import images as data
from studies.problems import networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import both_sets, main
from studies.running.run_folder import RunFolder
from studies.running.training_variables import described, summary
from studies.training.angles import feedback_angles, gradient_angles
from studies.training.loop import learn
from studies.training.settings import (
    DROPPED,
    Condition,
    SchemeTraining,
    check_conditions,
    check_hidden,
)

CONDITIONS = {
    "transpose": Condition("Wᵀ"),
    "learned": Condition("learned ψ", rule=Rule(feedback="learned")),
    "fixed": Condition("fixed ψ", rule=Rule(feedback="fixed")),
    "transpose-drop": Condition("Wᵀ, no f′", rule=DROPPED),
    "learned-drop": Condition("learned ψ, no f′", rule=replace(DROPPED, feedback="learned")),
    "fixed-drop": Condition("fixed ψ, no f′", rule=replace(DROPPED, feedback="fixed")),
}


@dataclass(frozen=True)
class Config(SchemeTraining):
    """What is trained, and how; times are in units of τ."""

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    """Which of: feedback through Wᵀ (transpose), through ψ that is learned by Eq. 3, or through
    random ψ that is fixed; each also without the derivative (-drop)."""
    hidden: tuple[int, ...] = (300, 300, 100)
    """Neurons of the hidden layers (paper: 300 300 100)."""
    probe_size: int = 512
    """Training samples on which AR and BP gradients are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_conditions(self.conditions, CONDITIONS)
        check_hidden(self.hidden)
        check_positive("probe-size", self.probe_size, 512)


def run(config: Config, sets: data.Sets, folder: RunFolder) -> xr.Dataset:
    """Train in every condition, with every seed, and take the angles after every epoch.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: the numbers were lost in some epoch and batch.
    """
    make = networks.mlp_for(config.dataset, config.hidden)
    conditions = {name: CONDITIONS[name] for name in config.conditions}
    checkpoints = Checkpoints.of(folder.path, config, sets.checksum)
    sample = sets.train.inputs[: config.probe_size], sets.train.targets[: config.probe_size]
    probe = partial(angles, inputs=sample[0], targets=sample[1])
    results = learn(config, conditions, make, sets, checkpoints, probe)
    return described(results, "feedback", config, sets.checksum, conditions)


def angles(learner: Learner, inputs: Tensor, targets: Tensor) -> Mapping[str, xr.DataArray]:
    """Both angles, of every layer and seed."""
    return {
        "gradient_angle": gradient_angles(learner, inputs, targets),
        "feedback_angle": feedback_angles(learner),
    }


if __name__ == "__main__":
    main("feedback", Config, run, summary, draw, __doc__, both_sets)
