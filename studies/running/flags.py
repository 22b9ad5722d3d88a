"""Settings that several studies share, each a flag of the command line, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ardyn.dynamics.rule import Output
from ardyn.errors import InputError, check_positive
from studies.problems import images


@dataclass(frozen=True)
class Settings:
    """Settings of every study."""

    dataset: images.DatasetName = "digits"
    """Images and their labels: digits is bundled; the others are read from --data-dir."""
    batch_size: int = 64
    """Samples per batch."""
    duration: float = 10.0
    """Duration of one relaxation (paper: 10 τ)."""
    step: float = 0.1
    """Step h of fixed-step solvers and of the sweep (paper: 0.1 τ)."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type."""
    device: str = "cpu"
    """Device to compute on: cpu, cuda, cuda:1, …"""

    def __post_init__(self) -> None:
        check_positive_settings(self, "batch_size", "duration", "step")


@dataclass(frozen=True)
class Objective:
    """The loss, and how its gradient enters the relaxation."""

    loss: Literal["sse", "mse", "cross_entropy"] = "sse"
    """Loss: sse is Σ (x − t)², the authors' choice."""
    output: Output = "relaxed"
    """Whether the output relaxes onto the loss gradient, or is clamped to it as in the authors'
    code."""


@dataclass(frozen=True)
class SolvedOnce(Settings):
    """Settings of the studies that solve the ODE with a single seed."""

    rtol: float = 1e-6
    """Relative tolerance of adaptive solvers."""
    atol: float = 1e-9
    """Absolute tolerance of adaptive solvers, in the unit of the activities."""
    seed: int = 0
    """Seed of the weights and of the samples drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_settings(self, "rtol", "atol")
        check_seed(self.seed)


@dataclass(frozen=True)
class HiddenLayers:
    """The hidden layers of the paper's MLP."""

    hidden: tuple[int, ...] = (300, 300, 100)
    """Neurons of the hidden layers (paper: 300 300 100)."""

    def check_hidden(self) -> None:
        """Raise InputError unless every hidden layer has neurons."""
        if min(self.hidden, default=1) < 1:
            raise InputError(
                f"hidden must be positive numbers, got {list(self.hidden)}; use values such as "
                f"300 300 100"
            )


def flag(name: str) -> str:
    """The command line's spelling of a setting."""
    return name.replace("_", "-")


def check_positive_settings(config: Any, *names: str) -> None:
    """Raise InputError unless these settings are positive; suggests their defaults."""
    for name in names:
        check_positive(flag(name), getattr(config, name), getattr(type(config), name))


def check_distinct(name: str, values: Sequence[object], least: int = 1) -> None:
    """Raise InputError unless a setting has enough values, all different."""
    if len(values) >= least and len(set(values)) == len(values):
        return
    count = {0: "different values only", 1: "one or more different values"}
    raise InputError(
        f"{flag(name)} needs {count.get(least, f'{least} or more different values')}, got "
        f"{list(values)}; give each once"
    )


def check_time_constants(
    name: str, values: Sequence[float], least: int = 0, such_as: float = 1000
) -> None:
    """Raise InputError unless time constants are enough, different and positive."""
    check_distinct(name, values, least)
    for tau in values:
        check_positive(flag(name), tau, such_as)


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that torch's generators do not accept."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie in 0 … 2⁶³ − 1, got {seed}; use one such as 0")
