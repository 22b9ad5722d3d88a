"""The Euler-equivalence study: weights against SciPy, predicted against measured errors."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from plots.euler_equivalence import draw as draw_euler_equivalence
from studies import euler_equivalence
from studies.euler_equivalence import scheme_named, total_variation
from tests.studies.small_runs import run

LAGS = np.arange(300)
POISSON = stats.poisson(10).pmf(LAGS)


@pytest.mark.parametrize("step", [0.01, 0.1, 0.5, 1.0])
def test_eulers_weights_are_binomial_and_within_le_cams_bound(step):
    n = round(10 / step)
    distance = total_variation(scheme_named("euler", step), 10.0)
    truth = np.abs(stats.binom(n, step).pmf(LAGS) - POISSON).sum() / 2
    assert distance == pytest.approx(truth, abs=1e-10)
    assert distance <= step


@pytest.mark.parametrize("step", [0.01, 0.1, 0.5])
def test_the_sweeps_weights_are_negative_binomial(step):
    n = round(10 / step)
    truth = np.abs(stats.nbinom(n, 1 - step).pmf(LAGS) - POISSON).sum() / 2
    assert total_variation(scheme_named("sweep", step), 10.0) == pytest.approx(truth, abs=1e-10)


def test_predicted_errors_are_the_measured_ones(digits, tmp_path):
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
    drawn = draw_euler_equivalence(results, folder)
    assert {path.stem for path in drawn} == {
        *("accuracy", "table", "weights", "errors", "to_backprop", "training")
    }
    assert "weights to the ODE's (total variation)" in euler_equivalence.summary(results)
    assert not np.allclose(results.state_error.isel(stage=0), results.state_error.isel(stage=1))
    losses = results.test_loss.isel(epoch=-1, seed=0).values.tolist()
    assert len(set(losses)) == len(losses)
    clamped = run(replace(config, output="clamped"), digits, tmp_path / "2", euler_equivalence)
    assert not np.allclose(results.bp_error, clamped.bp_error)


def test_a_single_scheme_is_not_compared(digits, tmp_path):
    config = euler_equivalence.Config(
        hidden=(8,), epochs=1, seeds=(0,), stages=(0,), steps=(0.1, 0.2), iterations=(10, 100)
    )
    config = replace(config, trained_with=("exact",), schemes=("euler",))
    results = run(config, digits, tmp_path, euler_equivalence)
    assert "training" not in {path.stem for path in draw_euler_equivalence(results, tmp_path)}
