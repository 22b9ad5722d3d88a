"""Results of finished runs: all that a figure may read."""

from pathlib import Path

import xarray as xr

from ardyn import InputError


def results(folder: Path, study: str) -> xr.Dataset:
    """What a run of a study measured.

    Raises:
        InputError: a folder without DONE or without whole results, or of another study.
    """
    if not (folder / "DONE").is_file():
        raise InputError(f"{folder} has no DONE, so it holds no finished run; run the study again")
    return stored(folder, study)


def stored(folder: Path, study: str) -> xr.Dataset:
    """The same, whether or not the run has been closed."""
    if not (folder / "results.nc").is_file():
        raise InputError(f"{folder} has no results.nc; run the study again")
    try:
        found = xr.load_dataset(folder / "results.nc", engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder} ({error}); run the study again") from error
    if found.attrs.get("study") != study:
        raise InputError(f"{folder} holds no run of the {study} study; name one that does")
    lacking = sorted(set(found.attrs["stored"].split()) - set(map(str, found.variables)))
    if lacking:
        raise InputError(f"{folder}/results.nc lacks {', '.join(lacking)}; run the study again")
    return found
