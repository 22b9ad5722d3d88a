"""Measurements on relaxations, each a Dataset with named dimensions."""

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from scipy.special import gammainccinv
from torch import Tensor

import ardyn
from ardyn.convergence import crossing_time
from ardyn.relaxation import Solver

LEVELS = 7
"""Steps or tolerances per solver in the work–precision measurement."""
DEPTH_WIDTH = 64
"""Neurons per hidden layer of the networks whose depth is varied."""


def relax(
    sim: ardyn.Relaxation, times: Sequence[float], solver: Solver
) -> tuple[ardyn.Trajectory, float]:
    """A trajectory with every activity in hand, and the wall time it took, in seconds."""
    _synchronise(sim)
    start = time.perf_counter()
    trajectory = sim.solve(times, solver)
    for unit in trajectory.units:
        trajectory[unit]
    _synchronise(sim)
    return trajectory, time.perf_counter() - start


def strongest_neurons(gradients: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Per layer, the numbers of the neurons with the largest gradient in the first sample."""
    return {unit: g[0].abs().topk(count).indices.sort().values for unit, g in gradients.items()}


def by_layer(values: Mapping[str, Tensor], *dims: str) -> xr.DataArray:
    """One tensor per layer, stacked along the dimension "layer"."""
    stacked = np.stack([value.cpu().numpy() for value in values.values()])
    return xr.DataArray(stacked, dims=("layer", *dims), coords={"layer": list(values)})


def compare_to_gradients(
    relaxed: ardyn.Trajectory,
    exact: ardyn.Trajectory,
    neurons: Mapping[str, Tensor],
    tolerance: float,
) -> xr.Dataset:
    """One trajectory beside its BP gradients g, and beside the exact trajectory."""
    g, error = relaxed.references.gradients, relaxed.relative_error()
    deviation = {
        unit: (relaxed[unit] - exact[unit]).flatten(1).norm(dim=1) / g[unit].norm()
        for unit in relaxed.units
    }
    activity = {unit: relaxed[unit][:, 0, neurons[unit]] for unit in relaxed.units}
    return xr.Dataset(
        {
            "relative_error": by_layer(error, "time"),
            "cosine": by_layer(relaxed.cosine(), "time"),
            "norm_ratio": by_layer(relaxed.norm_ratio(), "time"),
            "deviation": by_layer(deviation, "time"),
            "convergence_time": by_layer(
                {unit: crossing_time(relaxed.times, e, tolerance) for unit, e in error.items()}
            ),
            "activity": by_layer(activity, "time", "neuron"),
            "evaluations": relaxed.evaluations,
        },
        coords={"time": relaxed.times.numpy()},
    )


def work_precision(sim: ardyn.Relaxation, tau: float, name: str, reference: Solver) -> xr.Dataset:
    """Error of the state at t = 5 τ against the work it took, over steps h = τ/2ⁱ or tolerances.

    A setting at which the solver is unstable or out of reach of the number format stays NaN. The
    closed form has no setting, so that only its first level is filled; being the reference for
    the others, it is itself held against a tight adaptive solve.
    """
    times = [5 * tau]
    goal = sim.solve(times, tight_solver(sim) if name == "exact" else reference)
    rows = np.full((4, LEVELS), np.nan)
    for level, (setting, solver) in enumerate(_settings(tau, name)):
        try:
            trajectory, seconds = relax(sim, times, solver)
            if seconds < 0.1:  # short enough for its clock to need a second look
                seconds = min(seconds, *(relax(sim, times, solver)[1] for _ in range(3)))
        except ardyn.ArdynError:
            continue
        errors = [(trajectory[u] - goal[u]).norm() / goal[u].norm() for u in goal.units]
        rows[:, level] = setting, float(max(errors)), trajectory.evaluations, seconds
    names = ("work_setting", "work_error", "work_evaluations", "work_wall_time")
    return xr.Dataset({name: ("level", row) for name, row in zip(names, rows, strict=True)})


def tight_solver(sim: ardyn.Relaxation) -> ardyn.Adaptive:
    """A solver near the limit of the number format."""
    rtol = 1e-12 if sim.dynamics.like.dtype == torch.float64 else 1e-6
    return ardyn.Adaptive("dopri8", rtol=rtol, atol=rtol * 1e-3)


def _settings(tau: float, name: str) -> Iterator[tuple[float, Solver]]:
    if name == "exact":
        yield np.nan, ardyn.ClosedForm()
    elif name in ardyn.ADAPTIVE_METHODS:
        for rtol in 10.0 ** -np.arange(2, 2 + LEVELS):
            yield rtol, ardyn.solver_named(name, rtol=float(rtol), atol=float(rtol) * 1e-3)
    else:
        for ratio in 0.5 ** np.arange(LEVELS):
            yield ratio, ardyn.solver_named(name, step=float(ratio) * tau)


def convergence_at_depth(
    depth: int, inputs: Tensor, targets: Tensor, tolerance: float, seed: int
) -> xr.Dataset:
    """Convergence time of the lowest unit of a deep tanh network, τ = 1, in three ways.

    From a zero state under a clamped output x^{L−k}(t) = γ(k, t) g^{L−k}, γ being the regularised
    lower incomplete gamma function, so that the time has a law; it is measured beside it. From the
    feed-forward state under a relaxing output it also depends on how large the activities are
    beside the gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = [inputs.shape[1], *[DEPTH_WIDTH] * (depth - 1), targets.shape[1]]
    model = ardyn.mlp(sizes, std=DEPTH_WIDTH**-0.5, generator=generator, dtype=inputs.dtype)
    model.to(inputs.device)
    from_zero = ardyn.Relaxation(
        model, inputs, targets, rule=ardyn.Rule(output="clamped", initial="zero")
    )
    lowest = next(iter(from_zero.gradients))
    smallest = min(float(g.norm()) for g in from_zero.gradients.values())
    law = float(gammainccinv(depth - 1, tolerance))
    stepped = from_zero.solve(
        np.linspace(0, 1.1 * law + 5, 300).tolist(),
        ardyn.Adaptive("dopri5", rtol=1e-7, atol=1e-9 * smallest),
    )
    default = ardyn.Relaxation(model, inputs, targets)
    return xr.Dataset(
        {
            "depth_law": law,
            "depth_measured": float(stepped.convergence_time(tolerance)[lowest]),
            "depth_default": float(default.exact_convergence_time(tolerance)[lowest]),
        }
    )


def _synchronise(sim: ardyn.Relaxation) -> None:
    if sim.dynamics.like.is_cuda:
        torch.cuda.synchronize(sim.dynamics.like.device)
