"""studies/timescales.py: measures, predictions, divergence, figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import plots.timescales
from plots.timescales import draw
from studies import timescales
from studies.problems import images
from studies.running.run_folder import RunFolder

SMALL = timescales.Config(
    solver="rk4",
    step=0.2,
    duration=5.0,
    tau_w=(1.0, 10.0, 1e6),
    window=(0.0, 0.9),
    stimuli=12,
    batch_size=16,
    depth=2,
)


@pytest.fixture(scope="module")
def digits() -> images.Sets:
    return images.Sets(*images.train_and_test("digits", torch.float64))


@pytest.fixture(scope="module")
def results(digits, tmp_path_factory):
    return timescales.run(SMALL, digits, RunFolder(tmp_path_factory.mktemp("runs")))


def test_slow_weights_follow_the_quasi_static_prediction(results):
    slow, fast = results.sel(tau_w=1e6), results.sel(tau_w=1.0)
    for name in ("cosine", "norm_ratio"):
        prediction = slow[f"quasi_static_{name}"]
        np.testing.assert_allclose(slow[name], prediction, rtol=1e-3)
        far = np.abs(fast[name] / fast[f"quasi_static_{name}"] - 1)
        assert not (far < 1e-2).any()
    assert results.quasi_static_cosine.sel(window=0.9, tau_w=1e6) > 0.999
    np.testing.assert_allclose(slow.quasi_static_norm_ratio.sel(window=0.9), 1, atol=0.05)
    assert results.quasi_static_cosine.sel(window=0.0, tau_w=1e6) < 0.999


def test_accuracy_is_the_predicted_one_where_weights_are_slow(results):
    last = results.isel(tau_psi=0).sel(tau_w=10.0, window=0.9)
    assert float(last.accuracy) == pytest.approx(float(last.quasi_static_accuracy), abs=3)
    assert float(last.accuracy) > 35


def test_the_figures_are_drawn_and_a_run_is_resumed(results, digits, tmp_path):
    assert {path.stem for path in draw(results, tmp_path)} == {
        "one_stimulus",
        "phase_map",
        "loss_map",
    }
    assert "NaN: training diverged" in timescales.summary(results)
    first = timescales.run(SMALL, digits, RunFolder(tmp_path / "run"))
    xr.testing.assert_identical(first, results)
    again = timescales.run(SMALL, digits, RunFolder(tmp_path / "run"))  # from the checkpoint
    xr.testing.assert_identical(again, results)


def test_the_map_of_differences_says_which_of_the_two_diverged():
    nan = np.nan
    coupled, predicted = xr.DataArray([1.0, nan, 3.0, nan]), xr.DataArray([3.0, 2.0, nan, nan])
    found = plots.timescales._difference(coupled, predicted)
    np.testing.assert_array_equal(found, [-2.0, -np.inf, np.inf, nan])
    assert [plots.timescales._cell_text(x) for x in found.values] == [
        "-2",
        "×\nODE",
        "×\npred.",
        "×",
    ]


def test_plastic_feedback_aligns_with_the_weights(digits, tmp_path):
    config = replace(
        SMALL,
        tau_psi=(10.0, 1000.0),
        tau_w=(10.0, 1e6),
        window=(0.5, 0.9),
        stimuli=20,
        duration=10.0,
    )
    found = timescales.run(config, digits, RunFolder(tmp_path))
    assert {path.stem for path in draw(found, tmp_path)} == {
        "one_stimulus",
        "phase_map",
        "loss_map",
        "angle_map",
    }
    for name in ("cosine", "norm_ratio"):  # activities see ψ, and never W
        np.testing.assert_allclose(found[name].isel(tau_w=0), found[name].isel(tau_w=1), rtol=1e-6)
    assert (np.ptp(found.cosine.values, axis=1) > 1e-3).all()
    angle = found.angle.sel(window=0.9)
    slow, fast = (float(angle.sel(tau_w=10.0, tau_psi=t)) for t in (1000.0, 10.0))
    assert 80 < slow < 100
    assert fast < slow - 0.5
    quasi = found.quasi_static_angle.sel(tau_w=1e6, tau_psi=1000.0)
    np.testing.assert_allclose(quasi, found.angle.sel(tau_w=1e6, tau_psi=1000.0), atol=0.01)
    accuracy = found.accuracy.sel(window=0.9, tau_psi=10.0)
    assert float(accuracy.sel(tau_w=10.0)) > float(accuracy.sel(tau_w=1e6)) + 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tau_w": (1.0,)}, "tau-w needs 2 or more different values"),
        ({"tau_w": (1.0, -1.0)}, "tau-w must be positive"),
        ({"window": (0.0, 1.0)}, "window must be at least 0"),
        ({"depth": 1}, "depth must be 2 or more"),
        ({"tau_psi": (2.0, 2.0)}, "tau-psi needs different values only"),
        ({"tau_psi": (0.0,)}, "tau-psi must be positive"),
        ({"solver": "exact"}, "unknown solver 'exact'"),
        ({"stimuli": 0}, "stimuli must be positive"),
        ({"seed": -1}, "seed must lie in"),
    ],
)
def test_bad_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)


@pytest.mark.parametrize("stimuli", [1, 12])
def test_training_counts_as_diverged_whether_or_not_its_weights_are_finite(
    stimuli, digits, tmp_path
):
    config = replace(SMALL, tau_w=(0.25, 1e6), window=(0.0, 0.5), stimuli=stimuli)
    results = timescales.run(config, digits, RunFolder(tmp_path))
    found = results.isel(tau_psi=0)
    for name in ("accuracy", "quasi_static_accuracy", "loss"):
        assert found[name].sel(tau_w=0.25).isnull().all()
        assert found[name].sel(tau_w=1e6).notnull().all()
    assert draw(results.where(results.tau_w < 0), tmp_path)  # figures of NaN alone


def test_nearly_equal_time_constants_have_separate_results(digits, tmp_path):
    config = replace(SMALL, tau_w=(30.0, 30.00001), window=(0.5, 0.9), stimuli=1)
    found = timescales.run(config, digits, RunFolder(tmp_path)).norm_ratio.isel(tau_psi=0)
    assert (found.isel(tau_w=0) != found.isel(tau_w=1)).all()


def test_a_step_longer_than_the_weights_allow_is_refused_before_any_work(digits, tmp_path):
    config = replace(SMALL, solver="euler", step=0.5, tau_w=(0.2, 1.0))
    with pytest.raises(ValueError, match="step of 0.5 is longer than the weights' time constant"):
        timescales.run(config, digits, RunFolder(tmp_path))
