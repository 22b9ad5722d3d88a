"""The training loop: seeds, epochs, resumption, divergence."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ardyn
from ardyn import (
    DivergenceError,
    batches,
)
from studies import frozen_pass, scalability
from studies.problems.networks import cnn_for, mlp_for
from studies.running.checkpoints import Checkpoints
from studies.training.loop import make_learner
from tests.studies.small_runs import SMALL, run


def test_the_results_of_a_seed_do_not_depend_on_the_other_seeds(digits, tmp_path):
    both = replace(SMALL, conditions=("ar", "bp"))
    together = run(both, digits, tmp_path / "both")
    alone = run(replace(both, seeds=(1,)), digits, tmp_path / "alone")
    np.testing.assert_allclose(together.test_loss.sel(seed=[1]), alone.test_loss, rtol=1e-5)
    assert (together.test_loss.sel(seed=0) != together.test_loss.sel(seed=1)).all()


def test_epochs_and_seeds_of_the_batches_and_measures_of_the_first_test(
    digits, tmp_path, monkeypatch
):
    epochs: list[int] = []

    def watched(samples: int, size: int, seeds: Any, epoch: int) -> Any:
        epochs.append(epoch)
        return batches(samples, size, seeds, epoch)

    monkeypatch.setattr(ardyn, "batches", watched)
    config = replace(SMALL, conditions=("ar",), epochs=3)
    results = run(config, digits, tmp_path)
    assert epochs[1:] == [1, 2, 3]  # the first looks at a batch before any work
    start = make_learner(config, frozen_pass.CONDITIONS["ar"], mlp_for("digits", (12, 10)))
    loss, accuracy = ardyn.evaluate(start.model, digits.test.inputs, digits.test.targets)
    first = results.isel(condition=0, epoch=0)
    np.testing.assert_allclose(first.accuracy, 100 * accuracy, rtol=1e-12)
    np.testing.assert_allclose(first.test_loss, loss, rtol=1e-6)
    assert float(loss[0]) != float(loss[1])


def test_a_finished_epoch_is_not_trained_again(digits, tmp_path, monkeypatch):
    config = replace(SMALL, conditions=("ar", "c"), epochs=2)
    truth = run(config, digits, tmp_path)

    def step(self: object, *batch: object) -> None:
        raise AssertionError("a step that had been taken")

    monkeypatch.setattr(ardyn.Learner, "step", step)
    xr.testing.assert_identical(run(config, digits, tmp_path), truth)


def test_the_error_of_a_diverging_training_says_when_and_checkpoints_remain(digits, tmp_path):
    config = replace(SMALL, conditions=("ar",), learning_rate=0.5, epochs=6)
    with pytest.raises(DivergenceError, match=r"'ar' diverged in epoch \d.*below 0.5"):
        run(config, digits, tmp_path)
    steady = replace(SMALL, conditions=("ar",), epochs=2)
    run(steady, digits, tmp_path / "steady")
    checkpoints = Checkpoints.of(tmp_path / "steady", steady, digits.checksum)
    found = checkpoints.load("ar")
    assert found is not None
    assert found["epoch"] == 2


def test_divergence_in_the_last_batch_of_an_epoch_leaves_the_checkpoint_before(
    digits, tmp_path, monkeypatch
):
    config = replace(SMALL, conditions=("ar",), epochs=3)
    checkpoints = Checkpoints.of(tmp_path, config, digits.checksum)
    whole = ardyn.Learner.step
    count = [0]

    def step(self: ardyn.Learner, *batch: Any) -> torch.Tensor:
        value = whole(self, *batch)
        count[0] += 1
        if count[0] == 8:  # the last batch of the second epoch
            with torch.no_grad():
                next(iter(self.model.parameters())).fill_(torch.inf)
        return value

    monkeypatch.setattr(ardyn.Learner, "step", step)
    with pytest.raises(
        DivergenceError, match=r"epoch 2 \(the checkpoint of epoch 1 is kept\).*batch 4 of 4"
    ):
        run(config, digits, tmp_path)
    kept = checkpoints.load("ar")
    assert kept is not None
    assert kept["epoch"] == 1


def test_rules_by_pattern_take_the_output_of_the_configuration():
    config = scalability.Config(output="clamped", seeds=(0,))
    made = make_learner(config, scalability.CONDITIONS["psi-fc"], cnn_for("digits", "code"))
    assert isinstance(made.rule, dict)
    assert {rule.output for rule in made.rule.values()} == {"clamped"}
    assert ardyn.Relaxation(
        made.model, torch.zeros(1, 64), torch.zeros(1, 10), rule=made.rule, feedback=made.feedback
    ).dynamics.clamped
