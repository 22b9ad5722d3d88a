"""Convergence time: when an activity has come within a tolerance of a gradient, and stays there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from ardyn.closed_form import Stack, backward_sweep, check_linear, path_time_constants
from ardyn.dynamics import Dynamics
from ardyn.errors import check_positive
from ardyn.propagator import propagator

Array = NDArray[np.float64]
_Grams = list[tuple[Array, np.float64]]

_STEPS_PER_TAU = 16
_STEPS_PER_OCTAVE = 64


def crossing_time(times: Tensor, error: Tensor, tolerance: float) -> Tensor:
    """First time after which ``error`` ≤ ``tolerance`` stays true, between recorded times.

    Interpolates log error linearly; NaN where the last recorded error is still above. Where all are
    below, it is the first recorded time, so record from t = 0 on.

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

    ‖x^l(t) − reference‖² is a quadratic form in a row of P(t), with the Gram matrix of the stack:
    no trajectory is computed.

    Args:
        reference: gradients to converge to, [batch, …] each.
        tolerance: relative error.
        per_sample: one time per sample, instead of one for the batch as a whole.

    Returns:
        {unit: time}, each [] or [batch], float64, for the relaxing units.

    Raises:
        InputError: there is no closed form.
    """
    check_linear(dynamics)
    check_positive("tolerance", tolerance, such_as=1e-3)
    tau, network = path_time_constants(dynamics), dynamics.trace.network

    def keep(unit: str, stack: Tensor) -> _Grams:
        return _grams(stack, reference[unit], per_sample)

    grams = backward_sweep(dynamics, Stack(network, keep))
    found = {}
    for unit in dynamics.tau:
        # Nothing below a unit reaches it, so that its own τ and those above are all it takes.
        own_and_above = tau[len(tau) - network.height[unit] :]
        times = [
            _last_crossing(_Distance(own_and_above, gram, tolerance * float(norm)))
            for gram, norm in grams[unit]
        ]
        found[unit] = torch.tensor(times if per_sample else times[0], dtype=torch.float64)
    return found


def _grams(stack: Tensor, reference: Tensor, per_sample: bool) -> _Grams:
    """Gram matrix of [g − reference, e(0), A e(0), …], and ‖reference‖."""
    entries = torch.cat([stack[:1] - reference, stack[1:]]).double()
    entries = entries.reshape(*entries.shape[:2], -1)
    gram = torch.einsum("ibn,jbn->bij", entries, entries).cpu().numpy()
    squared = reference.double().reshape(len(reference), -1).square().sum(1).cpu().numpy()
    if not per_sample:
        gram, squared = gram.sum(0, keepdims=True), squared.sum(keepdims=True)
    return list(zip(gram, np.sqrt(squared), strict=True))


@dataclass(frozen=True)
class _Distance:
    """‖x^l(t) − reference‖ of one unit, beside the limit it must come under."""

    tau: tuple[float, ...]
    """Of the unit itself and of those above it."""
    gram: Array
    limit: float

    def rows(self, times: Sequence[float] | Array) -> Array:
        """The unit's row of P at each time, [time, unit]."""
        t = torch.as_tensor(times, dtype=torch.float64)
        return propagator(None, self.tau, t)[:, 0].numpy()

    def weights(self, rows: Array) -> Array:
        """Weights of the Gram matrix's entries, [time, entry]."""
        return np.column_stack([np.ones(len(rows)), rows])

    def at(self, rows: Array) -> Array:
        """The distance at each time."""
        w = self.weights(rows)
        squared = np.einsum("ti,ij,tj->t", w, self.gram, w)
        return np.sqrt(squared.clip(min=0))  # type: ignore[no-any-return]

    def bound(self, rows: Array) -> float:
        """At least the distance, at the first time; once P only decays, so does it."""
        return float(np.abs(self.weights(rows)[0]) @ np.sqrt(self.gram.diagonal()))


def _last_crossing(distance: _Distance) -> float:
    """Last t at which the distance falls to its limit; infinite if it stays above."""
    if not distance.gram.any():
        return 0.0
    if np.sqrt(distance.gram[0, 0]) >= distance.limit:
        return np.inf
    times, rows = _scan(distance)
    above = np.flatnonzero(distance.at(rows) > distance.limit)
    if len(above) == 0:
        return 0.0
    bracket = times[above[-1] : above[-1] + 2]

    def excess(t: float) -> float:
        return float(distance.at(distance.rows([t]))[0]) - distance.limit

    return float(brentq(excess, *bracket, xtol=1e-12))


def _scan(distance: _Distance) -> tuple[Array, Array]:
    """Times, and the unit's row of P at each, until the distance is sure to stay at its limit.

    Each row follows from the last by P(t + h) = P(t) P(h). The step h begins well below the
    shortest τ and doubles now and then, so that every time scale is looked at.
    """
    step = min(distance.tau) / _STEPS_PER_TAU
    P = propagator(None, distance.tau, torch.tensor([step], dtype=torch.float64))[0].numpy()
    times, rows = [0.0], [np.eye(1, len(P))[0]]
    # Beyond the sum of all τ every entry of P decays, and the bound with them.
    while times[-1] < sum(distance.tau) or distance.bound(rows[-1][None]) > distance.limit:
        for _ in range(_STEPS_PER_OCTAVE):
            times.append(times[-1] + step)
            rows.append(rows[-1] @ P)
        P, step = P @ P, 2 * step
    return np.array(times), np.array(rows)
