"""studies/convergence.py as a user runs it, and its figures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import gammainccinv

import ardyn
from ardyn import Adaptive, DivergenceError
from plots.common import run_results
from plots.convergence import FIGURES, draw
from studies.convergence import Config, run
from studies.measuring import trajectories
from studies.problems import images, networks
from studies.running.variables import relaxation_summary as summary
from tests.oracles.problems import problem
from tests.studies.convergence_runs import DIGITS, FLAGS, SMALL, printed_by, study

EQUILIBRIUM = ("--reference", "equilibrium")


@pytest.fixture(scope="module")
def results():
    return run(SMALL, DIGITS)


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


def test_the_work_of_collocation_goes_over_tolerances():
    sim = problem().relaxation()
    found = trajectories.work_precision(sim, 1.0, "collocation", ardyn.ClosedForm())
    np.testing.assert_allclose(found.work_setting[:3], [1e-2, 1e-3, 1e-4])
    assert (found.work_error < 10 * found.work_setting).all()


def test_convergence_times_of_chains_are_the_analytic_ones(results):
    np.testing.assert_allclose(results.depth_law, gammainccinv(results.depth - 1, 1e-3))
    np.testing.assert_allclose(results.depth_measured, results.depth_law, rtol=1e-3)


def test_results_of_other_solvers_remain_when_one_fails(capsys, monkeypatch):
    def fail(self, system, times, stop=None):
        if self.method == "dopri5":
            raise DivergenceError("the relaxation diverged by t = 3")
        return solve(self, system, times, stop)

    solve = Adaptive.solve
    # The depth panel has its own solves; this failure is of the solvers that are compared.
    monkeypatch.setattr(
        "studies.measuring.trajectories.convergence_at_depth", lambda *_: xr.Dataset()
    )
    monkeypatch.setattr("ardyn.Adaptive.solve", fail)
    found = run(SMALL, DIGITS)
    assert "warning: dopri5 at tau-x 1: the relaxation diverged" in capsys.readouterr().err
    assert "dopri5 at tau-x 2: the relaxation diverged" in found.lost.item()
    assert found.relative_error.sel(solver="dopri5").isnull().all()
    assert found.relative_error.sel(solver=["exact", "euler"]).notnull().all()
    with pytest.raises(DivergenceError, match="every solver failed.*dopri5"):
        run(replace(SMALL, solver=("dopri5",)), DIGITS)


def test_every_variable_has_a_long_name_and_a_unit(results):
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
def test_a_variation_runs_and_is_not_computed_again(tmp_path, monkeypatch, capsys, flags):
    command = (*FLAGS, *flags, "--out", tmp_path, "--no-plot")
    assert study(monkeypatch, *command) == 0
    assert study(monkeypatch, *command) == 0
    assert "Already computed" in printed_by(capsys)
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
def test_other_networks_run_and_are_drawn(tmp_path, network, depths, lowest):
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
    # The analytic time is that of the longest path; with shorter paths the measured one is shorter.
    assert (found.depth_measured <= found.depth_law * 1.001).all()
    assert (found.depth_measured > 0.5 * found.depth_law).all()
    assert (np.diff(found.depth_default) > 0).all()
    (tmp_path / "DONE").touch()
    found.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    assert len(draw(run_results.results(tmp_path, "convergence"), tmp_path)) == 2 * len(FIGURES)


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


def test_every_setting_is_varied():
    elsewhere = {"network", "reference", "dataset", "device", "tau_w", "tau_psi", "tau_z"}
    assert set(OTHERWISE) | elsewhere == set(vars(TINY))


def test_stored_measures_are_those_of_the_trajectories(tiny):
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


@pytest.mark.parametrize(
    ("flags", "printed"),
    [
        (["--solver", "dopri55"], "dopri5"),
        (["--solver"], "one or more"),
        (["--tau-x", "0"], "positive"),
        (["--solver", "euler", "--step", "3", "--tau-x", "1"], "h/τ ≥ 2"),
        (["--relaxation-derivative", "current"], "dopri5"),
        (["--dataset", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
        (["--sizes", "64", "30"], "10, its classes"),
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
        (["--network", "cnn", "--sizes", "64", "10"], "no effect on the network 'cnn'"),
        (["--network", "lstm", "--depths", "7"], "64 pixels cannot be split into 7 segments"),
        (["--network", "lstn"], "lstm"),
        (["--relaxation-derivative", "current", "--solver", "rk4", *EQUILIBRIUM], "no closed form"),
    ],
)
def test_wrong_flags_give_an_error_message(tmp_path, monkeypatch, capsys, flags, printed):
    assert study(monkeypatch, "--out", tmp_path, *flags) == 2
    assert printed in printed_by(capsys)
    assert not list(tmp_path.iterdir())
