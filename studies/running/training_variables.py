"""What the studies that train store, in words, and the table that they print and keep."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import xarray as xr

from plots.common.learning_curves import table
from studies.training.settings import Condition

_VARIABLES = {
    "condition": ("what the network learns by", ""),
    "label": ("the same, in words", ""),
    "tau_z": ("time constant of the activity trace; 0: current, infinite: frozen", "tau"),
    "seed": ("seed of the weights and of the order of the samples", "1"),
    "epoch": ("passes through the training set", "1"),
    "accuracy": ("accuracy on the test set", "%"),
    "test_loss": ("loss per sample on the test set", "1"),
    "layer": ("layer, named after its module", ""),
    "gradient_angle": ("angle between the gradients of AR and of backprop", "degree"),
    "scheme": ("how time is stepped", ""),
    "step": ("step h of the scheme", "tau"),
    "iterations": ("number of steps", "1"),
    "distance": ("total variation between the weights of the scheme and of the ODE", "1"),
    "weighted_by": ("scheme whose weights are given, at the paper's step and iterations", ""),
    "lag": ("units between an error and where it arrives", "1"),
    "weight": ("weight of an error that comes from lag units further up", "1"),
    "stage": ("epochs of training before states and gradients are compared", "1"),
    "how": ("whether the closed form predicts an error, or stepping measures it", ""),
    "state_error": ("relative distance of the final state to the ODE's, worst layer", "1"),
    "gradient_error": ("relative distance of the gradients to the ODE's", "1"),
    "bp_error": ("relative distance of the gradients to backprop's", "1"),
    "tau_w": ("time constant of the weights", "tau"),
    "tau_psi": ("time constant of feedback weights; infinite: transposed weights", "tau"),
    "window": ("when plasticity begins, as a share of the stimulus", "1"),
    "cosine": ("cosine between the weight change of one stimulus and the backprop step", "1"),
    "norm_ratio": ("norm of that change over that of the backprop step of the same rate", "1"),
    "quasi_static_cosine": ("the cosine as the quasi-static limit predicts it", "1"),
    "quasi_static_norm_ratio": ("the norm ratio as the quasi-static limit predicts it", "1"),
    "loss": ("loss per sample on the test set after a stream of stimuli", "1"),
    "angle": ("angle between feedback and transposed weights, mean of layers", "degree"),
    "quasi_static_loss": ("the loss where weights wait for the end of each stimulus", "1"),
    "quasi_static_accuracy": ("the accuracy as the quasi-static limit predicts it", "%"),
    "quasi_static_angle": ("the angle as the quasi-static limit predicts it", "degree"),
    "compared": ("scheme trained with, against the first", ""),
    "difference": ("mean difference of the final accuracy over seeds", "%"),
    "interval_low": ("lower end of its 95 % interval", "%"),
    "interval_high": ("upper end of its 95 % interval", "%"),
    "equivalence_p": ("p value of the two one-sided tests", "1"),
    "feedback_angle": ("angle between feedback weights and transposed weights", "degree"),
}


def described(
    results: xr.Dataset,
    study: str,
    config: Any,
    checksum: str,
    conditions: Mapping[str, Condition] | None = None,
) -> xr.Dataset:
    """The results with units and long names, and the configuration that they belong to."""
    if conditions:
        labels = [each.label for each in conditions.values()]
        results = results.assign_coords(label=("condition", labels))
    for name, (long_name, units) in _VARIABLES.items():
        if name in results.variables:
            results[name].attrs = {"long_name": long_name} | ({"units": units} if units else {})
    results.attrs = {
        "study": study,
        "title": f"Test accuracy on {config.dataset}",
        "stored": " ".join(sorted(map(str, results.variables))),
        "config": json.dumps(asdict(config)),
        "data_checksum": checksum,
    }
    return results


def summary(results: xr.Dataset) -> str:
    """The table as text."""
    config = json.loads(results.attrs["config"])
    rows = table(results).to_string(float_format="{:.2f}".format)
    return f"{results.attrs['title']} after {config['epochs']} epochs, mean over seeds\n{rows}"
