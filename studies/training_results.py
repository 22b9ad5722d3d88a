"""What the studies that train store, in words, and the table that they print and keep."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import xarray as xr

from plots.learning_curves import table
from studies.training import Condition

_VARIABLES = {
    "condition": ("what the network learns by", ""),
    "label": ("the same, in words", ""),
    "seed": ("seed of the weights and of the order of the samples", "1"),
    "epoch": ("passes through the training set", "1"),
    "accuracy": ("accuracy on the test set", "%"),
    "test_loss": ("loss per sample on the test set", "1"),
    "layer": ("layer, named after its module", ""),
    "gradient_angle": ("angle between the gradients of AR and of backprop", "degree"),
    "feedback_angle": ("angle between feedback weights and transposed weights", "degree"),
}


def described(
    results: xr.Dataset,
    study: str,
    config: Any,
    conditions: Mapping[str, Condition],
    checksum: str,
) -> xr.Dataset:
    """The results with units and long names, and the configuration that they belong to."""
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
