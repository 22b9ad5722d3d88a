"""The command line of all studies."""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import tyro

from ardyn import InputError
from plots.common import run_results
from plots.common.command_line import exit_on_error
from studies.problems import images
from studies.running.flags import Settings
from studies.running.run_folder import RunFolder, manifest, read_config

if TYPE_CHECKING:
    import xarray as xr

Config = TypeVar("Config", bound=Settings)
Loaded = TypeVar("Loaded", bound="HasChecksum")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Option numbers of glibc's mallopt (malloc.h)."""


class HasChecksum(Protocol):
    """Data, identified by a checksum."""

    @property
    def checksum(self) -> str: ...


@dataclass(frozen=True)
class Options:
    """Options of a run that do not change its results."""

    config: Path | None = None
    """Folder or config.json of an earlier run whose settings are used as defaults; other flags
    override them."""
    out: Path = Path("runs")
    """Folder of all runs; results are written to OUT/<study>/<hash of the configuration>/."""
    overwrite: bool = False
    """Compute again, and replace a finished or interrupted run with this configuration."""
    resume: bool = False
    """Continue an interrupted run with this configuration from its checkpoints."""
    plot: bool = True
    """Draw the figures."""
    threads: int = 1
    """Number of CPU threads. With networks of a few hundred neurons, more than one hardly helps,
    and on a busy machine can make a run several times slower."""
    data_dir: Path | None = None
    """Folder with the subfolders mnist, fashion-mnist, cifar10, cifar100 and svhn, as far as they
    are used. By default that of the environment variable ARDYN_DATA; if it is not set, data are
    downloaded."""


def main(
    study: str,
    kind: type[Config],
    run: Callable[[Config, Loaded, RunFolder], xr.Dataset],
    summary: Callable[[xr.Dataset], str],
    draw: Callable[[xr.Dataset, Path], list[Path]],
    description: str,
    load: Callable[[Config, Path | None], Loaded],
) -> None:
    """Run a study from the command line, unless already computed; print its summary and draw.

    An ArdynError gives exit status 2.
    """
    with exit_on_error():
        config, options = parse(kind, description)
        _use_threads(options.threads)
        _keep_memory()
        data = load(config, options.data_dir)
        folder = RunFolder.of(options.out, study, config)
        if folder.is_computed and not options.overwrite:
            made = folder.made_by(data.checksum)
            print(f"Already computed, {made}; --overwrite computes it again.\n{folder.path}")
        else:
            folder.prepare(overwrite=options.overwrite, resume=options.resume)
            _compute(config, options, data, folder, run)
        results = run_results.stored(folder.path, study)
        print(summary(results))
        if options.plot:
            draw(results, folder.path)
        folder.close()
        print(f"Results and figures: {folder.path}")


def _compute(
    config: Config,
    options: Options,
    data: Loaded,
    folder: RunFolder,
    run: Callable[[Config, Loaded, RunFolder], xr.Dataset],
) -> None:
    """Run the study and store its results; if interrupted, print how to continue."""
    is_resumed = folder.was_stopped
    if options.resume and not is_resumed:
        print("Nothing to resume: this run has no checkpoints; starting from the beginning.")
    start = time.perf_counter()
    try:
        results = run(config, data, folder)
    except KeyboardInterrupt:
        how = "continue with --resume" if folder.was_stopped else "no checkpoint was saved"
        print(f"\ninterrupted; {how}", file=sys.stderr)
        raise
    seconds = time.perf_counter() - start
    folder.store(config, results, manifest(config, results, seconds, is_resumed))


def training_set(config: Settings, data_dir: Path | None) -> images.Data:
    """The training set, in the configuration's floating-point type."""
    return images.load(config.dataset, getattr(torch, config.dtype), data_dir)


def both_sets(config: Settings, data_dir: Path | None) -> images.Sets:
    """The training and the test set."""
    return images.Sets(
        *images.train_and_test(config.dataset, getattr(torch, config.dtype), data_dir)
    )


def _use_threads(count: int) -> None:
    cores = os.cpu_count() or 1
    if not 1 <= count <= cores:
        raise InputError(
            f"threads must lie in 1 … {cores}, the cores of this machine, got {count}; use 1"
        )
    torch.set_num_threads(count)


def _keep_memory() -> None:
    """Make glibc reuse large blocks of memory; by default each new one causes page faults.

    On convolutional networks these take as long as the arithmetic. Without glibc, no effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, 2**30)


def parse(kind: type[Config], description: str) -> tuple[Config, Options]:
    """The settings of a study, and the options of its run, from the command line."""
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config", type=Path)
    path = before.parse_known_args()[0].config
    default = kind() if path is None else read_config(path, kind)
    both = make_dataclass("Both", [("study", kind, default), ("run", Options, Options())])
    parsed: Any = tyro.cli(both, description=description, config=(tyro.conf.OmitArgPrefixes,))
    return parsed.study, parsed.run
