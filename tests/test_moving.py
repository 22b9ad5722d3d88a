"""Weights that learn during the convergence study: what activities follow, how far behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ardyn
from ardyn import InputError
from plots.convergence import draw
from studies import data, moving
from studies.convergence import Config, run
from tests.problems import problem

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
def results():
    return run(SLOW, data.load("digits", torch.float64))


def test_activities_lag_behind_by_the_time_constants_on_the_way(results):
    here = results.isel(tau_psi=0, tau_z=0)
    # What sends back to fc2 is the weights above it alone: one leak lies between.
    np.testing.assert_allclose(here.lag.sel(layer="fc2"), 0.5, atol=0.06)
    assert (here.lag.sel(layer="fc1") > 0.55).all()
    assert (here.lag.sel(layer="fc1") < 1.06).all()
    assert here.lag.sel(layer="fc3").isnull().all()


def test_slower_weights_are_followed_more_closely(results):
    last = results.moving_error.isel(record=-1, tau_psi=0, tau_z=0)
    ratio = last.sel(tau_w=1e3) / last.sel(tau_w=1e4)
    np.testing.assert_allclose(ratio.sel(layer=["fc1", "fc2"]), 10, rtol=0.1)
    drift = results.drift.isel(record=-1, tau_psi=0, tau_z=0)
    assert (drift.sel(tau_w=1e3, layer="fc1") > 5 * drift.sel(tau_w=1e4, layer="fc1")).all()


def test_what_was_frozen_goes_stale_as_weights_move(results):
    start, end = (results.bp_error.isel(record=i, tau_psi=0, tau_z=0) for i in (0, -1))
    np.testing.assert_allclose(start, results.moving_error.isel(record=0).squeeze(), rtol=0.05)
    following = results.moving_error.isel(record=-1, tau_psi=0, tau_z=0)
    for layer in ("fc1", "fc2"):
        assert (end.sel(layer=layer) > 1.5 * following.sel(layer=layer)).all()
    assert (end.sel(tau_w=1e3) > 5 * end.sel(tau_w=1e4)).all()


def test_the_figure_is_drawn(results, tmp_path):
    assert "moving_gradient" in {path.stem for path in draw(results, tmp_path)}


def test_feedback_weights_and_traces_move_too():
    config = replace(
        SLOW, feedback="learned", tau_w=(50.0,), tau_psi=(20.0, 2000.0), tau_z=(1.0, 1e6)
    )
    results = run(config, data.load("digits", torch.float64))
    drift = results.drift.sel(layer="fc2", tau_w=50.0).isel(record=-1)
    assert drift.dims == ("tau_psi", "tau_z")
    assert (drift.sel(tau_psi=20.0) > 10 * drift.sel(tau_psi=2000.0)).all()
    assert len(np.unique(drift)) == 4


def test_what_a_batch_teaches_is_averaged():
    case, found = problem(), []
    for copies in (1, 3):
        sim = ardyn.Relaxation(
            case.model,
            case.inputs.repeat(copies, 1),
            case.targets.repeat(copies, 1),
            plasticity=moving.plasticity(50.0, float("inf")),
        )
        found.append(moving.follow(sim, 5.0, ardyn.Fixed("rk4", 0.1), ["fc1", "fc2"], 0.01))
    np.testing.assert_allclose(found[0].drift, found[1].drift, rtol=1e-9)
    assert (found[0].drift.isel(record=-1) > 0.01).all()


def test_the_lag_of_a_shifted_curve_is_its_shift():
    times = torch.linspace(0.1, 10, 100, dtype=torch.float64)
    goal = torch.stack([times.sin(), times**2], dim=1)[:, None]
    shifted = torch.stack([(times - 0.9).sin(), (times - 0.9) ** 2], dim=1)[:, None]
    assert float(moving.lag(times, shifted, goal)) == pytest.approx(0.9, abs=0.06)
    assert moving.lag(times, shifted, torch.ones_like(goal)).isnan()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tau_w": (1.0, 1.0)}, "tau-w must be different"),
        ({"tau_w": (-1.0,)}, "tau-w must be positive"),
        ({"tau_psi": (5.0,)}, "tau-psi is of feedback weights that learn"),
        ({"tau_w": (), "tau_z": (5.0,)}, "tau-z is of a trace that learning weights read"),
        ({"solver": ("exact",)}, "a solver beside exact"),
        ({"relaxation_derivative": "current"}, "needs a frozen or dropped relaxation derivative"),
    ],
)
def test_settings_that_move_nothing_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        replace(SLOW, **change)
