"""Results of finished runs, and the statistics that figures and printed tables share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ardyn import InputError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SLOW = ("tau_w", "tau_psi", "tau_z")
"""Time constants of the slow variables: weights, feedback weights and activity traces."""
REFERENCES = {"gradients": "backprop gradient", "equilibrium": "equilibrium of the rule"}
"""What activities are compared with, by the setting ``reference``."""


def results(folder: Path, study: str) -> xr.Dataset:
    """The results of a finished run.

    Raises:
        InputError: a folder without DONE or without complete results, or of another study.
    """
    if not (folder / "DONE").is_file():
        raise InputError(
            f"{folder} has no file DONE, so its run is not finished; run the study again"
        )
    return stored(folder, study)


def stored(folder: Path, study: str) -> xr.Dataset:
    """The results of a run, finished or not.

    Raises:
        InputError: a folder without complete results, or of another study.
    """
    import xarray as xr

    if not (folder / "results.nc").is_file():
        raise InputError(f"{folder} has no results.nc; run the study again")
    try:
        found = xr.load_dataset(folder / "results.nc", engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder} ({error}); run the study again") from error
    if found.attrs.get("study") != study:
        raise InputError(
            f"{folder} holds results of the study {found.attrs.get('study')!r}, not of {study!r}; "
            f"pass a run folder of {study}"
        )
    absent = sorted(set(found.attrs["stored"].split()) - set(map(str, found.variables)))
    if absent:
        raise InputError(
            f"{folder}/results.nc has no variable {', '.join(absent)}; run the study again"
        )
    return found


def together(runs: Sequence[xr.Dataset]) -> xr.Dataset:
    """The conditions of several runs as one dataset; variables that a run does not have are NaN.

    Raises:
        InputError: no run, the same condition twice, or runs whose other settings differ.
    """
    import xarray as xr

    if not runs:
        raise InputError("got no run folder; pass one or more")
    if len(runs) == 1:
        return runs[0]
    names = [name for run in runs for name in run.get("condition", xr.DataArray([])).values]
    if len(set(names)) < len(names) or not names or len({_common(run) for run in runs}) > 1:
        raise InputError(
            f"runs with the conditions {', '.join(map(str, names)) or 'none'} cannot be drawn "
            f"together; pass runs that differ only in their conditions and seeds"
        )
    return xr.concat(runs, "condition", join="outer", combine_attrs="override")


def _common(run: xr.Dataset) -> str:
    """The settings that runs drawn together must share, as text."""
    config = json.loads(run.attrs["config"])
    own = ("conditions", "seeds", "tau_z", "nonlinear_scheme", "nonlinear_step")
    return json.dumps({name: value for name, value in config.items() if name not in own})


def slow_axes(results: xr.Dataset) -> list[str]:
    """Those of ``SLOW`` that are finite in some run; an infinite one is of a constant variable."""
    return [axis for axis in SLOW if np.isfinite(results[axis]).any()]


def standard_error(x: xr.DataArray) -> xr.DataArray:
    """Standard error of the mean over the available seeds; NaN for a single one."""
    count = x.notnull().sum("seed")
    return (x.std("seed", ddof=1) / count**0.5).where(count > 1)


def table(results: xr.Dataset) -> pd.DataFrame:
    """Accuracies after the last epoch: mean and standard error over seeds, per condition."""
    import pandas as pd

    final = results.accuracy.isel(epoch=-1)
    columns = {
        "test accuracy [%]": final.mean("seed"),
        "standard error": standard_error(final),
        "best": final.max("seed"),
        "worst": final.min("seed"),
        "seeds": final.notnull().sum("seed"),
    }
    frame = pd.DataFrame(
        {name: column.values for name, column in columns.items()},
        index=pd.Index(results.label.values, name="condition"),
    )
    return frame.assign(epochs=int(results.epoch[-1]))


def seeds(results: xr.Dataset) -> str:
    """What curves and error bars show, for a title."""
    counts = sorted({int(each) for each in results.accuracy.notnull().sum("seed").values.flat})
    if counts == [1]:
        return "one seed"
    return f"mean ± standard error over {' or '.join(map(str, counts))} seeds"
