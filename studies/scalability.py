"""Do AR's simplifications scale to convolutional networks? (paper, Fig. 2 and Appendix C)

Trains the paper's CNN by activation relaxation (AR), with learned feedback weights ψ in place of
Wᵀ, and without the nonlinear derivative f′, in its convolutions, its fully connected (FC) layers,
or both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ardyn import Rule
from ardyn.models import Variant
from plots.scalability import draw
from studies.problems import images, networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import both_sets, main
from studies.running.run_folder import RunFolder
from studies.running.variables import described_training, training_summary
from studies.training.loop import train_conditions
from studies.training.settings import DROPPED, Condition, SchemeTraining, check_conditions

if TYPE_CHECKING:
    import xarray as xr

LEARNED = Rule(feedback="learned")
CONDITIONS = {
    "bp": Condition("backprop", "bp"),
    "ar": Condition("AR"),
    "psi-fc": Condition("ψ on FC", rule={"fc*": LEARNED}),
    "psi-conv": Condition("ψ on conv", rule={"conv*": LEARNED}),
    "psi": Condition("ψ on both", rule=LEARNED),
    "drop-fc": Condition("no f′ on FC", rule={"fc*": DROPPED}),
    "drop-conv": Condition("no f′ on conv", rule={"conv*": DROPPED}),
    "drop": Condition("no f′ on both", rule=DROPPED),
    "psi+drop": Condition(
        "ψ and no f′ on both",
        rule=Rule(feedback="learned", relaxation_derivative="dropped", update_derivative="dropped"),
    ),
}


@dataclass(frozen=True)
class Config(SchemeTraining):
    """Settings of training; times are in units of τ."""

    conditions: tuple[str, ...] = tuple(name for name in CONDITIONS if name != "bp")
    """Conditions to train in: bp (backprop); ar (no simplification); learned feedback weights ψ in
    the fully connected layers (psi-fc), the convolutions (psi-conv), or both (psi); f′ = 1 in the
    paper's Eq. 1 and 2 in the same layers (drop-fc, drop-conv, drop); both simplifications in all
    layers (psi+drop)."""
    variant: Variant = "paper"
    """Network: that of the paper, with 32 and 64 filters (paper), or the smaller one of the
    authors' code, with 6 and 16 (code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_conditions(self.conditions, CONDITIONS)


def run(config: Config, sets: images.Sets, folder: RunFolder) -> xr.Dataset:
    """Train in every condition, with every seed.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: training diverged.
    """
    make = networks.cnn_for(config.dataset, config.variant)
    conditions = {name: CONDITIONS[name] for name in config.conditions}
    checkpoints = Checkpoints.of(folder.path, config, sets.checksum)
    results = train_conditions(config, conditions, make, sets, checkpoints)
    return described_training(results, "scalability", config, sets.checksum)


if __name__ == "__main__":
    main("scalability", Config, run, training_summary, draw, __doc__, both_sets)
