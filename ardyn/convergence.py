"""Convergence time: when an activity has come within a tolerance of a gradient, and stays there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from ardyn.closed_form import check_linear, grow, stacked_sweep
from ardyn.dynamics import Dynamics
from ardyn.propagator import propagator

Array = NDArray[np.float64]

_SCAN = 512
"""Times at which distances are looked at, before the last crossing is refined."""


def crossing_time(times: Tensor, error: Tensor, tolerance: float) -> Tensor:
    """First time after which ``error`` ≤ ``tolerance`` stays true, between recorded times.

    Interpolates log error linearly; NaN where the last recorded error is still above.

    Args:
        times: [time].
        error: relative errors, [time, …].

    Returns:
        [...], in the units of ``times``.
    """
    above = error > tolerance
    last = len(times) - 1 - above.flip(0).int().argmax(0)
    last = torch.where(above.any(0), last, -1)
    before, after = last.clamp(min=0), (last + 1).clamp(max=len(times) - 1)
    floor = torch.finfo(error.dtype).tiny
    log_error = error.clamp(min=floor).log().double()
    high, low = log_error.gather(0, before[None])[0], log_error.gather(0, after[None])[0]
    share = ((high - np.log(tolerance)) / (high - low)).nan_to_num(0.0)
    t = times.to(error.device)
    crossed = torch.lerp(t[before], t[after], share)
    crossed = torch.where(last < 0, t[0], crossed)
    return torch.where(last == len(times) - 1, torch.nan, crossed)


def exact_convergence_time(
    dynamics: Dynamics, reference: Mapping[str, Tensor], tolerance: float, per_sample: bool = False
) -> dict[str, Tensor]:
    """Convergence times of the ODE as roots of its closed form; infinite where it never converges.

    ‖x^l(t) − reference‖² is a quadratic form in the rows of P(t), with the Gram matrix of the
    stack: no trajectory is computed.

    Args:
        reference: gradients to converge to, [batch, unit] each.
        tolerance: relative error.
        per_sample: one time per sample, instead of one for the batch as a whole.

    Returns:
        {unit: time}, each [] or [batch], float64, for the relaxing units.

    Raises:
        InputError: there is no closed form.
    """
    check_linear(dynamics)
    tau = tuple(dynamics.tau.values())
    stacks = stacked_sweep(dynamics, lambda unit, stack, start: (grow(stack, start),) * 2)
    units = {
        unit: [
            _Distance(row, gram, tolerance * float(norm))
            for gram, norm in _grams(stacks[unit], reference[unit], per_sample)
        ]
        for row, unit in enumerate(dynamics.tau)
    }
    end = _end_of_scan(tau, [each for distances in units.values() for each in distances])
    scan = np.linspace(0, end, _SCAN)
    P = _propagator(tau, scan)
    times = {
        unit: [_last_crossing(each, tau, scan, P) for each in distances]
        for unit, distances in units.items()
    }
    return {
        unit: torch.tensor(t if per_sample else t[0], dtype=torch.float64)
        for unit, t in times.items()
    }


def _grams(
    stack: Tensor, reference: Tensor, per_sample: bool
) -> Iterator[tuple[Array, np.float64]]:
    """Gram matrix of [g − reference, g, J x^L(0), …, x^l(0)], and ‖reference‖."""
    entries = torch.cat([stack[:1] - reference, stack]).double().flatten(2)
    gram = torch.einsum("ibn,jbn->bij", entries, entries).cpu().numpy()
    squared = reference.double().flatten(1).square().sum(1).cpu().numpy()
    if not per_sample:
        gram, squared = gram.sum(0, keepdims=True), squared.sum(keepdims=True)
    yield from zip(gram, np.sqrt(squared), strict=True)


@dataclass(frozen=True)
class _Distance:
    """‖x^l(t) − reference‖ of one unit, beside the limit it must come under."""

    row: int
    gram: Array
    limit: float

    def weights(self, P: Array) -> Array:
        """Weights of the Gram matrix's entries, [time, entry], from P, [time, unit, unit]."""
        P = P[:, self.row]
        from_top = P[:, ::-1][:, : len(self.gram) - 2]
        return np.column_stack([np.ones(len(P)), -P.sum(1), from_top])

    def at(self, P: Array) -> Array:
        """The distance at each time."""
        w = self.weights(P)
        squared = np.einsum("ti,ij,tj->t", w, self.gram, w)
        return np.sqrt(squared.clip(min=0))  # type: ignore[no-any-return]

    def bound(self, P: Array) -> float:
        """At least the distance, at the one time of P; once all entries of P decay, so does it."""
        return float(np.abs(self.weights(P)[0]) @ np.sqrt(self.gram.diagonal()))

    @property
    def converges(self) -> bool:
        """Whether the equilibrium lies within the limit of the reference."""
        return bool(np.sqrt(self.gram[0, 0]) < self.limit)


def _end_of_scan(tau: tuple[float, ...], distances: list[_Distance]) -> float:
    """A time from which on every distance that converges stays under its limit."""
    end = sum(tau)  # beyond it all entries of P decay
    while True:
        P = _propagator(tau, [end])
        if all(each.bound(P) <= each.limit for each in distances if each.converges):
            return end
        end *= 2


def _last_crossing(distance: _Distance, tau: tuple[float, ...], scan: Array, P: Array) -> float:
    """Last t at which the distance falls to its limit; P is given at the times of the scan."""
    if not distance.converges:
        return np.inf
    above = np.flatnonzero(distance.at(P) > distance.limit)
    if len(above) == 0:
        return 0.0
    bracket = scan[above[-1] : above[-1] + 2]

    def excess(t: float) -> float:
        return float(distance.at(_propagator(tau, [t]))[0]) - distance.limit

    return float(brentq(excess, *bracket, xtol=1e-12))


def _propagator(tau: tuple[float, ...], times: Sequence[float] | Array) -> Array:
    return propagator(None, tau, torch.as_tensor(times, dtype=torch.float64)).numpy()
