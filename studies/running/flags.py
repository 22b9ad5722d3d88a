"""Settings that several studies share, each a flag of the command line, and checks of settings."""

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
    """Images and labels: digits is included in scikit-learn; for the others see --data-dir."""
    batch_size: int = 64
    """Samples per batch."""
    duration: float = 10.0
    """Duration of one relaxation, in units of τ (paper: 10)."""
    step: float = 0.1
    """Step h of fixed-step solvers and of the sweep, in the unit of τ (paper: 0.1 τ)."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of weights and activities."""
    device: str = "cpu"
    """Device to compute on: cpu, cuda, cuda:1, …"""

    def __post_init__(self) -> None:
        check_positive_settings(self, "batch_size", "duration", "step")


@dataclass(frozen=True)
class Objective:
    """The loss, and how its gradient enters the relaxation."""

    loss: Literal["sse", "mse", "cross_entropy"] = "sse"
    """Loss, summed over the batch: sse, Σ (x − t)² as in the authors' code; mse, its mean over
    outputs; or cross_entropy."""
    output: Output = "relaxed"
    """Output activity: relaxes onto the loss gradient (relaxed), or is equal to it at all times as
    in the authors' code (clamped)."""


@dataclass(frozen=True)
class SolvedOnce(Settings):
    """Settings of the studies that solve the ODE with a single seed."""

    rtol: float = 1e-6
    """Relative tolerance of adaptive solvers, per step."""
    atol: float = 1e-9
    """Absolute tolerance of adaptive solvers, per step, in the unit of the activities."""
    seed: int = 0
    """Seed of the initial weights and of the choice of samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_settings(self, "rtol", "atol")
        check_seed(self.seed)


@dataclass(frozen=True)
class HiddenLayers:
    """The hidden layers of the paper's MLP."""

    hidden: tuple[int, ...] = (300, 300, 100)
    """Number of neurons of each hidden layer (paper: 300 300 100)."""

    def check_hidden(self) -> None:
        """Raise InputError unless every hidden layer has neurons."""
        if min(self.hidden, default=1) < 1:
            raise InputError(
                f"hidden must be positive numbers, got {list(self.hidden)}; use values such as "
                f"300 300 100"
            )


def flag(name: str) -> str:
    """A setting as spelled on the command line."""
    return name.replace("_", "-")


def check_positive_settings(config: Any, *names: str) -> None:
    """Raise InputError unless these settings are positive; the message suggests their defaults."""
    for name in names:
        check_positive(flag(name), getattr(config, name), getattr(type(config), name))


def check_distinct(name: str, values: Sequence[object], least: int = 1) -> None:
    """Raise InputError unless a setting has at least ``least`` values, all different."""
    if len(values) >= least and len(set(values)) == len(values):
        return
    count = {0: "different values only", 1: "one or more different values"}
    raise InputError(
        f"{flag(name)} needs {count.get(least, f'{least} or more different values')}, got "
        f"{list(values)}; pass each value once"
    )


def check_time_constants(
    name: str, values: Sequence[float], least: int = 0, such_as: float = 1000
) -> None:
    """Raise InputError unless these are ``least`` or more different, positive values."""
    check_distinct(name, values, least)
    for tau in values:
        check_positive(flag(name), tau, such_as)


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that torch's generators do not accept."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie in 0 … 2⁶³ − 1, got {seed}; use one such as 0")
