"""Convergence time: when an activity has come within a tolerance of a gradient, and stays there."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from ardyn.closed_form import check_linear, stacked_sweep
from ardyn.dynamics import Dynamics
from ardyn.propagator import propagator

_SCAN = 512


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
    stacks = stacked_sweep(dynamics, lambda unit, stack: (stack, stack))
    found = {}
    for row, unit in enumerate(dynamics.tau):
        g, starts = stacks[unit][:1], stacks[unit][1:]
        entries = torch.cat([g - reference[unit], g, starts]).double().flatten(2)
        gram = torch.einsum("ibn,jbn->bij", entries, entries).cpu().numpy()
        norm = reference[unit].double().flatten(1).square().sum(1).cpu().numpy()
        if not per_sample:
            gram, norm = gram.sum(0, keepdims=True), norm.sum(keepdims=True)
        limits = tolerance * np.sqrt(norm)
        times = [_last_crossing(G, tau, row, limit) for G, limit in zip(gram, limits, strict=True)]
        found[unit] = torch.tensor(times if per_sample else times[0], dtype=torch.float64)
    return found


def _last_crossing(
    gram: NDArray[np.float64], tau: tuple[float, ...], row: int, limit: float
) -> float:
    """Last t at which the distance of unit ``row`` falls to ``limit``."""

    def weights(times: NDArray[np.float64]) -> NDArray[np.float64]:
        P = propagator(None, tau, torch.from_numpy(np.atleast_1d(times)))[:, row].numpy()
        from_top = P[:, ::-1][:, : gram.shape[-1] - 2]
        return np.column_stack([np.ones(len(P)), -P.sum(1), from_top])

    def distance(times: NDArray[np.float64]) -> NDArray[np.float64]:
        w = weights(times)
        squared = np.einsum("ti,ij,tj->t", w, gram, w)
        length: NDArray[np.float64] = np.sqrt(squared.clip(min=0))
        return length

    norms = np.sqrt(np.diag(gram))
    if norms[0] >= limit:
        return 0.0 if limit > 0 and norms.sum() <= limit else np.inf
    # Beyond the sum of all τ every entry of P only decays, so this bound holds from there on.
    end = sum(tau)
    while np.abs(weights(np.array(end))[0]) @ norms > limit:
        end *= 2
    scan = np.linspace(0, end, _SCAN)
    above = np.flatnonzero(distance(scan) > limit)
    if len(above) == 0:
        return 0.0
    bracket = scan[above[-1] : above[-1] + 2]
    return float(brentq(lambda t: float(distance(np.array(t))[0]) - limit, *bracket, xtol=1e-12))
