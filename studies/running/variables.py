"""What the convergence study stores, in words: units and meanings, and the table that it prints."""

import json
from dataclasses import asdict
from typing import Any

import xarray as xr

from plots.common.lag import slow_axes
from studies.problems import networks

_TIME = "unit of tau_x"
_VARIABLES = {
    "time": ("time since the feed-forward pass", _TIME),
    "tau_x": ("time constant of the activities", _TIME),
    "solver": ("solver; exact is the closed form of the ODE, sweep the authors' scheme", ""),
    "layer": ("unit, named after its module, hidden to output", ""),
    "level": ("number of the step or tolerance, from coarse to fine", "1"),
    "neuron": ("chosen neurons, numbered within the network by neuron_number", "1"),
    "depth": ("depth of the network: layers, encoder layers or pieces of the sequence", "1"),
    "activity": ("activity x of the chosen neurons, first sample", "1"),
    "gradient": ("backprop gradient g of the chosen neurons, first sample", "1"),
    "reference": ("what the chosen neurons are compared with: attribute reference", "1"),
    "neuron_number": ("number of the chosen neuron within its layer, flattened", "1"),
    "relative_error": ("relative error to the reference g, |x - g| / |g| over the batch", "1"),
    "cosine": ("cosine between x and g over the batch", "1"),
    "norm_ratio": ("norm ratio |x| / |g| over the batch", "1"),
    "deviation": ("deviation from the exact trajectory, |x - x_exact| / |g|", "1"),
    "convergence_time": ("time after which the relative error stays within tolerance", _TIME),
    "predicted_time": ("the same, as a root of the closed form of the ODE", _TIME),
    "evaluations": ("evaluations of the right-hand side (sweeps; 0: closed form)", "1"),
    "lost": ("solvers that left the finite numbers, when and where; NaN stands for them", ""),
    "wall_time": ("wall time of the relaxation, all recorded times included", "s"),
    "work_setting": ("step over tau_x (fixed-step solvers) or rtol (adaptive solvers)", "1"),
    "work_error": ("relative error at t = 5 tau_x to the exact state, worst layer", "1"),
    "work_evaluations": ("evaluations of the right-hand side up to t = 5 tau_x", "1"),
    "work_wall_time": ("wall time up to t = 5 tau_x", "s"),
    "depth_law": ("law of a chain as long as depth_path: inverse incomplete gamma function", "tau"),
    "depth_measured": ("lowest unit from a zero state, output clamped: stepped with dopri5", "tau"),
    "depth_default": ("lowest unit from the feed-forward state: closed form", "tau"),
    "tau_w": ("time constant of the weights; infinite: they stand still", _TIME),
    "tau_psi": ("time constant of the feedback weights; infinite: they stand still", _TIME),
    "tau_z": ("time constant of the activity trace; infinite: frozen", _TIME),
    "record": ("time at which the weights were recorded", _TIME),
    "bp_error": ("relative error to BP(t), backprop after a pass with W(t)", "1"),
    "bp_lag": ("age of the BP gradient that x(t) is nearest to; NaN: x is off its way", _TIME),
    "bp_drift": ("how far it has moved, |BP(t) - BP(0)| / |BP(0)|", "1"),
    "g_error": ("relative error to g(t), where x would settle if weights stood still now", "1"),
    "g_lag": ("age of the g that x(t) is nearest to; NaN: x is off its way, or g rests", _TIME),
    "depth_path": ("units with a leak on the longest path through the network", "1"),
}


def described(results: xr.Dataset, config: Any, checksum: str) -> xr.Dataset:
    """The results with units and long names, and the configuration that they belong to."""
    for name, (long_name, units) in _VARIABLES.items():
        if name in results.variables:
            results[name].attrs = {"long_name": long_name} | ({"units": units} if units else {})
    results.attrs = {
        "study": "convergence",
        "title": "Relaxation of activities onto the backprop gradient",
        "tolerance": config.tolerance,
        "reference": config.reference,
        "network": config.network,
        "depth_of": networks.DEPTH_OF[config.network],
        "stored": " ".join(sorted(map(str, results.variables))),
        "config": json.dumps(asdict(config)),
        "data_checksum": checksum,
    }
    return results


def summary(results: xr.Dataset) -> str:
    """A table: when the lowest layer converges, how far it is off, and what it cost."""
    lowest = results.isel(layer=0)
    columns = {
        "convergence_time": "converged at",
        "predicted_time": "predicted",
        "last_error": "last error",
        "evaluations": "evaluations",
        "wall_time": "wall time [s]",
    }
    table = lowest.assign(last_error=lowest.relative_error.isel(time=-1, drop=True))
    columns = {name: heading for name, heading in columns.items() if name in table}
    table = table[list(columns)].drop_vars("layer").rename(columns)
    goal = {"gradients": "the backprop gradient", "equilibrium": "the rule's own equilibrium"}
    heading = (
        f"Lowest layer ({lowest.layer.item()}), relative error to "
        f"{goal[results.attrs['reference']]}, tolerance "
        f"{results.attrs['tolerance']:g}\n(NaN: not within the duration; predicted: root of the "
        f"closed form, which may lie beyond it)"
    )
    frame = table.to_dataframe(dim_order=["tau_x", "solver"])
    text = f"{heading}\n{frame.to_string(float_format='{:.4g}'.format)}"
    return f"{text}\n{_moving(results)}" if "bp_error" in results else text


def _moving(results: xr.Dataset) -> str:
    """A table: how far, and how long, the lowest layer is behind a gradient that moves."""
    columns = {
        "g_error": "error to g",
        "g_lag": "lag behind g",
        "bp_error": "error to BP",
        "bp_lag": "lag behind BP",
    }
    columns = {name: heading for name, heading in columns.items() if name in results}
    last = results.isel(layer=0, record=-1, drop=True)[list(columns)].rename(columns)
    slow = slow_axes(results)
    still = {axis: 0 for axis in ("tau_w", "tau_psi", "tau_z") if axis not in slow}
    frame = last.isel(still, drop=True).to_dataframe(dim_order=["tau_x", "solver", *slow])
    rows = frame.dropna(subset="error to BP").to_string(float_format="{:.4g}".format)
    return (
        f"Behind the gradient of weights that learn, at t = {float(results.record[-1]):g}\n"
        f"(g: where activities would settle if weights stood still now; BP: backprop after a new "
        f"forward pass;\nlag: age of the one that they are nearest to, in the unit of tau-x; NaN: "
        f"they are off its way, or it rests)\n{rows}"
    )
