"""The command line of the studies that train: stored runs, interruptions, refused settings."""

import json
from typing import Any

import pytest

from plots.common import run_results
from studies.running.checkpoints import Checkpoints
from tests.studies.small_runs import FLAGS, manifest_of


def test_a_run_is_stored_with_its_table_and_figures(study, tmp_path):
    status, printed = study("frozen_pass", *FLAGS, "--conditions", "bp", "c", out=tmp_path)
    assert status == 0, printed
    assert "Test accuracy on digits after 3 epochs" in printed
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


def test_an_interrupted_run_needs_resume_or_overwrite(study, tmp_path):
    flags = [*FLAGS, "--conditions", "ar", "--no-plot"]
    assert study("frozen_pass", *flags, out=tmp_path)[0] == 0
    (folder,) = tmp_path.glob("frozen_pass/*")
    (folder / "results.nc").unlink()
    status, printed = study("frozen_pass", *flags, out=tmp_path)
    assert status == 2
    assert "continue with --resume, or start again with --overwrite" in printed
    assert study("frozen_pass", *flags, "--resume", out=tmp_path)[0] == 0


def test_an_interruption_prints_how_to_resume_and_the_manifest_records_it(
    study, tmp_path, monkeypatch
):
    flags = [*FLAGS, "--conditions", "ar", "--no-plot"]
    status, printed = study("frozen_pass", *flags, "--resume", "--epochs", 1, out=tmp_path)
    assert (status, "Nothing to resume: this run has no checkpoints" in printed) == (0, True)
    assert not manifest_of(tmp_path)["resumed"]

    save = Checkpoints.save

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def save_and_be_interrupted(*state: Any) -> None:
        save(*state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        status, printed = study("frozen_pass", *flags, out=tmp_path / "long")
        assert (status, "interrupted; no checkpoint was saved" in printed) == (130, True)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_be_interrupted)
        status, printed = study("frozen_pass", *flags, out=tmp_path / "long")
        assert (status, "interrupted; continue with --resume" in printed) == (130, True)
    status, printed = study("frozen_pass", *flags, "--resume", out=tmp_path / "long")
    assert (status, "Nothing to resume" in printed) == (0, False)
    assert manifest_of(tmp_path / "long")["resumed"]
    (folder,) = (tmp_path / "long").glob("*/*")
    status, printed = study("frozen_pass", "--config", folder, out=tmp_path / "long")
    assert (status, "Already computed" in printed) == (0, True)


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
    status, printed = study(name, *flags, out=tmp_path)
    assert status == 2
    assert words in printed
    assert not list(tmp_path.iterdir())
