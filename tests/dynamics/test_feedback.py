"""Feedback weights at random: their law, their shapes, and how they are told apart."""

import pytest
import torch
from torch import nn

import ardyn
from tests.oracles.problems import assert_same, difference, generator


def network() -> nn.Module:
    """A convolution, and a layer that is used twice."""
    shared = nn.Linear(6, 6)
    return nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.Flatten(), shared, nn.Tanh(), shared, nn.Linear(6, 200)
    ).double()


@pytest.mark.parametrize("std", [0.05, 2.0])
def test_they_are_normal_with_the_deviation_asked_for(std):
    # 1200 numbers: their standard deviation is known to 2 %, their mean to 0.03 σ.
    psi = ardyn.random_feedback(network(), std, generator())["5"]
    assert float(psi.std()) == pytest.approx(std, rel=0.1)
    assert abs(float(psi.mean())) < 0.1 * std
    assert float((psi.abs() < std).double().mean()) == pytest.approx(0.683, abs=0.05)


def test_they_scale_with_the_deviation():
    one, three = (ardyn.random_feedback(network(), std, generator(2)) for std in (1.0, 3.0))
    assert_same(three, {block: 3 * psi for block, psi in one.items()}, 1e-15)


def test_each_place_of_a_layer_has_its_own_in_the_shape_of_the_transpose():
    psi = ardyn.random_feedback(network(), generator=generator())
    shapes = {"0": (3, 2), "2": (6, 6), "2_1": (6, 6), "5": (6, 200)}
    assert {block: tuple(each.shape) for block, each in psi.items()} == shapes
    assert {each.dtype for each in psi.values()} == {torch.float64}
    assert difference(psi["2"], psi["2_1"]) > 0.1
