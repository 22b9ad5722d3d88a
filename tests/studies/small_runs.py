"""Small runs of the studies that train, and what they store."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from studies import frozen_pass
from studies.problems import images
from studies.running.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
FLAGS = ["--hidden", "12", "10", "--epochs", "3", "--seeds", "0", "1", "--learning-rate", "0.002"]
SMALL = frozen_pass.Config(hidden=(12, 10), epochs=2, seeds=(0, 1), learning_rate=0.01)


def some_digits() -> images.Sets:
    """A sixth of the digits for training, and all of their test set."""
    train, test = images.train_and_test("digits", torch.float32)
    few = replace(train, inputs=train.inputs[:250], targets=train.targets[:250])
    return images.Sets(few, test)


def run(config: Any, sets: images.Sets, tmp_path: Path, module: Any = frozen_pass) -> xr.Dataset:
    results: xr.Dataset = module.run(config, sets, RunFolder(tmp_path))
    return results


def numbers(folder: Path) -> xr.Dataset:
    """The results of the only run, without attributes."""
    (found,) = folder.glob("*/*/results.nc")
    return xr.load_dataset(found, engine="h5netcdf").drop_attrs()


def manifest_of(out: Path) -> dict[str, Any]:
    """The manifest of the only run."""
    (found,) = out.glob("*/*/manifest.json")
    manifest: dict[str, Any] = json.loads(found.read_text())
    return manifest
