"""Steps and tolerances that cannot work, refused before any work."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import brentq

from ardyn.errors import InputError


class Stepped(Protocol):
    """A scheme of constant step."""

    @property
    def step(self) -> float:
        """h, in units of time."""

    def growth(self, step_over_tau: float) -> float:
        """The factor by which a step multiplies a decaying activity."""

    def __hash__(self) -> int:
        """So that what was found of it is kept."""


def check_stable(scheme: Stepped, time_constants: Mapping[str, float]) -> None:
    """Raise InputError for a step at which the leak −x/τ alone would already grow."""
    unit, shortest = min(time_constants.items(), key=lambda item: item[1])
    ratio = scheme.step / shortest
    if ratio < 1e-9:  # so short that rounding hides the decay; the number of steps is checked
        return
    if _growth(scheme, min(ratio, 1e6)) >= 1:
        bound, name = _stability_bound(scheme, ratio), getattr(scheme, "name", scheme)
        raise InputError(
            f"a step of {scheme.step:g} is {ratio:.3g} times τ = {shortest:g} of unit '{unit}', "
            f"and {name} is unstable from h/τ ≥ {bound:.4g}; use a step below "
            f"{bound * shortest:.4g}"
        )


def check_tolerance(rtol: float, dtype: torch.dtype) -> None:
    """Raise InputError for a tolerance that only endless steps would reach in this type."""
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
    """The smallest h/τ up to ``ratio`` at which a step no longer shrinks an activity.

    A stability polynomial may come back below 1 at larger steps, so the first crossing is sought
    on a scan and then refined; beyond h/τ = 20 every explicit method of torchdiffeq is unstable.
    """
    scan = np.concatenate([np.linspace(0, min(ratio, 20), 100)[1:], [min(ratio, 1e6)]])
    first = next(i for i, z in enumerate(scan) if scheme.growth(float(z)) >= 1)
    below = scan[first - 1] if first else 1e-9
    return float(brentq(lambda z: scheme.growth(z) - 1, below, scan[first], xtol=1e-4))
