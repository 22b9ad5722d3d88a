"""Convergence time: the time after which an activity stays within a tolerance of a gradient.

It grows with depth. From a zero state under a clamped output, k units below the output,

    x^{L−k}(t) = γ(k, t/τ) g^{L−k}

with γ the regularised lower incomplete gamma function: 1 % is reached after 10 τ at k = 4, and
after 68 τ at k = 50.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ardyn.closed_form.backward_sweep import Stack, backward_sweep, path_time_constants
from ardyn.closed_form.propagator import propagator
from ardyn.closed_form.solver import check_hooks, check_linear
from ardyn.dynamics.activity import Dynamics
from ardyn.errors import DivergenceError, check_positive

Array = NDArray[np.float64]
_Grams = list[tuple[Array, np.float64]]

_STEPS_PER_TAU = 16
_STEPS_PER_OCTAVE = 64


def exact_convergence_time(
    dynamics: Dynamics, reference: Mapping[str, Tensor], tolerance: float, per_sample: bool = False
) -> dict[str, Tensor]:
    """Convergence times of the ODE as roots of its closed form; infinite where it never converges.

    ‖x^l(t) − reference‖² is a quadratic form in a row of P(t), with the Gram matrix of the stack.
    No trajectory is computed.

    Args:
        reference: gradients to converge to, [batch, …] each.
        tolerance: relative error, ‖x − reference‖ / ‖reference‖.
        per_sample: one time per sample, instead of one for the batch as a whole.

    Returns:
        {unit: time}, each [] or [batch], float64, for the relaxing units.

    Raises:
        InputError: there is no closed form.
        DivergenceError: the stack or its Gram matrix holds infinities or NaN.
    """
    check_linear(dynamics)
    check_hooks(dynamics)
    check_positive("tolerance", tolerance, such_as=1e-3)
    tau, network = path_time_constants(dynamics), dynamics.forward_pass.network

    def keep(unit: str, stack: Tensor) -> _Grams:
        return _grams(stack, reference[unit], per_sample)

    grams = backward_sweep(dynamics, Stack(network, keep))
    found = {}
    for unit in dynamics.tau:
        # Nothing below a unit acts on it, so that P is upper triangular and the unit's row depends
        # on its own τ and on those above it.
        own_and_above = tau[len(tau) - network.height[unit] :]
        scan = _Scan(own_and_above)
        times = [
            _last_crossing(_Distance(own_and_above, gram, tolerance * float(norm)), scan)
            for gram, norm in grams[unit]
        ]
        found[unit] = torch.tensor(times if per_sample else times[0], dtype=torch.float64)
    return found


def _grams(stack: Tensor, reference: Tensor, per_sample: bool) -> _Grams:
    """Gram matrix of [g − reference, e(0), A e(0), …], and ‖reference‖."""
    # x(t) − reference is a combination of these entries with weights w = (1, row of P(t)), and its
    # squared norm is wᵀ G w, with one G [entry, entry] per sample; the batch has the sum of them.
    entries = _real(torch.cat([stack[:1] - reference, stack[1:]]))
    samples = len(reference) if reference.ndim else 1
    entries = entries.reshape(len(entries), samples, -1)
    gram = torch.einsum("ibn,jbn->bij", entries, entries).cpu().numpy()
    squared = _real(reference).reshape(samples, -1).square().sum(1).cpu().numpy()
    if not per_sample:
        gram, squared = gram.sum(0, keepdims=True), squared.sum(keepdims=True)
    return list(zip(gram, np.sqrt(squared), strict=True))


def _real(x: Tensor) -> Tensor:
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).double()


@dataclass(frozen=True)
class _Distance:
    """‖x^l(t) − reference‖ of one unit, and the limit that it has to reach."""

    tau: tuple[float, ...]
    """Of the unit itself and of the units above it."""
    gram: Array
    limit: float

    def rows(self, times: Sequence[float] | Array) -> Array:
        """The unit's row of P at each time, [time, unit]."""
        t = torch.as_tensor(times, dtype=torch.float64)
        return propagator(None, self.tau, t)[:, 0].numpy()

    def weights(self, rows: Array) -> Array:
        """w: 1 for g − reference, then the row of P, [time, entry]."""
        return np.column_stack([np.ones(len(rows)), rows])

    def at(self, rows: Array) -> Array:
        """The distance at each time."""
        w = self.weights(rows)
        squared = np.einsum("ti,ij,tj->t", w, self.gram, w)
        # Rounding can make the form slightly negative near a zero.
        return np.sqrt(squared.clip(min=0))  # type: ignore[no-any-return]

    def bound(self, rows: Array) -> float:
        """Upper bound Σ_k |w_k| ‖entry k‖ of the distance at the first time (triangle inequality).

        It decreases once all entries of the row of P do.
        """
        return float(np.abs(self.weights(rows)[0]) @ np.sqrt(self.gram.diagonal()))


class _Scan:
    """A grid of times with a unit's row of P at each, extended on demand and shared by all samples.

    Each row follows from the one before by P(t + h) = P(t) P(h). The step h is a sixteenth of the
    shortest τ at first and doubles after every 64 steps, so that every time scale is resolved.
    """

    def __init__(self, tau: tuple[float, ...]) -> None:
        self.step = min(tau) / _STEPS_PER_TAU
        self.P = propagator(None, tau, torch.tensor([self.step], dtype=torch.float64))[0].numpy()
        self.times, self.rows = np.zeros(1), np.eye(1, len(tau))

    def extend(self) -> None:
        """Add 64 times at the present step, then double the step."""
        # Doubling covers time constants that differ by orders of magnitude with few rows. After the
        # first 64 steps h is at most 3 % of t; crossings closer together than h are not separated.
        rows = [self.rows[-1]]
        for _ in range(_STEPS_PER_OCTAVE):
            rows.append(rows[-1] @ self.P)
        times = self.times[-1] + self.step * np.arange(1, _STEPS_PER_OCTAVE + 1)
        self.times = np.concatenate([self.times, times])
        self.rows = np.concatenate([self.rows, rows[1:]])
        self.P, self.step = self.P @ self.P, 2 * self.step


def _last_crossing(distance: _Distance, scan: _Scan) -> float:
    """Last t at which the distance falls to its limit; infinite if it stays above.

    The last crossing is bracketed on a grid first, as the distance need not be monotone: the units
    above can move an activity away from g before they converge themselves.
    """
    if not np.isfinite(distance.gram).all():
        raise DivergenceError(
            "the closed form holds infinities or NaN, so that nothing converges; scale the "
            "inputs, the weights, ψ or the loss down"
        )
    if not distance.gram.any():
        return 0.0
    # As t → ∞ the distance tends to ‖g − reference‖, the first entry's norm.
    if np.sqrt(distance.gram[0, 0]) >= distance.limit:
        return np.inf
    # P_lm / τ_m is the density of a sum of independent exponential times of means τ_l, …, τ_m. It
    # has one peak, before its mean, so that beyond the sum of all τ every entry of the row
    # decreases, and the bound with them: once that is below the limit, no crossing follows.
    while scan.times[-1] < sum(distance.tau) or distance.bound(scan.rows[-1:]) > distance.limit:
        scan.extend()
    above = np.flatnonzero(distance.at(scan.rows) > distance.limit)
    if len(above) == 0:
        return 0.0
    bracket = scan.times[above[-1] : above[-1] + 2]

    from scipy.optimize import brentq

    def excess(t: float) -> float:
        return float(distance.at(distance.rows([t]))[0]) - distance.limit

    return float(brentq(excess, *bracket, xtol=1e-12))
