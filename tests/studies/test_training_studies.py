"""The studies that train, as a user runs them: what they change, keep, resume and refuse."""

import json
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ardyn
from ardyn import (
    Adaptive,
    ClosedForm,
    DivergenceError,
    Fixed,
    InputError,
    Rule,
    Sweep,
    batches,
)
from plots.common import run_results
from plots.euler_equivalence import draw
from plots.feedback import draw as draw_feedback
from plots.frozen_pass import draw as draw_frozen_pass
from studies import euler_equivalence, feedback, frozen_pass, scalability
from studies.problems import images
from studies.problems.networks import cnn_for, mlp_for
from studies.running.checkpoints import Checkpoints
from studies.running.run_folder import RunFolder
from studies.training.loop import make_learner

ROOT = Path(__file__).parents[2]
FLAGS = ["--hidden", "12", "10", "--epochs", "3", "--seeds", "0", "1", "--learning-rate", "0.002"]
SMALL = frozen_pass.Config(hidden=(12, 10), epochs=2, seeds=(0, 1), learning_rate=0.01)


@pytest.fixture(scope="module")
def digits() -> images.Sets:
    """A sixth of the digits."""
    train, test = images.train_and_test("digits", torch.float32)
    few = replace(train, inputs=train.inputs[:250], targets=train.targets[:250])
    return images.Sets(few, test)


def run(config: Any, sets: images.Sets, tmp_path: Path, module: Any = frozen_pass) -> xr.Dataset:
    results: xr.Dataset = module.run(config, sets, RunFolder(tmp_path))
    return results


@pytest.fixture
def study(monkeypatch, capsys):
    """The command line, in this process: exit status, and all that was printed, boxes removed."""

    def command(name: str, *flags: object, out: Path) -> tuple[int, str]:
        argv = [f"{name}.py", *map(str, flags), "--out", str(out)]
        monkeypatch.setattr("sys.argv", argv)
        try:
            runpy.run_path(str(ROOT / f"studies/{name}.py"), run_name="__main__")
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, re.sub(r"[│\s]+", " ", captured.err + captured.out)

    return command


def numbers(folder: Path) -> xr.Dataset:
    """What a run measured, wherever its data came from."""
    (found,) = folder.glob("*/*/results.nc")
    return xr.load_dataset(found, engine="h5netcdf").drop_attrs()


def manifest_of(out: Path) -> dict[str, Any]:
    """What made the only run."""
    (found,) = out.glob("*/*/manifest.json")
    manifest: dict[str, Any] = json.loads(found.read_text())
    return manifest


def test_the_frozen_pass_study_tells_the_conditions_apart(digits, tmp_path):
    quick = replace(SMALL, nonlinear_scheme="sweep", nonlinear_step=1.0)
    config = replace(quick, hidden=(30, 20), epochs=12, batch_size=8)
    results = run(config, digits, tmp_path)
    final = results.accuracy.isel(epoch=-1).mean("seed")
    for name in ("ar", "a", "b", "a+b"):
        assert abs(float(final.sel(condition=name) - final.sel(condition="bp"))) < 6
        assert float(final.sel(condition=name)) > 60
    assert float(final.sel(condition="c")) < float(final.sel(condition="ar")) - 20
    assert results.accuracy.dims == ("condition", "epoch", "seed")
    losses = {name: results.test_loss.sel(condition=name).values[-1] for name in ("bp", "ar")}
    np.testing.assert_allclose(losses["ar"], losses["bp"], rtol=0.02)
    last = [
        results.test_loss.sel(condition=name).values[-1, 0] for name in results.condition.values
    ]
    assert len(set(last)) == len(last)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.02},
        {"batch_size": 32},
        {"loss": "mse"},
        {"scheme": "euler"},
        {"scheme": "euler", "step": 0.3},
        {"nonlinear_scheme": "euler", "nonlinear_step": 0.5},
        {"duration": 3.0},
        {"output": "clamped"},
        {"hidden": (9, 10)},
        {"seeds": (0, 2)},
    ],
    ids=str,
)
def test_every_setting_changes_the_results(change, digits, tmp_path):
    config = replace(SMALL, conditions=("ar", "a"), epochs=1)
    if change.get("step"):
        config = replace(config, scheme="euler")
    before = run(config, digits, tmp_path / "1").test_loss
    after = run(replace(config, **change), digits, tmp_path / "2").test_loss
    assert not np.array_equal(before.isel(epoch=-1).values, after.isel(epoch=-1).values)


def test_the_scalability_study_trains_in_every_condition(digits, tmp_path):
    config = scalability.Config(
        conditions=tuple(scalability.CONDITIONS), epochs=1, seeds=(3,), variant="code"
    )
    few = replace(digits.train, inputs=digits.train.inputs[:64], targets=digits.train.targets[:64])
    results = run(config, replace(digits, train=few), tmp_path, scalability)
    losses = results.test_loss.isel(epoch=-1, seed=0).values
    assert np.isfinite(losses).all()
    assert len(set(losses)) == len(losses)
    authors = cnn_for("digits", "code")(torch.Generator().manual_seed(3))
    loss, _ = ardyn.evaluate(authors, digits.test.inputs, digits.test.targets)
    np.testing.assert_allclose(results.test_loss.isel(epoch=0, seed=0), float(loss), rtol=1e-5)


def test_angles_start_at_right_ones_and_learned_feedback_aligns(digits, tmp_path):
    config = feedback.Config(hidden=(20, 15), epochs=3, learning_rate=0.01, probe_size=100)
    results = run(config, digits, tmp_path, feedback)
    angle = results.feedback_angle.mean("seed")
    top = angle.sel(layer="fc3")
    assert abs(float(top.sel(condition="learned").isel(epoch=0)) - 90) < 15
    assert float(top.sel(condition="learned").isel(epoch=-1)) < 75
    assert float(top.sel(condition="learned").isel(epoch=-1)) < float(
        top.sel(condition="fixed").isel(epoch=-1)
    )
    assert float(angle.sel(condition="transpose", layer="fc3").max()) < 1e-3
    assert np.isnan(angle.sel(layer="fc1")).all()
    gradient = results.gradient_angle.mean("seed")
    assert float(gradient.sel(layer="fc3").max()) < 1
    assert float(gradient.sel(condition="transpose", layer="fc1").max()) < 10
    assert float(gradient.sel(condition="fixed", layer="fc1").isel(epoch=0)) > 45


def test_a_run_is_kept_with_its_table_and_figures(study, tmp_path):
    status, told = study("frozen_pass", *FLAGS, "--conditions", "bp", "c", out=tmp_path)
    assert status == 0, told
    assert "Test accuracy on digits after 3 epochs" in told
    (folder,) = tmp_path.glob("frozen_pass/*")
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        *("config.json", "results.nc", "manifest.json", "DONE", "table.csv"),
        *("accuracy.png", "accuracy.pdf", "checkpoints"),
    }
    results = run_results.results(folder, "frozen_pass")
    assert results.accuracy.attrs["units"] == "%"
    assert json.loads((folder / "manifest.json").read_text())["seeds"] == [0, 1]
    rows = (folder / "table.csv").read_text().splitlines()
    assert rows[0].startswith("condition,test accuracy [%],standard error")
    assert rows[1].startswith("backprop,")
    _, again = study("frozen_pass", *FLAGS, "--conditions", "bp", "c", out=tmp_path)
    assert "Already computed" in again


def test_runs_of_several_conditions_are_drawn_together(tmp_path, digits):
    runs = []
    for names, seeds in ((("bp", "ar"), (0, 1)), (("c",), (0,))):
        config = replace(SMALL, conditions=names, seeds=seeds, epochs=1)
        runs.append(run(config, digits, tmp_path / names[0]))
    together = run_results.together(runs)
    assert run_results.table(together)["seeds"].tolist() == [2, 2, 1]
    first = runs[0].accuracy.isel(epoch=-1).mean("seed")
    assert run_results.table(together)["test accuracy [%]"].iloc[0] == pytest.approx(
        float(first[0])
    )
    with pytest.raises(InputError, match="differ in nothing but their conditions and seeds"):
        run_results.together([runs[0], runs[0]])
    other = run(replace(SMALL, conditions=("a",), epochs=2), digits, tmp_path / "other")
    with pytest.raises(InputError, match="differ in nothing but their conditions and seeds"):
        run_results.together([runs[0], other])


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


def test_a_run_that_was_killed_ends_with_the_numbers_of_one_that_was_not(tmp_path):
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


def test_a_seed_of_a_study_has_the_same_numbers_alone_and_beside_others(digits, tmp_path):
    both = replace(SMALL, conditions=("ar", "bp"))
    together = run(both, digits, tmp_path / "both")
    alone = run(replace(both, seeds=(1,)), digits, tmp_path / "alone")
    np.testing.assert_allclose(together.test_loss.sel(seed=[1]), alone.test_loss, rtol=1e-5)
    assert (together.test_loss.sel(seed=0) != together.test_loss.sel(seed=1)).all()


def test_a_run_that_was_stopped_is_not_started_over_unasked(study, tmp_path):
    flags = [*FLAGS, "--conditions", "ar", "--no-plot"]
    assert study("frozen_pass", *flags, out=tmp_path)[0] == 0
    (folder,) = tmp_path.glob("frozen_pass/*")
    (folder / "results.nc").unlink()
    status, told = study("frozen_pass", *flags, out=tmp_path)
    assert status == 2
    assert "continue with --resume, or start again with --overwrite" in told
    assert study("frozen_pass", *flags, "--resume", out=tmp_path)[0] == 0


def test_a_run_that_is_interrupted_says_how_to_go_on_and_says_later_that_it_did(
    study, tmp_path, monkeypatch
):
    flags = [*FLAGS, "--conditions", "ar", "--no-plot"]
    status, told = study("frozen_pass", *flags, "--resume", "--epochs", 1, out=tmp_path)
    assert (status, "Nothing to resume: this run has no checkpoints" in told) == (0, True)
    assert not manifest_of(tmp_path)["resumed"]

    save = Checkpoints.save

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def save_and_be_interrupted(*state: Any) -> None:
        save(*state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        status, told = study("frozen_pass", *flags, out=tmp_path / "long")
        assert (status, "interrupted; no checkpoint was saved" in told) == (130, True)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_be_interrupted)
        status, told = study("frozen_pass", *flags, out=tmp_path / "long")
        assert (status, "interrupted; continue with --resume" in told) == (130, True)
    status, told = study("frozen_pass", *flags, "--resume", out=tmp_path / "long")
    assert (status, "Nothing to resume" in told) == (0, False)
    assert manifest_of(tmp_path / "long")["resumed"]
    (folder,) = (tmp_path / "long").glob("*/*")
    status, told = study("frozen_pass", "--config", folder, out=tmp_path / "long")
    assert (status, "Already computed" in told) == (0, True)


def test_a_learning_rate_that_diverges_says_when_and_keeps_the_checkpoint(digits, tmp_path):
    config = replace(SMALL, conditions=("ar",), learning_rate=0.5, epochs=6)
    with pytest.raises(DivergenceError, match=r"'ar' diverged in epoch \d, batch \d+.*below 0.5"):
        run(config, digits, tmp_path)
    steady = replace(SMALL, conditions=("ar",), epochs=2)
    run(steady, digits, tmp_path / "steady")
    checkpoints = Checkpoints.of(tmp_path / "steady", steady, digits.checksum)
    found = checkpoints.load("ar")
    assert found is not None
    assert found["epoch"] == 2


def test_a_checkpoint_of_another_configuration_or_broken_is_refused(digits, tmp_path):
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


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
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


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("frozen_pass", ["--conditions", "bq"], "unknown condition 'bq': did you mean 'b"),
        ("frozen_pass", ["--conditions", "bp", "bp"], "conditions needs one or more different"),
        ("frozen_pass", ["--batch-size", "5000"], "batch size 5000 must lie in 1 … 1498"),
        ("frozen_pass", ["--learning-rate", "-1"], "learning-rate must be positive and finite"),
        ("frozen_pass", ["--epochs", "0"], "epochs must be positive"),
        ("frozen_pass", ["--seeds", "1", "1"], "seeds needs one or more different values"),
        ("frozen_pass", ["--scheme", "exat"], "unknown scheme 'exat': did you mean 'exact'"),
        ("frozen_pass", ["--nonlinear-scheme", "exact"], "needs a frozen or dropped relaxation"),
        ("frozen_pass", ["--step", "2.5", "--scheme", "euler"], "unstable from h/τ"),
        ("frozen_pass", ["--hidden", "0"], "hidden must be positive numbers, got"),
        ("feedback", ["--probe-size", "0"], "probe-size must be positive"),
        ("scalability", ["--conditions", "psy"], "unknown condition 'psy': did you mean 'psi"),
        ("frozen_pass", ["--step", "0.3"], "step 0.3 has no effect with the scheme 'exact'"),
        ("frozen_pass", ["--seeds", "9" * 25], "seed must lie in 0 … 2⁶³ − 1"),
        ("frozen_pass", ["--tau-z", "1", "1"], "tau-z needs different values only"),
        ("frozen_pass", ["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
        ("euler_equivalence", ["--stages", "99"], "stages must lie in 0 … 30"),
        ("euler_equivalence", ["--schemes", "dopri5"], "unknown scheme 'dopri5'"),
        ("euler_equivalence", ["--steps", "0.1"], "steps needs 2 or more different values"),
        ("euler_equivalence", ["--steps", "-0.1", "1"], "must be positive and finite"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(study, name, flags, words, tmp_path):
    status, told = study(name, *flags, out=tmp_path)
    assert status == 2
    assert words in told
    assert not list(tmp_path.iterdir())


def test_the_equivalence_study_runs_and_predicts_what_it_measures(digits, tmp_path):
    config = euler_equivalence.Config(
        hidden=(8, 6),
        epochs=1,
        seeds=(0, 1, 2),
        stages=(0, 1),
        steps=(0.1, 0.4),
        iterations=(10, 100),
        learning_rate=0.01,
    )
    results = run(config, digits, tmp_path, euler_equivalence)
    for name in ("state_error", "gradient_error"):
        predicted, measured = (results[name].sel(how=how) for how in ("predicted", "measured"))
        np.testing.assert_allclose(predicted, measured, rtol=1e-3, atol=1e-9)
        assert results[name].notnull().all()
    order = np.log(results.state_error.sel(how="predicted", step=0.4)) - np.log(
        results.state_error.sel(how="predicted", step=0.1)
    )
    for name, least in {"euler": 0.5, "midpoint": 1.8, "rk4": 3.5}.items():
        assert float(order.sel(scheme=name).min()) / np.log(4) > least
    assert float(results.bp_error.sel(scheme="rk4", step=0.1, iterations=100).max()) < 0.1
    assert float(results.bp_error.sel(scheme="rk4", step=0.1, iterations=10).min()) > 0.3
    folder = tmp_path / "figures"
    folder.mkdir()
    drawn = draw(results, folder)
    assert {path.stem for path in drawn} == {
        *("accuracy", "table", "weights", "errors", "to_backprop", "training")
    }
    assert "total variation to the ODE" in euler_equivalence.summary(results)
    assert not np.allclose(results.state_error.isel(stage=0), results.state_error.isel(stage=1))
    losses = results.test_loss.isel(epoch=-1, seed=0).values.tolist()
    assert len(set(losses)) == len(losses)
    clamped = run(replace(config, output="clamped"), digits, tmp_path / "2", euler_equivalence)
    assert not np.allclose(results.bp_error, clamped.bp_error)


def test_a_single_scheme_has_nothing_to_be_compared_with(digits, tmp_path):
    config = euler_equivalence.Config(
        hidden=(8,), epochs=1, seeds=(0,), stages=(0,), steps=(0.1, 0.2), iterations=(10, 100)
    )
    config = replace(config, trained_with=("exact",), schemes=("euler",))
    results = run(config, digits, tmp_path, euler_equivalence)
    assert "training" not in {path.stem for path in draw(results, tmp_path)}


def test_angles_of_a_single_layer_are_drawn(digits, tmp_path):
    results = run(feedback.Config(hidden=(), epochs=1, seeds=(0,)), digits, tmp_path, feedback)
    assert {"angles", "accuracy"} <= {path.stem for path in draw_feedback(results, tmp_path)}


CURRENT, DROP = {"relaxation_derivative": "current"}, {"relaxation_derivative": "dropped"}
BOTH = DROP | {"update_derivative": "dropped"}
PSI = {"feedback": "learned"}
IN_WORDS: list[tuple[Any, dict[str, Any]]] = [
    (
        frozen_pass,
        {
            "bp": None,
            "ar": {},
            "a": CURRENT,
            "b": {"update_derivative": "current"},
            "a+b": CURRENT | {"update_derivative": "current"},
            "c": {"update_activity": "current"},
        },
    ),
    (
        scalability,
        {
            "bp": None,
            "ar": {},
            "psi-fc": {"fc*": PSI},
            "psi-conv": {"conv*": PSI},
            "psi": PSI,
            "drop-fc": {"fc*": BOTH},
            "drop-conv": {"conv*": BOTH},
            "drop": BOTH,
            "psi+drop": PSI | BOTH,
        },
    ),
    (
        feedback,
        {
            "transpose": {},
            "learned": PSI,
            "fixed": {"feedback": "fixed"},
            "transpose-drop": BOTH,
            "learned-drop": PSI | BOTH,
            "fixed-drop": {"feedback": "fixed"} | BOTH,
        },
    ),
]
"""What the paper changes in each condition; everything else is Rule()."""


@pytest.mark.parametrize(("module", "words"), IN_WORDS, ids=["frozen", "scalability", "feedback"])
def test_conditions_are_those_of_the_paper(module, words):
    assert set(module.CONDITIONS) == set(words)
    for name, changed in words.items():
        condition = module.CONDITIONS[name]
        assert condition.method == ("bp" if changed is None else "ar")
        patterns = {k: v for k, v in (changed or {}).items() if isinstance(v, dict)}
        rule = {k: Rule(**v) for k, v in patterns.items()} or Rule(**(changed or {}))
        assert condition.rule == rule


def test_the_output_belongs_to_rules_by_pattern_too():
    config = scalability.Config(output="clamped", seeds=(0,))
    made = make_learner(config, scalability.CONDITIONS["psi-fc"], cnn_for("digits", "code"))
    assert isinstance(made.rule, dict)
    assert {rule.output for rule in made.rule.values()} == {"clamped"}
    assert ardyn.Relaxation(
        made.model, torch.zeros(1, 64), torch.zeros(1, 10), rule=made.rule, feedback=made.feedback
    ).dynamics.clamped


def test_the_variant_is_the_authors_network():
    sizes = {
        variant: [len(p) for n, p in make(torch.Generator()).named_parameters() if "weight" in n]
        for variant, make in ((v, cnn_for("cifar10", v)) for v in ("paper", "code"))
    }
    assert sizes == {"paper": [32, 64, 64, 120, 10], "code": [6, 16, 120, 120, 10]}


def test_a_condition_has_the_solver_of_its_scheme():
    config = euler_equivalence.Config(step=0.2)
    rule = Rule()
    assert config.solver(rule, "exact") == ClosedForm()
    assert config.solver(rule, "euler") == ClosedForm(Fixed("euler", 0.2))
    assert config.solver(rule, "sweep") == ClosedForm(Sweep(0.2))
    assert config.solver(rule, "explicit_adams") == Fixed("explicit_adams", 0.2)
    assert config.solver(rule, "dopri5") == Adaptive("dopri5")
    nonlinear = frozen_pass.Config(nonlinear_scheme="heun3", nonlinear_step=0.7)
    assert nonlinear.solver(frozen_pass.CONDITIONS["a"].rule, "exact") == Fixed("heun3", 0.7)
    assert nonlinear.solver(rule, "exact") == ClosedForm()


def test_seeds_epochs_and_test_samples_are_what_they_are_called(digits, tmp_path, monkeypatch):
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


def test_a_resumed_run_learns_nothing_twice(digits, tmp_path, monkeypatch):
    config = replace(SMALL, conditions=("ar", "c"), epochs=2)
    truth = run(config, digits, tmp_path)

    def step(self: object, *batch: object) -> None:
        raise AssertionError("a step that had been taken")

    monkeypatch.setattr(ardyn.Learner, "step", step)
    xr.testing.assert_identical(run(config, digits, tmp_path), truth)


def test_a_network_lost_in_its_last_batch_leaves_the_checkpoint(digits, tmp_path, monkeypatch):
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
    with pytest.raises(DivergenceError, match="epoch 2, batch 4 .*checkpoint of epoch 1 is"):
        run(config, digits, tmp_path)
    kept = checkpoints.load("ar")
    assert kept is not None
    assert kept["epoch"] == 1


def test_the_table_holds_means_and_standard_errors(digits, tmp_path):
    results = run(replace(SMALL, conditions=("ar",), seeds=(0, 1, 2)), digits, tmp_path)
    final = results.accuracy.isel(epoch=-1, condition=0).values
    (row,) = run_results.table(results).to_dict("records")
    assert row["test accuracy [%]"] == pytest.approx(final.mean())
    assert row["standard error"] == pytest.approx(final.std(ddof=1) / 3**0.5)
    assert (row["best"], row["worst"]) == (final.max(), final.min())


def test_traces_lie_between_the_current_and_the_frozen_activity(digits, tmp_path):
    few = replace(SMALL, conditions=("ar", "c"), tau_z=(1e-3, 5.0, 1e6), epochs=1)
    results = run(few, digits, tmp_path)
    last = results.test_loss.isel(epoch=-1)
    for near, end in (("z=0.001", "c"), ("z=1e+06", "ar")):
        np.testing.assert_allclose(last.sel(condition=near), last.sel(condition=end), rtol=1e-3)
    assert (last.sel(condition="ar") < last.sel(condition="z=5")).all()
    assert results.tau_z.values.tolist() == [np.inf, 0.0, 1e-3, 5.0, 1e6]
    assert results.gradient_angle.sel(condition="ar").max() < 10
    (tmp_path / "figures").mkdir()
    assert "trace" in {path.stem for path in draw_frozen_pass(results, tmp_path / "figures")}
