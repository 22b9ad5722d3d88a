"""Tracking of a gradient that moves as weights change, in the convergence study."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr

import ardyn
from ardyn import InputError
from plots.convergence import draw
from studies.convergence import Config, run
from studies.measuring import lag
from studies.problems import images
from studies.running.run_folder import RunFolder
from studies.running.variables import relaxation_summary as summary
from tests.oracles.problems import generator, problem

SLOW = Config(
    solver=("dopri5",),
    tau_x=(0.5,),
    tau_w=(1e3, 1e4),
    duration=12.0,
    sizes=(64, 12, 8, 10),
    batch_size=6,
    depths=(2,),
    rtol=1e-9,
    atol=1e-12,
)


@pytest.fixture(scope="module")
def digits():
    return images.load("digits", torch.float64)


@pytest.fixture(scope="module")
def results(digits):
    return run(SLOW, digits).sel(tau_x=0.5, solver="dopri5").isel(tau_psi=0, tau_z=0)


def test_the_lag_is_set_by_the_time_constants_above(results):
    delay = results.g_lag.isel(record=slice(50, None))
    # The gradient at fc2 depends on the weights above it alone: it is delayed by one leak.
    np.testing.assert_allclose(delay.sel(layer="fc2"), 0.5, rtol=2e-3)
    assert (delay.sel(layer="fc1") > 0.55).all()
    assert (delay.sel(layer="fc1") < 1.0).all()
    assert results.g_lag.sel(layer="fc3").isnull().all()


def test_the_lag_behind_bp_grows_with_time_as_the_pass_is_frozen(results):
    later = results.record[1:]
    age = results.bp_lag.isel(record=slice(1, None)).sel(layer="fc3") / later
    np.testing.assert_allclose(age.isel(record=slice(45, None)), 1, rtol=1e-4)
    assert (
        (results.bp_lag.isel(record=-1) > 4 * results.g_lag.isel(record=-1))
        .sel(layer=["fc1", "fc2"])
        .all()
    )
    assert (results.bp_lag.fillna(0) <= results.record * (1 + 1e-12)).all()


def test_slower_weights_are_tracked_with_a_smaller_error(results):
    for error, layers in (("g_error", ["fc1", "fc2"]), ("bp_error", ["fc1", "fc2", "fc3"])):
        last = results[error].isel(record=-1).sel(layer=layers)
        np.testing.assert_allclose(last.sel(tau_w=1e3) / last.sel(tau_w=1e4), 10, rtol=0.1)
    drift = results.bp_drift
    assert (drift.isel(record=0) == 0).all()
    last = drift.isel(record=-1)
    np.testing.assert_allclose(last.sel(tau_w=1e3) / last.sel(tau_w=1e4), 10, rtol=0.1)


def test_the_frozen_pass_differs_from_a_new_one_as_weights_change(results):
    start, end = (results.bp_error.isel(record=i) for i in (0, -1))
    np.testing.assert_allclose(start, results.g_error.isel(record=0), rtol=1e-9)
    for layer in ("fc1", "fc2"):
        assert (end.sel(layer=layer) > 1.5 * results.g_error.isel(record=-1).sel(layer=layer)).all()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"output": "clamped", "initial": "zero"},
        {"units": "operation"},
        {"relaxation_derivative": "current"},
    ],
    ids=str,
)
def test_nearly_constant_weights_do_not_change_the_relaxation(change, digits):
    config = replace(SLOW, tau_w=(1e12,), solver=("exact", "rk4", "sweep"), tau_x=(0.5, 2.0))
    if change.get("relaxation_derivative") == "current":
        config = replace(config, solver=("rk4", "sweep"))
    found = run(replace(config, **change), digits)
    still = found.relative_error.sel(time=found.record, method="nearest", tolerance=1e-9)
    moving = found.bp_error.isel(tau_w=0, tau_psi=0, tau_z=0)
    for solver in ("rk4", "sweep"):
        a, b = still.sel(solver=solver), moving.sel(solver=solver).transpose(*still[:, 0].dims)
        np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-10)
    assert ("g_error" in found) == ("exact" in config.solver)
    if "exact" in config.solver:
        assert moving.sel(solver="exact").isnull().all()


def test_time_constants_keep_the_order_they_were_given_in(digits):
    config = replace(SLOW, solver=("rk4", "exact"), tau_x=(2.0, 0.5), tau_w=(1e4, 1e3))
    found = run(config, digits)
    assert found.tau_x.values.tolist() == [2.0, 0.5]
    assert found.tau_w.values.tolist() == [1e4, 1e3]
    drift = found.bp_drift.sel(solver="rk4", layer="fc3").isel(record=-1).squeeze()
    assert (drift.sel(tau_w=1e3) > 5 * drift.sel(tau_w=1e4)).all()


def test_a_time_constant_at_which_every_solver_diverges_stays_on_the_axis(digits, monkeypatch):
    tracking = lag.tracking

    def fails_at_times(sim, *rest):
        if sim.dynamics.tau["fc1"] == 2.0:
            raise ardyn.DivergenceError("it diverged")
        return tracking(sim, *rest)

    monkeypatch.setattr(lag, "tracking", fails_at_times)
    found = run(replace(SLOW, solver=("rk4",), tau_x=(2.0, 0.5), tau_w=(1e3,)), digits)
    assert found.bp_error.sel(tau_x=2.0).isnull().all()
    assert found.bp_error.sel(tau_x=0.5).notnull().all()


def test_a_step_that_the_weights_do_not_allow_is_refused_before_any_work(digits, monkeypatch):
    monkeypatch.setattr(ardyn.Relaxation, "solve", None)
    with pytest.raises(InputError, match="step of 0.1 is longer than the weights' time constant"):
        run(replace(SLOW, solver=("exact", "rk4"), tau_w=(0.05, 1e3)), digits)


def test_results_of_other_solvers_remain_when_one_diverges(digits, capsys, tmp_path, monkeypatch):
    tracking = lag.tracking

    def fails_at_times(sim, duration, solver, shown):
        if isinstance(solver, ardyn.Fixed) and sim.plasticity.tau_weights == 1e3:
            raise ardyn.DivergenceError("it diverged")
        return tracking(sim, duration, solver, shown)

    monkeypatch.setattr(lag, "tracking", fails_at_times)
    found = run(replace(SLOW, solver=("euler", "dopri5")), digits)
    assert found.lost.item() == "euler at tau-x 0.5, tau-w 1000: it diverged"
    assert "warning: euler at" in capsys.readouterr().err
    here = found.bp_error.isel(tau_x=0, tau_psi=0, tau_z=0, record=-1)
    assert here.sel(solver="euler", tau_w=1e3).isnull().all()
    assert here.sel(solver="euler", tau_w=1e4).notnull().all()
    assert here.sel(solver="dopri5").notnull().all()
    figures = {path.stem for path in draw(found, tmp_path)}
    assert {"moving_gradient", "moving_lag"} < figures
    assert "lag behind BP" in summary(found)
    assert "NaN" not in summary(found).split("or the gradient is constant)")[1]
    none = run(replace(SLOW, solver=("euler",), tau_w=(1e3,)), digits)
    assert "bp_error" not in none
    assert "lag behind BP" not in summary(none)


def test_a_resumed_run_repeats_no_measurement(digits, tmp_path, monkeypatch):
    config = replace(
        SLOW, solver=("rk4", "euler"), tau_w=(1e3,), feedback="learned", tau_psi=(50.0, 60.0)
    )
    whole, tracking, calls = run(config, digits), lag.tracking, []

    def is_interrupted(sim, duration, solver, shown):
        calls.append(solver)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return tracking(sim, duration, solver, shown)

    monkeypatch.setattr(lag, "tracking", is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, digits, RunFolder(tmp_path))
    again = run(config, digits, RunFolder(tmp_path))
    assert [solver.method for solver in calls] == ["rk4", "euler", "rk4", "euler", "euler"]
    for name in ("bp_error", "bp_lag", "bp_drift", "g_error", "g_lag"):
        xr.testing.assert_identical(again[name], whole[name])


def test_feedback_weights_and_traces_change_the_results(digits, tmp_path):
    config = replace(
        SLOW, feedback="learned", tau_w=(50.0, 60.0), tau_psi=(20.0, 2000.0), tau_z=(1.0, 1e6)
    )
    results = run(config, digits).isel(solver=0, tau_x=0)
    drift = results.g_error.sel(layer="fc2", tau_w=50.0).isel(record=-1)
    assert drift.dims == ("tau_psi", "tau_z")
    assert (drift.sel(tau_psi=20.0) > 10 * drift.sel(tau_psi=2000.0)).all()
    assert len(np.unique(drift)) == 4
    assert len(np.unique(results.bp_drift.sel(layer="fc2").isel(record=-1))) == 8


def test_updates_are_averaged_over_the_batch():
    case, found = problem(), []
    for copies in (1, 3):
        sims = lag.relaxations(
            partial(
                ardyn.Relaxation,
                case.model,
                case.inputs.repeat(copies, 1),
                case.targets.repeat(copies, 1),
            ),
            ardyn.Rule(),
            tau_x=[1.0],
            tau_w=[50.0],
            tau_psi=[],
            tau_z=[],
        )
        (sim,) = sims.values()
        found.append(lag.tracking(sim, 5.0, ardyn.Fixed("rk4", 0.1), ["fc1", "fc2"]))
    np.testing.assert_allclose(found[0].bp_drift, found[1].bp_drift, rtol=1e-9)
    assert (found[0].bp_drift.isel(record=-1) > 0.01).all()


def test_the_lag_of_a_delayed_curve_is_its_delay():
    times = torch.linspace(0, 10, 101, dtype=torch.float64)

    def curve(t):
        return torch.stack([t.sin(), t**2], dim=1)[:, None]

    delay = lag.tracking_lag(times, curve((times - 0.9).clamp(min=0)), curve(times))
    np.testing.assert_allclose(delay[10:], 0.9, atol=2e-3)
    np.testing.assert_allclose(delay[1:9], times[1:9], atol=1e-12)
    assert delay[0].isnan()
    assert lag.tracking_lag(times, curve(times), torch.ones(101, 1, 2)).isnan().all()
    ahead = lag.tracking_lag(times, curve(times + 1), curve(times))
    assert ahead[10:].isnan().all()


@pytest.mark.parametrize("drift", [1e-3, 1e-6, 1e-9])
def test_the_lag_behind_a_slowly_moving_gradient_is_the_delay(drift):
    times = torch.linspace(0, 30, 61, dtype=torch.float64)
    at_first, way = torch.rand(2, 40, generator=generator(1), dtype=torch.float64)

    def curve(t):
        return at_first + drift * (t / 30)[:, None] * way

    delay = lag.tracking_lag(times, curve(times - 1.3), curve(times))
    np.testing.assert_allclose(delay[10:], 1.3, rtol=1e-5)


def test_the_lag_is_that_of_the_nearest_point_near_the_path_only():
    times = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    goal = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[0.3, 5.0], [0.3, 0.6], [2.5, -0.4]], dtype=torch.float64)
    np.testing.assert_allclose(lag.tracking_lag(times, x, goal)[1:], [0.7, 0.5], atol=1e-12)
    x = torch.tensor([[0.3, 5.0], [0.3, 0.8], [2.5, -0.6]], dtype=torch.float64)
    assert lag.tracking_lag(times, x, goal).isnan().all()  # further from the path than g(t) is


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tau_w": (1.0, 1.0)}, "tau-w needs different values only"),
        ({"tau_w": (-1.0,)}, "tau-w must be positive"),
        ({"tau_psi": (5.0,)}, "tau-psi needs learned feedback weights"),
        (
            {"tau_w": (), "tau_z": (5.0,)},
            "tau-z \\[5.0\\] has no effect, as only plastic weights use the trace",
        ),
        (
            {"solver": ("exact", "collocation")},
            "exact and collocation need constant weights, .* plastic weights are nonlinear",
        ),
    ],
)
def test_settings_without_effect_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        replace(SLOW, **change)
