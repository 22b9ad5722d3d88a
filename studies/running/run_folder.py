"""Run folders: the files of a run, each written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cattrs
import torch
from cattrs.v import format_exception

from ardyn import InputError
from ardyn.files import written_whole

if TYPE_CHECKING:
    import xarray as xr

Config = TypeVar("Config")

_CURE = "make room, or use another --out"
_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
for _kind in (int, float, bool, str):
    _CONVERTER.register_structure_hook(_kind, lambda value, kind: _unconverted(value, kind))
_LIBRARIES = ("ardyn", "torch", "torchdiffeq", "numpy", "scipy", "xarray")


def read_config(path: Path, kind: type[Config]) -> Config:
    """A configuration that an earlier run wrote; ``path`` is the file, or the folder of the run.

    Raises:
        InputError: a file that cannot be read, or that belongs to another study.
    """
    path = path / "config.json" if path.is_dir() else path
    try:
        return _CONVERTER.structure(json.loads(path.read_text()), kind)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"cannot read {path} ({error}); pass the config.json of a run") from error
    except cattrs.errors.ClassValidationError as error:
        problems = "; ".join(
            str(each).removesuffix(" @ $")
            for each in cattrs.transform_error(error, format_exception=_problem)
        )
        raise InputError(
            f"{path} is not a configuration of this study ({problems}); pass one that a "
            f"run of this study wrote"
        ) from error


def _unconverted(value: Any, kind: Callable[[Any], Any]) -> Any:
    """A value of a configuration in its own type: 2.7 is not accepted as an integer."""
    if type(value) is kind or (kind is float and type(value) is int):
        return kind(value)
    raise ValueError(f"{value!r} is of type {type(value).__name__}")


def _problem(error: BaseException, kind: type | None) -> str:
    """The message of a validation error."""
    return str(error) if isinstance(error, ValueError) else format_exception(error, kind)


class RunFolder:
    """OUT/<study>/<hash of the configuration>/, with DONE written last."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of(out: Path, study: str, config: Any) -> RunFolder:
        """The folder of a configuration; ``store`` creates it."""
        text = json.dumps(_CONVERTER.unstructure(config), sort_keys=True)
        return RunFolder(out / study / hashlib.sha256(text.encode()).hexdigest()[:12])

    @property
    def is_computed(self) -> bool:
        """Whether results are stored, with their manifest, which is written after them."""
        return all((self.path / name).exists() for name in ("results.nc", "manifest.json"))

    def made_by(self, checksum: str) -> str:
        """Time and commit of the finished run.

        Args:
            checksum: of the data that the run must have read.

        Raises:
            InputError: the run read other data, or its manifest cannot be read.
        """
        try:
            manifest = json.loads((self.path / "manifest.json").read_text())
            commit = manifest["git"] and manifest["git"]["commit"][:12]
            read, finished = manifest["data_checksum"], manifest["finished"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot read manifest.json in {self.path} ({error!r}); use --overwrite"
            ) from error
        if read != checksum:
            raise InputError(
                f"{self.path} holds a run with this configuration but other data (SHA-256 "
                f"{read[:12]}, not {checksum[:12]}); use --overwrite, or another --out"
            )
        return f"finished {finished}" + (f" by commit {commit}" if commit else "")

    @property
    def was_stopped(self) -> bool:
        """Whether it holds checkpoints, with which a run can be resumed."""
        return any((self.path / "checkpoints").glob("*"))

    def prepare(self, overwrite: bool, resume: bool) -> None:
        """Prepare the folder for a run.

        Raises:
            InputError: a folder that cannot be written; or checkpoints of an interrupted run, if
                neither ``overwrite`` nor ``resume`` is given.
        """
        if overwrite and resume:
            raise InputError("--resume and --overwrite exclude each other; pass one of them")
        self._check_writable()
        if overwrite:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        elif self.was_stopped and not resume:
            raise InputError(
                f"{self.path} holds checkpoints of this run, which was interrupted; continue with "
                f"--resume, or start again with --overwrite"
            )

    def _check_writable(self) -> None:
        """Raise InputError unless files can be created; creates none that remains."""
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise InputError(f"cannot write to {there} ({error}); choose another --out") from error

    def store(self, config: Any, results: xr.Dataset, manifest: Mapping[str, Any]) -> None:
        """Write the results, the configuration and the manifest; DONE is the last, by ``close``.

        Raises:
            InputError: a full disk, or a folder that can no longer be written.
        """
        with written_whole(self.path / "results.nc", _CURE) as part:
            part.parent.mkdir(parents=True, exist_ok=True)
            results.to_netcdf(part, engine="h5netcdf")
            for name in ("DONE", "manifest.json"):
                (self.path / name).unlink(missing_ok=True)
        self._write("config.json", _json(_CONVERTER.unstructure(config)))
        self._write("manifest.json", _json(manifest))

    def close(self) -> None:
        """Write DONE, after all other files."""
        self._write("DONE", "")

    def _write(self, name: str, text: str) -> None:
        with written_whole(self.path / name, _CURE) as part:
            part.write_text(text)


def manifest(config: Any, results: xr.Dataset, seconds: float, is_resumed: bool) -> dict[str, Any]:
    """Provenance of results: versions, commit, hardware, seeds, data and time.

    Args:
        seconds: wall time; of a resumed run, since the resumption.
    """
    device = torch.device(config.device)
    is_cuda = device.type == "cuda"
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "git": _git(),
        "device": torch.cuda.get_device_name(device) if is_cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "seeds": list(config.seeds) if hasattr(config, "seeds") else [config.seed],
        "data_checksum": results.attrs["data_checksum"],
        "wall_time_seconds": round(seconds, 3),
        "resumed": is_resumed,
    }


def check_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: this machine has no such device.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"no device {name!r} on this machine ({reason}); use --device cpu"
        ) from error
    return device


def _git() -> dict[str, Any] | None:
    """Commit of the code, and whether files differ from it; None outside a repository."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *command],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(status)}


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
