"""The command line that every study shares."""

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import tyro
import xarray as xr

from ardyn import InputError
from plots.common import run_results as finished
from plots.common.command_line import refusing
from studies.problems import images as data
from studies.running.run_folder import RunFolder, manifest, read_config

Config = TypeVar("Config", bound="Settings")
Loaded = TypeVar("Loaded", bound="HasChecksum")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's options."""


class Settings(Protocol):
    """What the configuration of every study has."""

    @property
    def dataset(self) -> data.DatasetName: ...
    @property
    def dtype(self) -> str: ...


class HasChecksum(Protocol):
    """Data, and what they are told apart by."""

    @property
    def checksum(self) -> str: ...


@dataclass(frozen=True)
class Options:
    """Where a run reads and writes, and how."""

    config: Path | None = None
    """Start from the configuration of an earlier run, its folder or config.json; other flags
    override it."""
    out: Path = Path("runs")
    """Folder of the runs; this one goes to OUT/<study>/<hash of its configuration>/."""
    overwrite: bool = False
    """Compute again even if this very run is finished, or was stopped on its way."""
    resume: bool = False
    """Go on from the checkpoints of this very run, where it was stopped."""
    plot: bool = True
    """Draw the figures."""
    threads: int = 1
    """CPU threads. For networks of a few hundred neurons more hardly help, and on a machine with
    other work they can slow a run down many times."""
    data_dir: Path | None = None
    """Folder that holds mnist/, fashion-mnist/, cifar10/, cifar100/ or svhn/; else the variable
    ARDYN_DATA names it, else they are downloaded."""


def main(
    study: str,
    kind: type[Config],
    run: Callable[[Config, Loaded, RunFolder], xr.Dataset],
    summary: Callable[[xr.Dataset], str],
    draw: Callable[[xr.Dataset, Path], list[Path]],
    description: str,
    load: Callable[[Config, Path | None], Loaded],
) -> None:
    """Parse, run unless it is done, draw, and tell; exit status 2 with one sentence if refused."""
    with refusing():
        config, options = _parse(kind, description)
        _use_threads(options.threads)
        _keep_memory()
        images = load(config, options.data_dir)
        folder = RunFolder.of(options.out, study, config)
        if folder.is_computed and not options.overwrite:
            made = folder.made_by(images.checksum)
            print(f"Already computed, {made}; --overwrite computes it again.\n{folder.path}")
        else:
            folder.prepare(overwrite=options.overwrite, resume=options.resume)
            _compute(config, options, images, folder, run)
        results = finished.stored(folder.path, study)
        print(summary(results))
        if options.plot:
            draw(results, folder.path)
        folder.close()
        print(f"Results and figures: {folder.path}")


def _compute(
    config: Config,
    options: Options,
    images: Loaded,
    folder: RunFolder,
    run: Callable[[Config, Loaded, RunFolder], xr.Dataset],
) -> None:
    """Run the study and store its results; says how to go on if it is stopped on its way."""
    is_resumed = folder.was_stopped
    if options.resume and not is_resumed:
        print("Nothing to resume: this run has no checkpoints, and starts at its beginning.")
    start = time.perf_counter()
    try:
        results = run(config, images, folder)
    except KeyboardInterrupt:
        how = "go on with --resume" if folder.was_stopped else "nothing is kept"
        print(f"\nstopped; {how}", file=sys.stderr)
        raise
    seconds = time.perf_counter() - start
    folder.store(config, results, manifest(config, results, seconds, is_resumed))


def training_set(config: Settings, data_dir: Path | None) -> data.Data:
    """The images to train on, in the configuration's type."""
    return data.load(config.dataset, getattr(torch, config.dtype), data_dir)


def both_sets(config: Settings, data_dir: Path | None) -> data.Sets:
    """The images to train on, and those to test on."""
    return data.Sets(*data.train_and_test(config.dataset, getattr(torch, config.dtype), data_dir))


def _use_threads(count: int) -> None:
    cores = os.cpu_count() or 1
    if not 1 <= count <= cores:
        raise InputError(f"threads must lie in 1 … {cores}, the cores of this machine, got {count}")
    torch.set_num_threads(count)


def _keep_memory() -> None:
    """Have glibc keep large blocks for reuse; by default each new one is paid for in page faults.

    On convolutional networks these cost as much as the arithmetic. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, 2**30)


def _parse(kind: type[Config], description: str) -> tuple[Config, Options]:
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config", type=Path)
    path = before.parse_known_args()[0].config
    default = kind() if path is None else read_config(path, kind)
    both = make_dataclass("Both", [("study", kind, default), ("run", Options, Options())])
    parsed: Any = tyro.cli(both, description=description, config=(tyro.conf.OmitArgPrefixes,))
    return parsed.study, parsed.run
