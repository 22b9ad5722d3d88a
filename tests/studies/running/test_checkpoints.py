"""Checkpoints: resumed runs, and files that cannot be used or written."""

import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import xarray as xr

from ardyn import (
    InputError,
)
from studies.running.checkpoints import Checkpoints
from tests.studies.small_runs import FLAGS, ROOT, SMALL, numbers, run

KILLED_AFTER = """
import os, runpy, signal, sys
from studies.running.checkpoints import Checkpoints

save, left = Checkpoints.save, int(sys.argv.pop(1))

def save_and_die(*state):
    global left
    save(*state)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoints.save = save_and_die
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a study, and kills it after some checkpoints."""


def test_a_killed_and_resumed_run_has_the_results_of_an_uninterrupted_one(tmp_path):
    flags = [*FLAGS, "--conditions", "ar", "b", "--no-plot"]
    command = [str(ROOT / "studies/frozen_pass.py"), *flags]
    here: dict[str, Any] = {"cwd": ROOT, "capture_output": True}
    whole = [sys.executable, *command, "--out", tmp_path / "whole"]
    subprocess.run(whole, check=True, **here)
    killed = [*command, "--resume", "--out", tmp_path / "killed"]
    for checkpoints in ("2", "2"):  # after epoch 2 of ar; then, resumed, after epoch 1 of b
        dying = [sys.executable, "-c", KILLED_AFTER, checkpoints, *killed]
        assert subprocess.run(dying, check=False, **here).returncode == -signal.SIGKILL
    subprocess.run([sys.executable, *killed], check=True, **here)
    xr.testing.assert_identical(numbers(tmp_path / "killed"), numbers(tmp_path / "whole"))


def test_a_damaged_checkpoint_or_one_of_another_configuration_is_refused(digits, tmp_path):
    config = replace(SMALL, conditions=("ar",), epochs=1)
    run(config, digits, tmp_path)
    with pytest.raises(InputError, match="belongs to another configuration or to other data"):
        run(replace(config, epochs=2), digits, tmp_path)
    path = tmp_path / "checkpoints/ar.pt"
    whole = path.read_bytes()
    for broken in (b"", b"x", whole[:1000]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="cannot read the checkpoint .*with --overwrite"):
            run(config, digits, tmp_path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        run(config, digits, tmp_path)


def test_a_full_disk_is_an_input_error_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "me")
    checkpoints.save("ar", {"epoch": 1})

    def full(state: object, file: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="No space left on device.*make room, then.*--resume"):
        checkpoints.save("ar", {"epoch": 2})
    assert checkpoints.load("ar") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["ar.pt"]
