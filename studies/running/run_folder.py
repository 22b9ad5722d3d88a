"""Run folders: where a study leaves its results, whole or not at all."""

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
from typing import Any, TypeVar

import cattrs
import torch
import xarray as xr
from cattrs.v import format_exception

from ardyn import InputError
from ardyn.files import written_whole

Config = TypeVar("Config")

_CURE = "make room, or use another --out"
_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
for _kind in (int, float, bool, str):
    _CONVERTER.register_structure_hook(_kind, lambda value, kind: _as_it_is(value, kind))
_LIBRARIES = ("ardyn", "torch", "torchdiffeq", "numpy", "scipy", "xarray")


def read_config(path: Path, kind: type[Config]) -> Config:
    """A configuration that an earlier run wrote; ``path`` is the file, or the folder of the run.

    Raises:
        InputError: a file that cannot be read, or of another study.
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
        raise InputError(f"{path} is no configuration of this study ({problems})") from error


def _as_it_is(value: Any, kind: Callable[[Any], Any]) -> Any:
    """A plain value of a configuration, never converted: 2.7 is no whole number."""
    if type(value) is kind or (kind is float and type(value) is int):
        return kind(value)
    raise ValueError(f"{value!r} is of type {type(value).__name__}")


def _problem(error: BaseException, kind: type | None) -> str:
    """One problem with a configuration."""
    return str(error) if isinstance(error, ValueError) else format_exception(error, kind)


class RunFolder:
    """OUT/<study>/<hash of the config>/, with DONE written last."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of(out: Path, study: str, config: Any) -> "RunFolder":
        """The folder that belongs to a configuration; ``store`` makes it."""
        text = json.dumps(_CONVERTER.unstructure(config), sort_keys=True)
        return RunFolder(out / study / hashlib.sha256(text.encode()).hexdigest()[:12])

    @property
    def is_computed(self) -> bool:
        """Whether results are stored, with their manifest, which is written after them."""
        return all((self.path / name).exists() for name in ("results.nc", "manifest.json"))

    def made_by(self, checksum: str) -> str:
        """When, and by which commit, the finished run was made.

        Args:
            checksum: of the data that it must have read.

        Raises:
            InputError: it read other data, or its manifest cannot be read.
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
                f"{self.path} holds this run with other data (SHA-256 {read[:12]}, not "
                f"{checksum[:12]}); use --overwrite, or another --out"
            )
        return f"finished {finished}" + (f" by commit {commit}" if commit else "")

    @property
    def was_stopped(self) -> bool:
        """Whether it holds checkpoints to go on from."""
        return any((self.path / "checkpoints").glob("*"))

    def prepare(self, overwrite: bool, resume: bool) -> None:
        """Make way for a run.

        Raises:
            InputError: a folder that cannot be made or written, or one with the checkpoints of a
                run that was stopped, unless to start over or to go on from them.
        """
        if overwrite and resume:
            raise InputError("--resume goes on and --overwrite starts over; pass one of them")
        self._check_writable()
        if overwrite:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        elif self.was_stopped and not resume:
            raise InputError(
                f"{self.path} holds checkpoints of this run, which was stopped; go on from them "
                f"with --resume, or start over with --overwrite"
            )

    def _check_writable(self) -> None:
        """Leaves nothing behind."""
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
        """Write DONE, when all else is there."""
        self._write("DONE", "")

    def _write(self, name: str, text: str) -> None:
        with written_whole(self.path / name, _CURE) as part:
            part.write_text(text)


def manifest(config: Any, results: xr.Dataset, seconds: float, is_resumed: bool) -> dict[str, Any]:
    """Everything needed to know what made some results.

    Args:
        seconds: wall time; of a resumed run, since it was resumed.
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
        InputError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"no device {name!r} here ({reason}); use --device cpu") from error
    return device


def _git() -> dict[str, Any] | None:
    """Commit of the code, and whether it was changed since; None outside a repository."""
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
