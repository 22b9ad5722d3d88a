"""Activities that follow a gradient which moves, as weights learn while activities relax."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import ardyn
from ardyn import Plasticity
from ardyn.compare import relative_error
from ardyn.convergence import crossing_time
from studies.measures import by_layer

RECORDS = 60
"""Times at which weights are kept, and gradients computed from them."""


def grid(
    tau_w: Sequence[float], tau_psi: Sequence[float], tau_z: Sequence[float]
) -> list[tuple[float, float, float]]:
    """Every combination; what isn't given stands still, and the trace is frozen."""
    still = (math.inf,)
    return list(itertools.product(tau_w or still, tau_psi or still, tau_z or still))


def follow(
    sim: ardyn.Relaxation,
    duration: float,
    solver: ardyn.Adaptive | ardyn.Fixed | ardyn.Sweep,
    shown: Sequence[str],
    tolerance: float,
) -> xr.Dataset:
    """How far activities are from the gradient that belongs to the weights of the moment.

    Returns:
        "moving_error": ‖x − g(t)‖ / ‖g(t)‖, g(t) being where activities would settle if the weights
        stood still at once; "bp_error": the same against the backprop gradient of a feed-forward
        pass with the weights of the moment; "drift": ‖g(t) − g(0)‖ / ‖g(0)‖; [layer, record].
        "lag": the time δ for which x(t) is nearest to g(t − δ), over the last half, [layer];
        "following_time": when the moving error stays below the tolerance.
    """
    times = torch.linspace(0, duration, RECORDS + 1, dtype=torch.float64)[1:]
    trajectory = sim.solve(times, solver, weights_every=1)
    goal, start = sim.equilibria(trajectory), sim.equilibrium or {}
    backprop = sim.moving_gradients(trajectory)
    return xr.Dataset(
        {
            "moving_error": by_layer({u: _error(trajectory[u], goal[u]) for u in shown}, "record"),
            "bp_error": by_layer({u: _error(trajectory[u], backprop[u]) for u in shown}, "record"),
            "drift": by_layer({u: relative_error(goal[u], start[u]) for u in shown}, "record"),
            "lag": by_layer({u: lag(times, trajectory[u], goal[u]) for u in shown}),
            "following_time": by_layer(
                {u: crossing_time(times, _error(trajectory[u], goal[u]), tolerance) for u in shown}
            ),
        },
        {"record": times.numpy()},
    )


def lag(times: Tensor, x: Tensor, goal: Tensor) -> Tensor:
    """δ ≥ 0 with x(t) nearest to g(t − δ), over the last half of the times, []; NaN if g rests.

    By interpolation between the records, on a grid of half a percent of the span.
    """
    late = times >= (times[0] + times[-1]) / 2
    if float((goal[-1] - goal[0]).norm()) <= 1e-9 * float(goal[-1].norm()):
        return torch.tensor(math.nan, dtype=torch.float64)
    delays = torch.linspace(0, float(times[-1] - times[0]) / 2, 101, dtype=torch.float64)
    misses = [float((x[late] - _at(times, goal, times[late] - d)).norm()) for d in delays]
    return delays[int(np.argmin(misses))]


def _at(times: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Linear interpolation of [time, …]."""
    after = torch.searchsorted(times, wanted).clamp(1, len(times) - 1)
    share = ((wanted - times[after - 1]) / (times[after] - times[after - 1])).clamp(0, 1)
    share = share.to(values).view(-1, *[1] * (values.ndim - 1))
    return torch.lerp(values[after - 1], values[after], share)


def _error(x: Tensor, goal: Tensor) -> Tensor:
    return torch.stack([(a - g).norm() / g.norm() for a, g in zip(x, goal, strict=True)])


def plasticity(tau_w: float, tau_psi: float) -> Plasticity:
    """Always on, averaged over the batch."""
    return Plasticity(tau_w, tau_psi, reduction="mean")


def together(
    cells: Mapping[tuple[float, float, float], xr.Dataset],
) -> xr.Dataset:
    """All combinations, along tau_w, tau_psi and tau_z."""
    return xr.combine_by_coords(
        [
            each.expand_dims(tau_w=[w], tau_psi=[psi], tau_z=[z])
            for (w, psi, z), each in cells.items()
        ]
    )  # type: ignore[return-value]
