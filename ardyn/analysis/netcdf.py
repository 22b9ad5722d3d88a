"""Trajectories as xarray datasets and netCDF files, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ardyn.analysis.references import KeptReferences
from ardyn.dynamics.windows import Learned
from ardyn.errors import InputError
from ardyn.files import written_whole

if TYPE_CHECKING:
    import xarray as xr

_SETTINGS = ("rule", "tau", "tau_trace", "loss", "plasticity")


_TIME_ATTRIBUTES = {"long_name": "time since the feed-forward pass", "units": "unit of tau"}


_RECORD_ATTRIBUTES = {"long_name": "time at which weights were recorded", "units": "unit of tau"}


_LEADING_AXES = {
    "activity": ("time", "sample"),
    "trace": ("time", "sample"),
    "weight": ("record",),
    "feedback": ("record",),
}
"""Leading dimensions by kind; gradients and the equilibrium have the samples alone."""


def to_dataset(trajectory: Any) -> xr.Dataset:
    """The dataset of a ``Trajectory``, one variable for each quantity of each unit."""
    import xarray as xr

    learned = trajectory.learned or Learned(trajectory.times)
    first = next(iter(trajectory.activities.values()))
    batch = first.shape[1] if first.ndim > 1 else 0
    kinds: dict[str, tuple[Mapping[str, Tensor], str]] = {
        "weight": (learned.weights, "parameter {} over time"),
        "feedback": (learned.feedback, "feedback weights ψ of block {} over time"),
        "activity": (trajectory.activities, "activity x of unit {}"),
        "trace": (trajectory.traces, "activity trace z of unit {}"),
        "gradient": (trajectory.references.gradients, "backprop gradient ∂L/∂x of unit {}"),
        "equilibrium": (
            trajectory.references.equilibrium or {},
            "equilibrium of the rule, unit {}",
        ),
    }
    dataset = xr.Dataset(
        {
            f"{kind}_{unit}": _variable(kind, unit, x, long_name, batch)
            for kind, (tensors, long_name) in kinds.items()
            for unit, x in tensors.items()
        },
        coords={"time": ("time", trajectory.times.numpy(), _TIME_ATTRIBUTES)},
        attrs={
            "title": "Activation relaxation: activities over time and their gradients",
            "unit_names": list(trajectory.units),
            "solver": trajectory.solver,
            "evaluations": trajectory.evaluations,
        }
        | {name: trajectory.references.settings[name] for name in _SETTINGS},
    )
    if trajectory.steady_at is not None:
        steady = trajectory.steady_at.double().cpu().numpy()
        dataset["steady_at"] = (
            "sample",
            steady,
            {"long_name": "time from which the sample was steady"},
        )
    if trajectory.learned is not None:
        dataset["record"] = ("record", learned.times.numpy(), _RECORD_ATTRIBUTES)
    return dataset


def fields_of(dataset: xr.Dataset) -> dict[str, Any]:
    """The fields of the ``Trajectory`` that a dataset holds.

    Raises:
        InputError: a dataset that holds no trajectory.
    """
    if "unit_names" not in dataset.attrs or "time" not in dataset.coords:
        raise InputError("this dataset holds no trajectory; save one with Trajectory.save")
    units = [str(unit) for unit in np.atleast_1d(dataset.attrs["unit_names"])]

    def read(kind: str) -> dict[str, Tensor]:
        names = [unit for unit in units if f"{kind}_{unit}" in dataset]
        return {u: _tensor(dataset[f"{kind}_{u}"]) for u in names}

    def all_of(kind: str) -> dict[str, Tensor]:
        names = [str(each) for each in dataset.data_vars if str(each).startswith(f"{kind}_")]
        return {name.removeprefix(f"{kind}_"): _tensor(dataset[name]) for name in names}

    learned = None
    if "record" in dataset.coords:
        learned = Learned(_tensor(dataset["record"]), all_of("weight"), all_of("feedback"))
    steady_at = dataset.get("steady_at")
    return {
        "times": _tensor(dataset["time"]),
        "activities": read("activity"),
        "references": KeptReferences(
            read("gradient"),
            read("equilibrium") or None,
            {name: dataset.attrs[name] for name in _SETTINGS},
        ),
        "solved_by": dataset.attrs["solver"],
        "traces": read("trace"),
        "evaluations": int(dataset.attrs["evaluations"]),
        "learned": learned,
        "steady_at": None if steady_at is None else _tensor(steady_at),
    }


def write(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a netCDF file atomically.

    Raises:
        InputError: a path that cannot be written.
    """
    with written_whole(path, "choose another path") as part:
        dataset.to_netcdf(part, engine="h5netcdf")


def read(path: str | Path) -> xr.Dataset:
    """Read a dataset that ``write`` wrote.

    Raises:
        InputError: a file that cannot be read.
    """
    import xarray as xr

    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset.load()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error}); pass a file from save()") from error


def _tensor(values: xr.DataArray) -> Tensor:
    x = torch.tensor(values.to_numpy())
    return torch.view_as_complex(x) if values.attrs.get("complex") else x


def _variable(kind: str, unit: str, x: Tensor, long_name: str, batch: int) -> xr.Variable:
    """A tensor with named axes; complex as a last axis of two, half precision as float32."""
    import xarray as xr

    lead = _LEADING_AXES.get(kind, ("sample",))
    attributes: dict[str, object] = {"long_name": long_name.format(unit)}
    if x.is_complex():
        x, attributes["complex"] = torch.view_as_real(x.resolve_conj()), 1
    if lead[-1] == "sample" and (x.ndim < len(lead) or x.shape[len(lead) - 1] != batch):
        lead = lead[:-1]  # the dimension "sample" has a single size, that of the batch
    owner = f"{kind}_{unit}" if lead == ("record",) else unit
    axes = tuple(f"{owner}_axis{i}" for i in range(x.ndim - len(lead)))
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return xr.Variable(lead + axes, x.cpu().numpy(), attributes)
