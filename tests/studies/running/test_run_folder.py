"""Run folders and configurations, through the command line of the convergence study."""

import json
import re
import subprocess
import sys

import pytest
import xarray as xr

from plots.convergence import FIGURES
from tests.studies.convergence_runs import FLAGS, printed_by, study
from tests.studies.small_runs import ROOT


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder of runs, with one finished run of the script."""
    folder = tmp_path_factory.mktemp("runs")
    script = [sys.executable, str(ROOT / "studies/convergence.py")]
    subprocess.run([*script, *FLAGS, "--out", str(folder)], check=True, capture_output=True)
    return folder


def test_a_missing_manifest_is_written_again_and_a_damaged_one_is_refused(out, monkeypatch, capsys):
    (path,) = out.glob("convergence/*/manifest.json")
    text = path.read_text()
    path.write_text("{")
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot") == 2
    assert "cannot read manifest.json" in printed_by(capsys)
    path.unlink()
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot") == 0
    assert json.loads(path.read_text()).keys() == json.loads(text).keys()


def test_a_finished_run_has_all_files_and_no_partial_ones(out):
    (folder,) = (out / "convergence").iterdir()
    figures = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")}
    rest = {"config.json", "results.nc", "manifest.json", "DONE"}
    assert {path.name for path in folder.iterdir()} == figures | rest
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seeds"] == [0]
    assert manifest["data_checksum"] == xr.load_dataset(folder / "results.nc").data_checksum
    pdf = (folder / "depth.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, embedded


def test_a_finished_run_is_not_computed_again(out, monkeypatch, capsys):
    (path,) = out.glob("convergence/*/results.nc")
    before = path.stat().st_mtime_ns
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot") == 0
    assert "Already computed, finished 2" in printed_by(capsys)
    assert path.stat().st_mtime_ns == before
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot", "--overwrite") == 0
    assert path.stat().st_mtime_ns > before


def test_a_run_interrupted_while_drawing_is_not_computed_again(out, monkeypatch, capsys):
    (done,) = out.glob("convergence/*/DONE")
    done.unlink()
    figure = done.with_name("depth.png")
    figure.unlink()
    assert study(monkeypatch, *FLAGS, "--out", out) == 0
    assert "Already computed" in printed_by(capsys)
    assert done.exists()
    assert figure.stat().st_mtime_ns <= done.stat().st_mtime_ns


def test_a_finished_run_with_other_data_is_refused(out, monkeypatch, capsys):
    (path,) = out.glob("convergence/*/manifest.json")
    text = path.read_text()
    path.write_text(text.replace(json.loads(text)["data_checksum"], "0" * 64))
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot") == 2
    assert "other data" in printed_by(capsys)
    path.write_text(text)


def test_a_stored_config_gives_the_same_run_and_flags_override_it(out, monkeypatch, capsys):
    (stored,) = out.glob("convergence/*/config.json")
    assert study(monkeypatch, "--config", stored, "--out", out, "--no-plot") == 0
    assert "Already computed" in printed_by(capsys)
    assert study(monkeypatch, "--config", stored, "--tau-x", "-3", "--out", out) == 2
    assert "-3.0" in printed_by(capsys)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ('{"tau_x": [0]}', "tau-x must be positive and finite, got 0"),
        ('{"batch_size": 2.7}', "2.7 is of type float @ $.batch_size"),
        ('{"duration": true}', "True is of type bool @ $.duration"),
        ('{"duration": 3, "seed": 1.0}', "1.0 is of type float @ $.seed"),
        ("[]", "is not a configuration|cannot read"),
    ],
)
def test_the_error_of_an_invalid_config_says_why(tmp_path, monkeypatch, capsys, text, printed):
    path = tmp_path / "config.json"
    path.write_text(text)
    assert study(monkeypatch, "--config", path, "--out", tmp_path) == 2
    answer = printed_by(capsys)
    assert re.search(printed if "|" in printed else re.escape(printed), answer), answer


def test_a_config_of_another_study_is_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / "config.json"
    path.write_text('{"colour": "green"}')
    assert study(monkeypatch, "--config", path, "--out", tmp_path) == 2
    assert "colour" in printed_by(capsys)
