"""The frozen-pass study: conditions, settings, traces."""

from dataclasses import replace

import numpy as np
import pytest

from plots.frozen_pass import draw as draw_frozen_pass
from tests.studies.small_runs import SMALL, run


def test_conditions_differ_as_in_the_paper(digits, tmp_path):
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
