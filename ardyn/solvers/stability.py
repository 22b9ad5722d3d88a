"""Checks of steps and tolerances before integration: stability, and the precision of the type."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

from ardyn.errors import InputError


class Stepped(Protocol):
    """A scheme of constant step h."""

    @property
    def step(self) -> float:
        """h, in units of time."""

    def growth(self, step_over_tau: float) -> float:
        """The factor by which one step multiplies |x| of the leak dx/dt = −x/τ."""

    def __hash__(self) -> int:
        """Needed to cache the growth."""


def check_stable(scheme: Stepped, time_constants: Mapping[str, float]) -> None:
    """Raise InputError for a step with which the leak dx/dt = −x/τ alone grows.

    Linear stability analysis, of the shortest τ (Hairer and Wanner, Solving Ordinary Differential
    Equations II, Sec. IV.2 for Runge–Kutta and V.1 for multistep methods).
    """
    # The coupling is nilpotent, so that a linear system has the eigenvalues −1/τ of its leaks.
    # A nonlinear rule has others; if it diverges, StepMonitor raises the error.
    unit, shortest = min(time_constants.items(), key=lambda item: item[1])
    ratio = scheme.step / shortest
    if ratio < 1e-9:  # stable, but the factor may round to 1; grid() limits the number of steps
        return
    if _growth(scheme, min(ratio, 1e6)) >= 1:
        bound, name = _stability_bound(scheme, ratio), getattr(scheme, "name", scheme)
        raise InputError(
            f"a step of {scheme.step:g} is {ratio:.3g} times τ = {shortest:g} of unit '{unit}', "
            f"and {name} is unstable from h/τ ≥ {bound:.4g}; use a step below "
            f"{bound * shortest:.4g}"
        )


def check_tolerance(rtol: float, dtype: torch.dtype) -> None:
    """Raise InputError for a relative tolerance below the precision of this type.

    Error estimates are rounding there, and an adaptive method would shorten its steps without end.
    """
    finest = torch.finfo(dtype).eps
    if rtol < finest:
        raise InputError(
            f"rtol = {rtol:g} is finer than {str(dtype).removeprefix('torch.')} resolves; use "
            f"rtol ≥ {finest:.2g}, or a wider type"
        )


@lru_cache(maxsize=256)
def _growth(scheme: Stepped, ratio: float) -> float:
    return scheme.growth(ratio)


def _stability_bound(scheme: Stepped, ratio: float) -> float:
    """The smallest h/τ up to ``ratio`` at which one step no longer reduces an activity."""
    from scipy.optimize import brentq

    # |R(−z)| may fall below 1 again at a larger z: the first crossing is bracketed on a grid before
    # it is refined. torchdiffeq's methods are all unstable from z = 3 on, well inside the grid.
    scan = np.concatenate([np.linspace(0, min(ratio, 20), 100)[1:], [min(ratio, 1e6)]])
    first = next(i for i, z in enumerate(scan) if scheme.growth(float(z)) >= 1)
    below = scan[first - 1] if first else 1e-9
    return float(brentq(lambda z: scheme.growth(z) - 1, below, scan[first], xtol=1e-4))
