"""studies/convergence.py as a user runs it, and its figures."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import gammainccinv

import ardyn
from ardyn import Adaptive, DivergenceError, InputError
from plots.common import run_results
from plots.convergence import FIGURES, draw
from studies.convergence import Config, run
from studies.problems import images, networks
from studies.running.command_line import main, training_set
from studies.running.variables import relaxation_summary as summary

DIGITS = images.load("digits", torch.float64)
ROOT = Path(__file__).parents[2]
SMALL = Config(
    solver=("exact", "euler", "dopri5"),
    tau_x=(1.0, 2.0),
    duration=20.0,
    sizes=(64, 12, 10),
    batch_size=6,
    depths=(2, 5),
)
FLAGS = [
    *(
        "--solver",
        "exact",
        "euler",
        "--tau-x",
        "1",
        "--duration",
        "12",
        "--sizes",
        "64",
        "12",
        "10",
    ),
    *("--batch-size", "6", "--depths", "2", "3"),
]


EQUILIBRIUM = ("--reference", "equilibrium")


def study(monkeypatch, *flags):
    """The command line, in this process; returns the exit status."""
    monkeypatch.setattr("sys.argv", ["convergence.py", *map(str, flags)])
    try:
        main("convergence", Config, lambda c, d, _: run(c, d), summary, draw, "", training_set)
    except SystemExit as end:
        return end.code
    return 0


def said(capsys):
    """Everything printed, without the boxes around it."""
    captured = capsys.readouterr()
    return re.sub(r"[│\s]+", " ", captured.err + captured.out)


@pytest.fixture(scope="module")
def results():
    return run(SMALL, DIGITS)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder of runs, with one that a user made from a shell."""
    folder = tmp_path_factory.mktemp("runs")
    script = [sys.executable, str(ROOT / "studies/convergence.py")]
    subprocess.run([*script, *FLAGS, "--out", str(folder)], check=True, capture_output=True)
    return folder


def test_measured_convergence_times_are_the_predicted_ones_which_scale_with_tau(results):
    predicted = results.predicted_time
    np.testing.assert_allclose(2 * predicted.sel(tau_x=1), predicted.sel(tau_x=2), rtol=1e-9)
    measured = results.convergence_time.sel(solver=["exact", "dopri5"])
    np.testing.assert_allclose(*xr.broadcast(measured, predicted), rtol=1e-3)


def test_deviation_is_zero_for_exact_and_largest_for_euler(results):
    worst = results.deviation.max(["tau_x", "layer", "time"])
    assert worst.sel(solver="exact") < 1e-12
    assert worst.sel(solver="dopri5") < 1e-4 < worst.sel(solver="euler")


def test_activities_end_at_the_stored_gradients(results):
    end = results.activity.sel(tau_x=1).isel(time=-1)
    np.testing.assert_allclose(end.sel(solver="exact"), results.gradient, rtol=1e-4)


def test_euler_error_falls_with_its_step_and_work_counts_the_steps(results):
    euler = results.sel(solver="euler")
    np.testing.assert_array_equal(euler.work_evaluations, 5 * 2.0 ** np.arange(7))
    slope = np.diff(np.log2(euler.work_error))[-1]
    assert slope == pytest.approx(-1, abs=0.1)


def test_depth_follows_the_law(results):
    np.testing.assert_allclose(results.depth_law, gammainccinv(results.depth - 1, 1e-3))
    np.testing.assert_allclose(results.depth_measured, results.depth_law, rtol=1e-3)


def test_a_solver_that_fails_leaves_the_others_their_results(capsys, monkeypatch):
    def fail(self, system, times, stop=None):
        if self.method == "dopri5":
            raise DivergenceError("the relaxation left the finite numbers by t = 3")
        return solve(self, system, times, stop)

    solve = Adaptive.solve
    # The depth panel has its own solves; this failure is of the solvers that are compared.
    monkeypatch.setattr(
        "studies.measuring.trajectories.convergence_at_depth", lambda *_: xr.Dataset()
    )
    monkeypatch.setattr("ardyn.Adaptive.solve", fail)
    found = run(SMALL, DIGITS)
    assert "warning: dopri5 at tau-x 1: the relaxation left" in capsys.readouterr().err
    assert "dopri5 at tau-x 2: the relaxation left" in found.lost.item()
    assert found.relative_error.sel(solver="dopri5").isnull().all()
    assert found.relative_error.sel(solver=["exact", "euler"]).notnull().all()
    with pytest.raises(DivergenceError, match="every solver failed.*dopri5"):
        run(replace(SMALL, solver=("dopri5",)), DIGITS)


def test_every_variable_explains_itself(results):
    for name in results.variables:
        assert results[name].attrs["long_name"], name
        assert results[name].dtype.kind in "UOT" or results[name].attrs["units"], name


def test_the_table_names_every_solver(results):
    assert all(name in summary(results) for name in SMALL.solver)


def test_a_nonlinear_rule_under_a_clamped_output_runs_and_draws(tmp_path):
    config = replace(SMALL, solver=("dopri5",), tau_x=(1.0,), output="clamped")
    config = replace(config, relaxation_derivative="current")
    (tmp_path / "DONE").touch()
    run(config, DIGITS).to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    assert len(draw(run_results.results(tmp_path, "convergence"), tmp_path)) == 2 * len(FIGURES)


@pytest.mark.parametrize(
    "flags",
    [
        ("--solver", "rk4", "--relaxation-derivative", "current"),
        ("--dtype", "float32"),
        ("--feedback", "fixed", *EQUILIBRIUM, "--duration", "20"),
    ],
    ids=["nonlinear", "float32", "feedback"],
)
def test_a_variation_runs_to_its_end_and_is_then_found(tmp_path, monkeypatch, capsys, flags):
    command = (*FLAGS, *flags, "--out", tmp_path, "--no-plot")
    assert study(monkeypatch, *command) == 0
    assert study(monkeypatch, *command) == 0
    assert "Already computed" in said(capsys)
    (path,) = tmp_path.glob("convergence/*/results.nc")
    found = xr.load_dataset(path)
    assert found.lost.item() == ""
    assert found.relative_error.notnull().all()
    if "--feedback" in flags:
        assert float(found.relative_error.isel(time=-1).max()) < 1e-4


@pytest.mark.parametrize(
    ("network", "depths", "lowest"),
    [("cnn", (2, 3), "conv1"), ("transformer", (1,), "embed"), ("lstm", (2, 4), "cell.0")],
)
def test_graphs_relax_too(tmp_path, network, depths, lowest):
    config = replace(
        Config(network=network, depths=depths, layers=3, batch_size=3),
        solver=("exact", "euler"),
        tau_x=(1.0,),
        duration=10.0,
    )
    found = run(config, DIGITS)
    assert found.sizes["layer"] == 3
    assert lowest in found.layer.values
    last = found.relative_error.isel(time=-1, tau_x=0)
    assert (last < found.relative_error.isel(time=0, tau_x=0)).all()
    # The longest path sets the law, and shorter ones lead the way.
    assert (found.depth_measured <= found.depth_law * 1.001).all()
    assert (found.depth_measured > 0.5 * found.depth_law).all()
    assert (np.diff(found.depth_default) > 0).all()
    (tmp_path / "DONE").touch()
    found.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    assert len(draw(run_results.results(tmp_path, "convergence"), tmp_path)) == 2 * len(FIGURES)


def test_what_is_missing_from_a_finished_run_is_made_again_or_told(out, monkeypatch, capsys):
    (path,) = out.glob("convergence/*/manifest.json")
    text = path.read_text()
    path.write_text("{")
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot") == 2
    assert "cannot read manifest.json" in said(capsys)
    path.unlink()
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot") == 0
    assert json.loads(path.read_text()).keys() == json.loads(text).keys()


def test_results_that_lack_a_variable_are_not_drawn(results, tmp_path):
    (tmp_path / "DONE").touch()
    results.drop_vars("cosine").to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"results.nc lacks cosine; run the study again"):
        run_results.results(tmp_path, "convergence")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"tau_x": [0]}', "tau-x must be positive and finite, got 0"),
        ('{"batch_size": 2.7}', "2.7 is of type float @ $.batch_size"),
        ('{"duration": true}', "True is of type bool @ $.duration"),
        ('{"duration": 3, "seed": 1.0}', "1.0 is of type float @ $.seed"),
        ("[]", "is not a configuration|cannot read"),
    ],
)
def test_a_config_that_makes_no_sense_says_why(tmp_path, monkeypatch, capsys, text, told):
    path = tmp_path / "config.json"
    path.write_text(text)
    assert study(monkeypatch, "--config", path, "--out", tmp_path) == 2
    answer = said(capsys)
    assert re.search(told if "|" in told else re.escape(told), answer), answer


def test_a_run_leaves_everything_and_no_parts(out):
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
    assert "Already computed, finished 2" in said(capsys)
    assert path.stat().st_mtime_ns == before
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot", "--overwrite") == 0
    assert path.stat().st_mtime_ns > before


def test_a_run_that_was_stopped_while_drawing_is_not_computed_again(out, monkeypatch, capsys):
    (done,) = out.glob("convergence/*/DONE")
    done.unlink()
    figure = done.with_name("depth.png")
    figure.unlink()
    assert study(monkeypatch, *FLAGS, "--out", out) == 0
    assert "Already computed" in said(capsys)
    assert done.exists()
    assert figure.stat().st_mtime_ns <= done.stat().st_mtime_ns


TINY = replace(SMALL, solver=("euler", "dopri5"), tau_x=(1.0,), depths=(2,), duration=6.0)
TINY = replace(TINY, sizes=(64, 12, 11, 10))


@pytest.fixture(scope="module")
def tiny():
    return run(TINY, DIGITS)


OTHERWISE: dict[str, Any] = {
    "solver": ("euler", "rk4"),
    "tau_x": (1.5,),
    "duration": 7.0,
    "step": 0.2,
    "rtol": 1e-3,
    "atol": 1e-2,
    "tolerance": 1e-2,
    "feedback": "fixed",
    "relaxation_derivative": "dropped",
    "output": "clamped",
    "initial": "zero",
    "units": "operation",
    "sizes": (64, 11, 10),
    "activation": "relu",
    "loss": "mse",
    "batch_size": 5,
    "layers": 1,
    "neurons": 3,
    "depths": (3,),
    "seed": 1,
    "dtype": "float32",
}
"""Another value for every setting; network and reference have tests of their own."""


@pytest.mark.parametrize("name", OTHERWISE)
def test_every_setting_changes_the_results(tiny, name):
    config = replace(TINY, **{name: OTHERWISE[name]})
    digits = images.load("digits", getattr(torch, config.dtype))
    clocks = ["wall_time", "work_wall_time"]
    other = run(config, digits).drop_vars(clocks)
    assert not other.equals(tiny.drop_vars(clocks))


def test_every_setting_is_tried():
    elsewhere = {"network", "reference", "dataset", "device", "tau_w", "tau_psi", "tau_z"}
    assert set(OTHERWISE) | elsewhere == set(vars(TINY))


def test_what_is_stored_is_what_the_relaxation_says(tiny):
    generator = torch.Generator().manual_seed(TINY.seed)
    inputs, targets = DIGITS.batch(TINY.batch_size, generator)
    model = ardyn.mlp(TINY.sizes, generator=generator).double()
    sim = ardyn.Relaxation(model, inputs, targets)
    relaxed = sim.solve(tiny.time.values, ardyn.Fixed("euler", TINY.step))
    exact = sim.solve(tiny.time.values)
    euler = tiny.sel(solver="euler", tau_x=1.0)
    for unit in ("fc1", "fc2", "fc3"):
        x, g = relaxed[unit].numpy(), sim.gradients[unit].numpy()
        here = euler.sel(layer=unit)
        size = np.linalg.norm(g)
        flat, goal = x.reshape(len(x), -1), g.ravel()
        lengths = np.linalg.norm(flat, axis=1)
        strongest = np.sort(np.argsort(abs(g[0]))[-TINY.neurons :])
        truth = {
            "relative_error": np.linalg.norm(flat - goal, axis=1) / size,
            "cosine": flat @ goal / lengths / size,
            "norm_ratio": lengths / size,
            "deviation": np.linalg.norm(x - exact[unit].numpy(), axis=(1, 2)) / size,
            "neuron_number": strongest,
            "activity": x[:, 0, strongest],
            "gradient": g[0, strongest],
        }
        for name, value in truth.items():
            np.testing.assert_allclose(here[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    deep = networks.deep("mlp", 64, 2, 10, torch.Generator().manual_seed(TINY.seed)).double()
    first = ardyn.Relaxation(deep, inputs[:8], targets[:8]).exact_convergence_time(1e-3)["0"]
    np.testing.assert_allclose(tiny.depth_default, first, rtol=1e-9)


def test_a_finished_run_with_other_data_is_not_passed_off(out, monkeypatch, capsys):
    (path,) = out.glob("convergence/*/manifest.json")
    text = path.read_text()
    path.write_text(text.replace(json.loads(text)["data_checksum"], "0" * 64))
    assert study(monkeypatch, *FLAGS, "--out", out, "--no-plot") == 2
    assert "other data" in said(capsys)
    path.write_text(text)


def test_a_stored_config_gives_the_same_run_and_flags_override_it(out, monkeypatch, capsys):
    (stored,) = out.glob("convergence/*/config.json")
    assert study(monkeypatch, "--config", stored, "--out", out, "--no-plot") == 0
    assert "Already computed" in said(capsys)
    assert study(monkeypatch, "--config", stored, "--tau-x", "-3", "--out", out) == 2
    assert "-3.0" in said(capsys)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--solver", "dopri55"], "dopri5"),
        (["--solver"], "one or more"),
        (["--tau-x", "0"], "positive"),
        (["--solver", "euler", "--step", "3", "--tau-x", "1"], "h/τ ≥ 2"),
        (["--relaxation-derivative", "current"], "dopri5"),
        (["--dataset", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
        (["--sizes", "64", "30"], "10 classes"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--out", "/proc/nowhere"], "cannot write to /proc"),
        (["--batch-size", "5000"], "1797"),
        (["--neurons", "400"], "400"),
        (["--depths", "1"], "at least 2"),
        (["--duration", "1e9"], "million"),
        (["--config", "/nowhere/config.json"], "/nowhere/config.json"),
        (["--loss", "ssee"], "sse"),
        (["--tolerance", "2"], "tolerance must be below 1"),
        (["--threads", "0"], "threads must lie in 1"),
        (["--seed", "99999999999999999999"], "seed must lie in"),
        (["--device", "meta"], "no device 'meta' on this machine"),
        (["--network", "cnn", "--sizes", "64", "10"], "belong to the network 'mlp'"),
        (["--network", "lstm", "--depths", "7"], "64 pixels cannot be cut into 7 pieces"),
        (["--network", "lstn"], "lstm"),
        (["--relaxation-derivative", "current", "--solver", "rk4", *EQUILIBRIUM], "no closed form"),
    ],
)
def test_wrong_flags_are_answered_in_a_sentence(tmp_path, monkeypatch, capsys, flags, told):
    assert study(monkeypatch, "--out", tmp_path, *flags) == 2
    assert told in said(capsys)
    assert not list(tmp_path.iterdir())


def test_an_incomplete_results_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no DONE"):
        run_results.results(tmp_path, "convergence")
    (tmp_path / "DONE").touch()
    (tmp_path / "results.nc").write_bytes(b"half a file")
    with pytest.raises(InputError, match="run the study again"):
        run_results.results(tmp_path, "convergence")


def test_the_plot_script_refuses_a_folder_without_results(tmp_path):
    script = [sys.executable, str(ROOT / "plots/convergence.py"), str(tmp_path)]
    refused = subprocess.run(script, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")


def test_a_config_of_another_study_is_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / "config.json"
    path.write_text('{"colour": "green"}')
    assert study(monkeypatch, "--config", path, "--out", tmp_path) == 2
    assert "colour" in said(capsys)
