"""Tracking error and lag of each unit, relative to a gradient that moves with plastic weights."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import ardyn
from ardyn import Plasticity, Rule
from ardyn.analysis.measures import relative_error
from ardyn.errors import DivergenceError
from ardyn.solvers.system import Solver
from studies.measuring.trajectories import by_layer
from studies.running.checkpoints import Checkpoints

if TYPE_CHECKING:
    import xarray as xr

RECORDS = 60
"""Times after the start at which weights are recorded, and gradients computed from them."""


class Taus(NamedTuple):
    """Time constants of one relaxation with plastic weights; infinite: a constant variable."""

    tau_x: float
    tau_w: float = math.inf
    tau_psi: float = math.inf
    tau_z: float = math.inf

    def __str__(self) -> str:
        taus = {name: tau for name, tau in self._asdict().items() if tau < math.inf}
        return ", ".join(f"{name.replace('_', '-')} {tau:g}" for name, tau in taus.items())


def relaxations(
    make: Callable[..., ardyn.Relaxation],
    rule: Rule,
    tau_x: Sequence[float],
    tau_w: Sequence[float],
    tau_psi: Sequence[float],
    tau_z: Sequence[float],
) -> dict[Taus, ardyn.Relaxation]:
    """One relaxation for every combination of time constants, plastic from start to end.

    Args:
        make: makes a relaxation from its rule, time constants and plasticity.
    """
    constant = (math.inf,)
    grid = itertools.product(tau_x, tau_w or constant, tau_psi or constant, tau_z or constant)
    return {
        taus: make(
            rule=replace(rule, update_activity="trace") if tau_z else rule,
            tau=taus.tau_x,
            tau_trace=taus.tau_z if tau_z else None,
            # The mean, so that τ_W means the same for every batch size.
            plasticity=Plasticity(taus.tau_w, taus.tau_psi, reduction="mean"),
        )
        for taus in itertools.starmap(Taus, grid)
    }


def track(
    sims: Mapping[Taus, ardyn.Relaxation],
    solvers: Mapping[str, Solver],
    duration: float,
    shown: Sequence[str],
    checkpoints: Checkpoints | None,
) -> tuple[xr.Dataset, list[str]]:
    """The measures of ``tracking``, for every combination of time constants with every solver.

    Returns:
        The measures, [tau_x, tau_w, tau_psi, tau_z, solver, layer, record], NaN where a solver
        diverged; and a message for each failure.
    """
    import xarray as xr

    found, failures = [], list[str]()
    runs = list(itertools.product(sims.items(), solvers.items()))
    with tqdm(runs, desc="moving gradient", unit="run") as progress:
        for (taus, sim), (name, solver) in progress:
            progress.set_postfix_str(f"{name}, {taus}")
            place = {axis: [tau] for axis, tau in taus._asdict().items()} | {"solver": [name]}
            # repr, as time constants that differ in a late digit must not share a checkpoint.
            key = " ".join([name, *map(repr, taus)])
            measure = partial(tracking, sim, duration, solver, shown)
            try:
                found.append(_once(checkpoints, key, measure).expand_dims(place))
            except DivergenceError as error:
                failures.append(f"{name} at {taus}: {error}")
                progress.write(f"warning: {failures[-1]}", file=sys.stderr)
    # The outer join sorts the axes and omits time constants at which every solver diverged;
    # reindexing restores both the order in which they were given and the NaN of the omitted.
    axes = zip(Taus._fields, zip(*sims, strict=True), strict=True)
    given = {axis: list(dict.fromkeys(taus)) for axis, taus in axes}
    merged = xr.merge(found, join="outer", compat="no_conflicts")
    return merged.reindex(given), failures


def _once(
    checkpoints: Checkpoints | None, key: str, measure: Callable[[], xr.Dataset]
) -> xr.Dataset:
    """The measurement saved by an interrupted run; otherwise a new one, which is saved."""
    if checkpoints is None:
        return measure()
    import xarray as xr

    kept = checkpoints.load(key)
    if kept is None:
        kept = measure().to_dict()
        checkpoints.save(key, kept)
    return xr.Dataset.from_dict(kept)


def tracking(
    sim: ardyn.Relaxation, duration: float, solver: Solver, shown: Sequence[str]
) -> xr.Dataset:
    """Tracking error and lag of activities relative to the gradient at the current weights.

    That is BP(t), the backprop gradient of a new feed-forward pass with W(t); and, if the dynamics
    are linear in x, also g(t), the equilibrium of the relaxation if weights stayed at W(t).

    Returns:
        "bp_error", ‖x − BP(t)‖ / ‖BP(t)‖; "bp_lag", see ``tracking_lag``; "bp_drift",
        ‖BP(t) − BP(0)‖ / ‖BP(0)‖; "g_error" and "g_lag"; [layer, record].
    """
    times = torch.linspace(0, duration, RECORDS + 1, dtype=torch.float64)
    x = sim.solve(times, solver, weights_every=1)
    # Every goal is {unit: [record, batch, …]}, as x is. BP(t) needs a pass per record, as f′ and
    # the loss gradient change with W; g(t) keeps those of the frozen pass, as the relaxation does.
    import xarray as xr

    goals = {"bp": sim.moving_gradients(x)}
    if sim.dynamics.is_linear:
        goals["g"] = sim.equilibria(x)
    found = {"bp_drift": {u: relative_error(goals["bp"][u], sim.gradients[u]) for u in shown}}
    for name, goal in goals.items():
        found[f"{name}_error"] = {u: _error(x[u], goal[u]) for u in shown}
        found[f"{name}_lag"] = {u: tracking_lag(times, x[u], goal[u]) for u in shown}
    return xr.Dataset(
        {name: by_layer(values, "record") for name, values in found.items()},
        {"record": times.numpy()},
    )


def tracking_lag(times: Tensor, x: Tensor, goal: Tensor) -> Tensor:
    """The delay δ(t) ≥ 0 for which x(t) is nearest to g(t − δ), [time].

    A leaky integrator tracks a slowly moving input with a delay equal to its time constant. The
    delay is read off as the age of the point of the past path of g nearest to x(t), the path being
    linearly interpolated between its recorded points.

    NaN where g has not moved yet; and where x(t) is further from the path than g(t) is from the
    nearest point: then x is not a delayed copy of g, as during the initial transient.

    Args:
        times: [time].
        x, goal: activities and g, [time, …].
    """
    # Relative to g(0), as otherwise squared distances would lose the small movement of g to
    # rounding. From here on [time, n], n being all samples and neurons.
    x, g = ((each - goal[0]).flatten(1).double() for each in (x, goal))
    t = times.to(goal.device)
    # Segment s of the path runs from g(s) to g(s + 1); segments are [segment, n].
    segments, spans = g[1:] - g[:-1], t[1:] - t[:-1]
    squared_lengths = (segments**2).sum(1)
    # Projection of every x(t) onto every segment: (x(t) − g(s)) · segment, [time, segment].
    # By matrix products: differences [time, segment, n] would need RECORDS times the memory.
    along = x @ segments.mT - (g[:-1] * segments).sum(1)
    # Clamped: the nearest point of a segment may be an end. NaN: a segment of length 0.
    fraction = (along / squared_lengths).nan_to_num(0.0).clamp(0, 1)
    # ‖x(t) − nearest point‖² less ‖x(t)‖², which is the same for all segments and drops out of
    # the minimum, [time, segment].
    distances = (
        (g[:-1] ** 2).sum(1)
        - 2 * x @ g[:-1].mT
        - 2 * fraction * along
        + fraction**2 * squared_lengths
    )
    # The lag is causal: only segments that begin before t are candidates. At t = 0 there are
    # none, and argmin returns 0; the last line makes this entry NaN, as g(0) has not moved.
    distances[t[:, None] <= t[:-1]] = math.inf
    nearest = distances.argmin(1)  # [time]
    share = fraction.gather(1, nearest[:, None])  # [time, 1]
    delay = t - t[nearest] - share[:, 0] * spans[nearest]
    point = g[nearest] + share * segments[nearest]  # [time, n]
    is_off_path = (x - point).norm(dim=1) > (g - point).norm(dim=1)
    # Movement within rounding errors of g itself has no meaningful lag.
    rounding = 1e3 * torch.finfo(goal.dtype).eps * goal[0].norm().double()
    return delay.masked_fill((g.norm(dim=1) <= rounding) | is_off_path, math.nan)


def _error(x: Tensor, goal: Tensor) -> Tensor:
    """‖x − g‖ / ‖g‖ at each time; unlike ``relative_error``, g moves too."""
    return torch.stack([(a - g).norm() / g.norm() for a, g in zip(x, goal, strict=True)])
