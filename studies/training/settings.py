"""Settings of the studies that train, and the conditions that they compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import ardyn
from ardyn import ClosedForm, InputError, Rule
from ardyn.errors import check_choice
from ardyn.solvers.system import Solver
from ardyn.training import Method
from studies.running import flags
from studies.running.solvers import is_one_step

Rules = Rule | Mapping[str, Rule]
DROPPED = Rule(relaxation_derivative="dropped", update_derivative="dropped")
"""The nonlinear derivative dropped from Eq. 1 and 2."""


@dataclass(frozen=True)
class Training(flags.Objective, flags.Settings):
    """Settings of training; times are in units of τ."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, one network for each, trained in parallel; a seed sets the initial weights and the
    order of the samples."""
    epochs: int = 30
    """Number of passes through the training set."""
    learning_rate: float = 0.0005
    """Learning rate of stochastic gradient descent on the loss summed over the batch."""
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        flags.check_distinct("seeds", self.seeds)
        for seed in self.seeds:
            flags.check_seed(seed)
        flags.check_positive_settings(self, "epochs", "learning_rate")

    @property
    def usual_scheme(self) -> str:
        """The scheme of conditions that do not name one."""
        return "exact"

    def solver(self, rule: Rules, scheme: str) -> Solver:
        """The solver of a scheme: its closed form if it has one, else stepping."""
        solver = ardyn.solver_named(scheme, self.step)
        return ClosedForm(solver) if is_one_step(solver) else solver


@dataclass(frozen=True)
class SchemeTraining(Training):
    """Settings of training with one scheme, chosen by the user."""

    scheme: str = "exact"
    """Scheme of the relaxation: exact (the ODE in closed form), sweep (the authors' scheme), or a
    method of torchdiffeq, such as euler; evaluated by its closed form if it has one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scheme", self.scheme, ardyn.SOLVER_NAMES)
        takes_steps = self.scheme == "sweep" or self.scheme in ardyn.FIXED_METHODS
        if self.step != SchemeTraining.step and not takes_steps:
            raise InputError(
                f"step {self.step:g} has no effect with the scheme {self.scheme!r}; drop it, or "
                f"use a fixed-step scheme, such as euler"
            )

    @property
    def usual_scheme(self) -> str:
        """The scheme that the user chose."""
        return self.scheme


@dataclass(frozen=True)
class Condition:
    """A learning rule, and the scheme of its relaxation."""

    label: str
    method: Method = "ar"
    rule: Rules = field(default_factory=Rule)
    scheme: str | None = None
    """Scheme of the relaxation; None: that of the configuration."""
    tau_trace: float | None = None
    """τ_z of the activity trace, where the rule has one, in units of τ."""

    @property
    def takes_feedback(self) -> bool:
        """Whether some layer has feedback weights ψ of its own."""
        return any(
            rule.feedback != "transpose" for rule in rule_of_each_pattern(self.rule).values()
        )


def rule_of_each_pattern(rules: Rules) -> Mapping[str, Rule]:
    """{pattern of layer names: Rule}; a single Rule is that of every layer, "*"."""
    return {"*": rules} if isinstance(rules, Rule) else rules


def check_conditions(names: Sequence[str], known: Mapping[str, Condition]) -> None:
    """Raise InputError unless the names are of known conditions, each given once."""
    flags.check_distinct("conditions", names)
    for name in names:
        check_choice("condition", name, known)
