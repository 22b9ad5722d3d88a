"""Activities that follow a gradient which moves, as weights learn while activities relax."""

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Never

import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

import ardyn
from ardyn import Plasticity, Rule
from ardyn.analysis.measures import relative_error
from ardyn.errors import DivergenceError
from ardyn.solvers.system import Solver
from studies.measuring.trajectories import by_layer
from studies.running.checkpoints import Checkpoints

RECORDS = 60
"""Times after the start at which weights are kept, and gradients computed from them."""
Stepping = Solver


class Taus(NamedTuple):
    """Time constants of one coupled relaxation; infinite: what has it stands still."""

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
    """One for every combination; plasticity is always on, and averaged over the batch."""
    still = (math.inf,)
    grid = itertools.product(tau_x, tau_w or still, tau_psi or still, tau_z or still)
    return {
        taus: make(
            rule=replace(rule, update_activity="trace") if tau_z else rule,
            tau=taus.tau_x,
            tau_trace=taus.tau_z if tau_z else None,
            plasticity=Plasticity(taus.tau_w, taus.tau_psi, reduction="mean"),
        )
        for taus in itertools.starmap(Taus, grid)
    }


def follow(
    sims: Mapping[Taus, ardyn.Relaxation],
    solvers: Mapping[str, Stepping],
    duration: float,
    shown: Sequence[str],
    lost: list[str],
    progress: "tqdm[Never]",
    checkpoints: Checkpoints | None,
) -> xr.Dataset:
    """``following`` of every combination with every solver; one that fails is NaN, and ``lost``."""
    found = []
    for taus, sim in sims.items():
        for name, solver in solvers.items():
            progress.set_postfix_str(f"moving gradient, {name}, {taus}")
            place = {axis: [tau] for axis, tau in taus._asdict().items()} | {"solver": [name]}
            key = " ".join([name, *map(repr, taus)])
            measure = partial(following, sim, duration, solver, shown)
            try:
                found.append(_once(checkpoints, key, measure).expand_dims(place))
            except DivergenceError as error:
                lost.append(f"{name} at {taus}: {error}")
                progress.write(f"warning: {lost[-1]}", file=sys.stderr)
            progress.update()
    return xr.merge(found, join="outer", compat="no_conflicts")


def _once(
    checkpoints: Checkpoints | None, key: str, measure: Callable[[], xr.Dataset]
) -> xr.Dataset:
    """What was measured before the run was stopped; else measured now, and kept."""
    if checkpoints is None:
        return measure()
    kept = checkpoints.load(key)
    if kept is None:
        kept = measure().to_dict()
        checkpoints.save(key, kept)
    return xr.Dataset.from_dict(kept)


def following(
    sim: ardyn.Relaxation, duration: float, solver: Stepping, shown: Sequence[str]
) -> xr.Dataset:
    """How far, and how long, activities are behind the gradient of the weights of the moment.

    That is BP(t), the backprop gradient of a feed-forward pass with these weights; and, unless f′
    moves with x, g(t), where activities would settle if the weights stood still at once.

    Returns:
        "bp_error", ‖x − BP(t)‖ / ‖BP(t)‖; "bp_lag", see ``lag``; "bp_drift", ‖BP(t) − BP(0)‖ /
        ‖BP(0)‖; "g_error" and "g_lag"; [layer, record].
    """
    times = torch.linspace(0, duration, RECORDS + 1, dtype=torch.float64)
    x = sim.solve(times, solver, weights_every=1)
    goals = {"bp": sim.moving_gradients(x)}
    if sim.dynamics.is_linear:
        goals["g"] = sim.equilibria(x)
    found = {"bp_drift": {u: relative_error(goals["bp"][u], sim.gradients[u]) for u in shown}}
    for name, goal in goals.items():
        found[f"{name}_error"] = {u: _error(x[u], goal[u]) for u in shown}
        found[f"{name}_lag"] = {u: lag(times, x[u], goal[u]) for u in shown}
    return xr.Dataset(
        {name: by_layer(values, "record") for name, values in found.items()},
        {"record": times.numpy()},
    )


def lag(times: Tensor, x: Tensor, goal: Tensor) -> Tensor:
    """δ(t) ≥ 0 for which x(t) is nearest to g(t − δ), [time].

    Nearest on the straight lines between the recorded g, [time, …], the past ones alone. NaN where
    g has not moved yet, or by less since t − δ than x is away from it: then x is off the way of g,
    as in a transient, rather than behind on it.
    """
    # All of it from g(0) on, as g moves by little.
    x, g = ((each - goal[0]).flatten(1).double() for each in (x, goal))
    t = times.to(goal.device)
    ways, spans = g[1:] - g[:-1], t[1:] - t[:-1]
    lengths = (ways**2).sum(1)
    along = x @ ways.mT - (g[:-1] * ways).sum(1)  # (x(t) − g(s)) · way from s on, [time, way]
    share = (along / lengths).nan_to_num(0.0).clamp(0, 1)
    # ‖x(t) − g‖² at the nearest point of each way, less ‖x(t)‖², which is the same for all.
    missed = (g[:-1] ** 2).sum(1) - 2 * x @ g[:-1].mT - 2 * share * along + share**2 * lengths
    missed[t[:, None] <= t[:-1]] = math.inf
    nearest = missed.argmin(1)
    delay = t - t[nearest] - share.gather(1, nearest[:, None])[:, 0] * spans[nearest]
    at = g[nearest] + share.gather(1, nearest[:, None]) * ways[nearest]
    is_off = (x - at).norm(dim=1) > (g - at).norm(dim=1)
    rests = g.norm(dim=1) <= 1e3 * torch.finfo(goal.dtype).eps * goal[0].norm().double()
    return delay.masked_fill(rests | is_off, math.nan)


def _error(x: Tensor, goal: Tensor) -> Tensor:
    return torch.stack([(a - g).norm() / g.norm() for a, g in zip(x, goal, strict=True)])
