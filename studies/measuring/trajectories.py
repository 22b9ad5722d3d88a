"""Measurements of relaxations: comparison with a reference, work and precision, depth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

import ardyn
from ardyn.analysis.measures import cosine, crossing_time, norm, norm_ratio, relative_error
from ardyn.network.network import Units
from ardyn.solvers.system import Solver

if TYPE_CHECKING:
    import xarray as xr

LEVELS = 7
"""Number of steps or tolerances per solver in the work–precision measurement."""
_EACH = ("time", "neuron")


def relax(
    sim: ardyn.Relaxation, times: Sequence[float], solver: Solver
) -> tuple[ardyn.Trajectory, float]:
    """A trajectory with all activities computed, and its wall time [s].

    Short solves are repeated and the shortest time is returned, so that costs of a first call do
    not count.
    """
    import torchdiffeq  # noqa: F401  (by ardyn, in the first solve, where it would count)

    trajectory, seconds = _timed(sim, times, solver)
    repeats = 3 if seconds < 0.1 else 0
    return trajectory, min([seconds, *(_timed(sim, times, solver)[1] for _ in range(repeats))])


def _timed(
    sim: ardyn.Relaxation, times: Sequence[float], solver: Solver
) -> tuple[ardyn.Trajectory, float]:
    _synchronise(sim)
    start = time.perf_counter()
    trajectory = sim.solve(times, solver)
    for unit in trajectory.units:
        trajectory[unit]  # of a closed form, computed on access
    _synchronise(sim)
    return trajectory, time.perf_counter() - start


def strongest_neurons(gradients: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Indices of the neurons with the largest gradients in the first sample, {layer: [count]}."""
    strongest = {unit: g[0].flatten().abs().topk(count) for unit, g in gradients.items()}
    return {unit: found.indices.sort().values for unit, found in strongest.items()}


def by_layer(values: Mapping[str, Tensor], *dims: str) -> xr.DataArray:
    """One tensor per layer, stacked along the dimension "layer"."""
    import xarray as xr

    stacked = np.stack([value.cpu().numpy() for value in values.values()])
    return xr.DataArray(stacked, dims=("layer", *dims), coords={"layer": list(values)})


def compare(
    relaxed: ardyn.Trajectory,
    exact: ardyn.Trajectory,
    goal: Mapping[str, Tensor],
    neurons: Mapping[str, Tensor],
    tolerance: float,
) -> xr.Dataset:
    """Compare a trajectory with its reference g and with the exact trajectory.

    Args:
        goal: g of every unit: BP gradients or equilibrium, [batch, …].
        neurons: indices of the neurons to store, by unit; other units are not compared.
    """
    import xarray as xr

    def of_each(measure: Callable[[str], Tensor], *dims: str) -> xr.DataArray:
        return by_layer({unit: measure(unit) for unit in neurons}, *dims)

    def deviation(unit: str) -> Tensor:
        return norm(relaxed[unit] - exact[unit]) / norm(goal[unit][None])

    def converged(unit: str) -> Tensor:
        return crossing_time(relaxed.times, relative_error(relaxed[unit], goal[unit]), tolerance)

    return xr.Dataset(
        {
            "relative_error": of_each(lambda u: relative_error(relaxed[u], goal[u]), "time"),
            "cosine": of_each(lambda u: cosine(relaxed[u], goal[u]), "time"),
            "norm_ratio": of_each(lambda u: norm_ratio(relaxed[u], goal[u]), "time"),
            "deviation": of_each(deviation, "time"),
            "convergence_time": of_each(converged),
            "activity": of_each(lambda u: relaxed[u][:, 0].flatten(1)[:, neurons[u]], *_EACH),
            "evaluations": relaxed.evaluations,
        },
        coords={"time": relaxed.times.numpy()},
    )


def work_precision(sim: ardyn.Relaxation, tau: float, name: str, reference: Solver) -> xr.Dataset:
    """Error of the state at t = 5 τ and its cost, over steps h = τ/2ⁱ or tolerances.

    NaN where the solver is unstable, or the tolerance is below the resolution of the number format.
    The closed form has no step or tolerance, so that only its first level is filled; as it is the
    reference for the others, its own error is relative to an adaptive solve at tight tolerances.
    """
    import xarray as xr

    times = [5 * tau]
    goal = sim.solve(times, tight_solver(sim) if name == "exact" else reference)
    rows = np.full((4, LEVELS), np.nan)
    for level, (setting, solver) in enumerate(_settings(tau, name)):
        try:
            trajectory, seconds = relax(sim, times, solver)
        except ardyn.ArdynError:
            continue
        errors = [(trajectory[u] - goal[u]).norm() / goal[u].norm() for u in goal.units]
        rows[:, level] = setting, float(max(errors)), trajectory.evaluations, seconds
    names = ("work_setting", "work_error", "work_evaluations", "work_wall_time")
    return xr.Dataset({name: ("level", row) for name, row in zip(names, rows, strict=True)})


def recorded_times(duration: float, step: float) -> list[float]:
    """About 200 times on the step grid; the last is the duration."""
    stride = step * max(1, round(duration / step / 200))
    # The margin: a last grid point that equals the duration up to rounding is not listed twice.
    whole = int(duration / stride * (1 - 1e-9))
    return [*(stride * i for i in range(whole + 1)), duration]


def exact_solver(sim: ardyn.Relaxation) -> Solver:
    """The solver of reference trajectories: the closed form, else ``tight_solver``."""
    return ardyn.ClosedForm() if sim.dynamics.is_linear else tight_solver(sim)


def tight_solver(sim: ardyn.Relaxation) -> ardyn.Adaptive:
    """An adaptive solver of order 8, with tolerances near the machine epsilon."""
    rtol = _finest_rtol(sim, 1e-12)
    return ardyn.Adaptive("dopri8", rtol=rtol, atol=rtol * 1e-3)


def _finest_rtol(sim: ardyn.Relaxation, wanted: float) -> float:
    """The tolerance wanted, but at least 8 times the machine epsilon."""
    return max(wanted, 8 * torch.finfo(sim.dynamics.like.dtype).eps)


def _settings(tau: float, name: str) -> Iterator[tuple[float, Solver]]:
    """Tolerance or step over τ of each level, and the solver; the closed form has one level."""
    if name == "exact":
        yield np.nan, ardyn.ClosedForm()
    elif name in ("collocation", *ardyn.ADAPTIVE_METHODS):
        for rtol in 10.0 ** -np.arange(2, 2 + LEVELS):
            yield rtol, ardyn.solver_named(name, rtol=float(rtol), atol=float(rtol) * 1e-3)
    else:
        for ratio in 0.5 ** np.arange(LEVELS):
            yield ratio, ardyn.solver_named(name, step=float(ratio) * tau)


def convergence_at_depth(
    model: nn.Module, inputs: Tensor, targets: Tensor, tolerance: float, units: Units
) -> xr.Dataset:
    """Convergence time of the lowest unit of a network for τ = 1, analytic and measured.

    On a chain, from a zero initial state and with a clamped output, x^{L−k}(t) = γ(k, t) g^{L−k},
    γ being the regularised lower incomplete gamma function. "depth_law" is the time that follows
    for the longest path through the network, and "depth_measured" the time measured; it is shorter
    where shorter paths contribute. "depth_default" is the time from the feed-forward state with a
    relaxing output; it also depends on the size of activities relative to gradients.
    """
    import xarray as xr
    from scipy.special import gammainccinv

    rule = ardyn.Rule(output="clamped", initial="zero")
    from_zero = ardyn.Relaxation(model, inputs, targets, rule=rule, units=units)
    lowest = next(iter(from_zero.gradients))
    smallest = min(float(g.norm()) for g in from_zero.gradients.values())
    path = from_zero.network.depth
    law = float(gammainccinv(path - 1, tolerance))
    stepped = from_zero.solve(
        np.linspace(0, 1.1 * law + 5, 300).tolist(),
        ardyn.Adaptive("dopri5", rtol=_finest_rtol(from_zero, 1e-7), atol=1e-9 * smallest),
    )
    default = ardyn.Relaxation(model, inputs, targets, units=units)
    return xr.Dataset(
        {
            "depth_path": path,
            "depth_law": law,
            "depth_measured": float(stepped.convergence_time(tolerance)[lowest]),
            "depth_default": float(default.exact_convergence_time(tolerance)[lowest]),
        }
    )


def _synchronise(sim: ardyn.Relaxation) -> None:
    if sim.dynamics.like.is_cuda:
        torch.cuda.synchronize(sim.dynamics.like.device)
