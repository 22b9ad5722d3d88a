"""What the studies that train can set: data, seeds, schemes, and the conditions to learn in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import ardyn
from ardyn import ClosedForm, InputError, Rule
from ardyn.dynamics.rule import Output
from ardyn.errors import check_choice, check_positive
from ardyn.solvers.system import Solver
from ardyn.training import Method
from studies.problems import images as data

Rules = Rule | Mapping[str, Rule]
DROPPED = Rule(relaxation_derivative="dropped", update_derivative="dropped")
"""The nonlinear derivative dropped from Eq. 1 and 2."""


@dataclass(frozen=True)
class Training:
    """What is trained, and how; times are in units of τ."""

    dataset: data.DatasetName = "digits"
    """Images and their labels: digits is bundled; the others are read from --data-dir."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One network for each, with its own weights and order of the samples; trained side by side."""
    epochs: int = 30
    """Passes through the training set."""
    batch_size: int = 64
    """Samples per update."""
    learning_rate: float = 0.0005
    """Of stochastic gradient descent on the loss summed over the batch."""
    loss: Literal["sse", "mse", "cross_entropy"] = "sse"
    """Loss: sse is Σ (x − t)², the authors' choice."""
    step: float = 0.1
    """Step h of a scheme that steps, in units of τ (paper: 0.1)."""
    duration: float = 10.0
    """Length of a relaxation, in units of τ (paper: 10)."""
    output: Output = "relaxed"
    """Whether the output relaxes onto the loss gradient, or is clamped to it as by the authors."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, …"""

    def __post_init__(self) -> None:
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not all(0 <= seed < 2**63 for seed in self.seeds)
        ):
            raise InputError(
                f"seeds must be one or more different numbers from 0 on, got {list(self.seeds)}; "
                f"pass such as 0 1 2"
            )
        for name in ("epochs", "batch_size", "learning_rate", "step", "duration"):
            check_positive(name.replace("_", "-"), getattr(self, name), getattr(Training, name))

    @property
    def usual_scheme(self) -> str:
        """How activities relax where a condition doesn't say."""
        return "exact"

    def solver(self, rule: Rules, scheme: str) -> Solver:
        """The solver of a scheme; in closed form where it has one."""
        solver = ardyn.solver_named(scheme, self.step)
        if isinstance(solver, ardyn.Sweep) or (
            isinstance(solver, ardyn.Fixed) and solver.is_one_step
        ):
            return ClosedForm(solver)
        return solver


@dataclass(frozen=True)
class SchemeTraining(Training):
    """Training with a scheme of one's choice."""

    scheme: str = "exact"
    """How activities relax: exact (the ODE in closed form), euler or another one-step method, or
    sweep (the authors' scheme), each in closed form; or any other solver by its name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scheme", self.scheme, ardyn.SOLVER_NAMES)
        takes_steps = self.scheme == "sweep" or self.scheme in ardyn.FIXED_METHODS
        if self.step != SchemeTraining.step and not takes_steps:
            raise InputError(
                f"step {self.step:g} means nothing to the scheme {self.scheme!r}; drop it, or use "
                f"a scheme that steps, such as euler"
            )

    @property
    def usual_scheme(self) -> str:
        """The chosen one."""
        return self.scheme


@dataclass(frozen=True)
class Condition:
    """One way to learn."""

    label: str
    method: Method = "ar"
    rule: Rules = field(default_factory=Rule)
    scheme: str | None = None
    """How activities relax, where not as the configuration says."""
    tau_trace: float | None = None
    """τ_z of the activity trace, where the rule has one, in units of τ."""

    @property
    def takes_feedback(self) -> bool:
        """Whether some layer sends back through ψ."""
        rules = [self.rule] if isinstance(self.rule, Rule) else self.rule.values()
        return any(rule.feedback != "transpose" for rule in rules)


def check_conditions(names: Sequence[str], known: Mapping[str, Condition]) -> None:
    """Raise InputError unless the names are different ones of known conditions."""
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"conditions must be one or more different names, got {list(names)}; pass such as "
            f"{' '.join(list(known)[:2])}"
        )
    for name in names:
        check_choice("condition", name, known)


def check_hidden(sizes: Sequence[int]) -> None:
    """Raise InputError unless every hidden layer has neurons."""
    if min(sizes, default=1) < 1:
        raise InputError(
            f"hidden must be positive numbers, got {list(sizes)}; use such as 300 300 100"
        )
