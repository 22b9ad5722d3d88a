"""The feedback study: angles between ψ and Wᵀ, and between gradients."""

import numpy as np

from plots.feedback import draw as draw_feedback
from studies import feedback
from tests.studies.small_runs import run


def test_learned_feedback_aligns_from_an_angle_near_90_degrees(digits, tmp_path):
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


def test_angles_of_a_single_layer_are_drawn(digits, tmp_path):
    results = run(feedback.Config(hidden=(), epochs=1, seeds=(0,)), digits, tmp_path, feedback)
    assert {"angles", "accuracy"} <= {path.stem for path in draw_feedback(results, tmp_path)}
