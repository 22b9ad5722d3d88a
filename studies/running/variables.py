"""Long names and units of stored variables, and the tables that a study prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from plots.common.run_results import REFERENCES, SLOW, slow_axes, table

if TYPE_CHECKING:
    import xarray as xr

Labels = Mapping[str, tuple[str, str]]
"""{variable: (long name, unit)}; names and texts have no unit."""

_TIME = "unit of tau_x"
RELAXATION: Labels = {
    "time": ("time since the feed-forward pass", _TIME),
    "tau_x": ("time constant of the activities", _TIME),
    "solver": ("solver; exact is the closed form of the ODE, sweep the authors' scheme", ""),
    "layer": ("unit, named after its module, hidden to output", ""),
    "level": ("index of the step or tolerance, from coarse to fine", "1"),
    "neuron": ("index of the stored neuron; its place in the layer is neuron_number", "1"),
    "depth": ("depth of the network: layers, encoder layers or segments of the sequence", "1"),
    "activity": ("activity x of the stored neurons, first sample", "1"),
    "gradient": ("backprop gradient of the stored neurons, first sample", "1"),
    "reference": ("reference g of the stored neurons, of the kind in attribute reference", "1"),
    "neuron_number": ("index of the stored neuron in its layer, flattened", "1"),
    "relative_error": ("relative error to the reference g, |x - g| / |g| over the batch", "1"),
    "cosine": ("cosine between x and g over the batch", "1"),
    "norm_ratio": ("norm ratio |x| / |g| over the batch", "1"),
    "deviation": ("deviation from the exact trajectory, |x - x_exact| / |g|", "1"),
    "convergence_time": ("time after which the relative error stays below the tolerance", _TIME),
    "predicted_time": ("convergence time predicted by the closed form of the ODE", _TIME),
    "evaluations": ("evaluations of the right-hand side; of sweep: sweeps; of exact: 0", "1"),
    "lost": ("solvers that failed, with the error; their results are NaN", ""),
    "wall_time": ("wall time of the relaxation, all recorded times included", "s"),
    "work_setting": ("step over tau_x (fixed-step solvers) or rtol (adaptive solvers)", "1"),
    "work_error": ("relative error to the exact state at t = 5 tau_x, maximum over layers", "1"),
    "work_evaluations": ("evaluations of the right-hand side up to t = 5 tau_x", "1"),
    "work_wall_time": ("wall time up to t = 5 tau_x", "s"),
    "depth_law": ("analytic convergence time of a chain as long as depth_path", "tau"),
    "depth_measured": ("convergence time, zero initial state, output clamped, with dopri5", "tau"),
    "depth_default": ("convergence time, feed-forward initial state, by the closed form", "tau"),
    "depth_path": ("leaky integrators on the longest path through the network", "1"),
    "tau_w": ("time constant of the weights; infinite: constant weights", _TIME),
    "tau_psi": ("time constant of the feedback weights; infinite: constant weights", _TIME),
    "tau_z": ("time constant of the activity trace; infinite: frozen", _TIME),
    "record": ("time at which the weights were recorded", _TIME),
    "bp_error": ("relative error to BP(t), the backprop gradient at the weights W(t)", "1"),
    "bp_lag": ("tracking lag behind BP(t); NaN: x is not near its past path", _TIME),
    "bp_drift": ("relative change of the backprop gradient, |BP(t) - BP(0)| / |BP(0)|", "1"),
    "g_error": ("relative error to g(t), the equilibrium at constant weights W(t)", "1"),
    "g_lag": (
        "tracking lag behind g(t); NaN: x is not near its past path, or g is constant",
        _TIME,
    ),
}
"""Variables of the convergence study."""

TRAINING: Labels = {
    "condition": ("learning rule", ""),
    "label": ("learning rule, as labelled in figures", ""),
    "tau_z": ("time constant of the activity trace; 0: current, infinite: frozen", "tau"),
    "seed": ("seed of the weights and of the order of the samples", "1"),
    "epoch": ("passes through the training set", "1"),
    "accuracy": ("accuracy on the test set", "%"),
    "test_loss": ("loss per sample on the test set", "1"),
    "layer": ("layer, named after its module", ""),
    "gradient_angle": ("angle between the gradients of AR and of backprop", "degree"),
    "scheme": ("time-stepping scheme", ""),
    "step": ("step h of the scheme", "tau"),
    "iterations": ("number of steps", "1"),
    "distance": ("total variation distance of the weights of the scheme to those of the ODE", "1"),
    "weighted_by": ("scheme whose weights are given, at the paper's step and iterations", ""),
    "lag": ("number of units between the origin of an error and the unit that receives it", "1"),
    "weight": ("weight of an error that originates lag units further up", "1"),
    "stage": ("epochs of training before states and gradients are compared", "1"),
    "how": ("whether an error is predicted by the closed form, or measured by stepping", ""),
    "state_error": ("relative distance of the final state to the ODE's, maximum over layers", "1"),
    "gradient_error": ("relative distance of the gradients to the ODE's", "1"),
    "bp_error": ("relative distance of the gradients to backprop's", "1"),
    "tau_w": ("time constant of the weights", "tau"),
    "tau_psi": ("time constant of feedback weights; infinite: transposed weights", "tau"),
    "window": ("onset of plasticity, as a fraction of the stimulus", "1"),
    "cosine": ("cosine between the weight change of one stimulus and the backprop step", "1"),
    "norm_ratio": ("norm of that change over that of the backprop step of the same rate", "1"),
    "quasi_static_cosine": ("the cosine as the quasi-static limit predicts it", "1"),
    "quasi_static_norm_ratio": ("the norm ratio as the quasi-static limit predicts it", "1"),
    "loss": ("loss per sample on the test set after a stream of stimuli", "1"),
    "angle": ("angle between feedback and transposed weights, mean of layers", "degree"),
    "quasi_static_loss": ("the loss as the quasi-static limit predicts it", "1"),
    "quasi_static_accuracy": ("the accuracy as the quasi-static limit predicts it", "%"),
    "quasi_static_angle": ("the angle as the quasi-static limit predicts it", "degree"),
    "compared": ("scheme used in training, compared with the first", ""),
    "difference": ("mean difference of the final accuracy over seeds", "%"),
    "interval_low": ("lower end of its 95 % interval", "%"),
    "interval_high": ("upper end of its 95 % interval", "%"),
    "equivalence_p": ("p value of the two one-sided tests", "1"),
    "feedback_angle": ("angle between feedback weights and transposed weights", "degree"),
}
"""Variables of the studies that train."""


def stacked(results: Mapping[Any, xr.Dataset], dimension: str) -> xr.Dataset:
    """Datasets along a new dimension, whose coordinates are their keys."""
    import pandas as pd
    import xarray as xr

    return xr.concat(results.values(), pd.Index(results, name=dimension))


def described(
    results: xr.Dataset, labels: Labels, attributes: Mapping[str, Any], config: Any, checksum: str
) -> xr.Dataset:
    """Results with long names, units, attributes and their configuration.

    Args:
        attributes: of the dataset, among them "study" and "title".
        config: the study's settings, a dataclass.
        checksum: of the data.
    """
    for name, (long_name, units) in labels.items():
        if name in results.variables:
            results[name].attrs = {"long_name": long_name} | ({"units": units} if units else {})
    results.attrs = {
        **attributes,
        # Compared on reading, to recognise a file in which a variable is missing.
        "stored": " ".join(sorted(map(str, results.variables))),
        "config": json.dumps(asdict(config)),
        "data_checksum": checksum,
    }
    return results


def described_training(results: xr.Dataset, study: str, config: Any, checksum: str) -> xr.Dataset:
    """Results of a study that trains, with long names, units and configuration."""
    attributes = {"study": study, "title": f"Test accuracy on {config.dataset}"}
    return described(results, TRAINING, attributes, config, checksum)


def training_summary(results: xr.Dataset) -> str:
    """A table of accuracies after the last epoch."""
    config = json.loads(results.attrs["config"])
    rows = table(results).to_string(float_format="{:.2f}".format)
    count = f"{config['epochs']} epoch{'' if config['epochs'] == 1 else 's'}"
    return f"{results.attrs['title']} after {count}, mean over seeds\n{rows}"


def relaxation_summary(results: xr.Dataset) -> str:
    """A table of convergence time, final error and cost, for the lowest layer."""
    lowest = results.isel(layer=0)
    columns = {
        "convergence_time": "convergence time",
        "predicted_time": "predicted time",
        "last_error": "final error",
        "evaluations": "evaluations",
        "wall_time": "wall time [s]",
    }
    last = lowest.assign(last_error=lowest.relative_error.isel(time=-1, drop=True))
    columns = {name: heading for name, heading in columns.items() if name in last}
    last = last[list(columns)].drop_vars("layer").rename(columns)
    heading = (
        f"Lowest layer ({lowest.layer.item()}): convergence to the "
        f"{REFERENCES[results.attrs['reference']]}, relative tolerance "
        f"{results.attrs['tolerance']:g}\n(NaN: not converged within the duration; predicted: "
        f"by the closed form, may be longer than the duration)"
    )
    frame = last.to_dataframe(dim_order=["tau_x", "solver"])
    text = f"{heading}\n{frame.to_string(float_format='{:.4g}'.format)}"
    return f"{text}\n{_tracking_table(results)}" if "bp_error" in results else text


def _tracking_table(results: xr.Dataset) -> str:
    """A table of tracking error and lag at the end of the relaxation, for the lowest layer."""
    columns = {
        "g_error": "error to g",
        "g_lag": "lag behind g",
        "bp_error": "error to BP",
        "bp_lag": "lag behind BP",
    }
    columns = {name: heading for name, heading in columns.items() if name in results}
    last = results.isel(layer=0, record=-1, drop=True)[list(columns)].rename(columns)
    slow = slow_axes(results)
    constant = {axis: 0 for axis in SLOW if axis not in slow}
    frame = last.isel(constant, drop=True).to_dataframe(dim_order=["tau_x", "solver", *slow])
    rows = frame.dropna(subset="error to BP").to_string(float_format="{:.4g}".format)
    return (
        f"Tracking of the gradient while weights change, at t = {float(results.record[-1]):g}\n"
        f"(g: equilibrium of the activities at the current weights; BP: backprop gradient of a "
        f"new forward pass;\nlag: age of the nearest point of the gradient's past path, in the "
        f"unit of tau-x; NaN: activities\nare not near that path, or the gradient is constant)\n"
        f"{rows}"
    )
