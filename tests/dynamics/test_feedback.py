"""Feedback weights at random: their law, their shapes, and one for each place of a layer."""

import numpy as np
import pytest
import torch
from torch import nn

import ardyn
from tests.oracles.problems import generator


def test_it_is_normal_and_independent_of_the_weights():
    model = ardyn.mlp([300, 200], generator=generator())
    psi = ardyn.random_feedback(model, std=0.2, generator=generator(1))["fc1"]
    assert abs(float(psi.std()) / 0.2 - 1) < 0.02
    W = model.get_parameter("fc1.weight").detach()
    pairs = np.stack([each.flatten().cpu().numpy() for each in (psi.T, W)])
    assert abs(np.corrcoef(pairs)[0, 1]) < 0.02


def test_feedback_follows_the_generator_and_the_type():
    model = ardyn.mlp([4, 3], dtype=torch.float64)
    first, again = (ardyn.random_feedback(model, generator=generator(2))["fc1"] for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.float64


def test_every_call_of_a_shared_layer_has_feedback_of_its_own():
    layer = nn.Linear(4, 4)
    psi = ardyn.random_feedback(nn.Sequential(layer, nn.Tanh(), layer), generator=generator())
    assert set(psi) == {"0", "0_1"}
    assert not torch.equal(psi["0"], psi["0_1"])


def test_feedback_of_no_width_is_refused():
    with pytest.raises(ardyn.InputError, match="std must be positive"):
        ardyn.random_feedback(ardyn.mlp([4, 3]), std=-1.0)


def test_that_of_a_convolution_has_the_shape_of_its_flattened_kernel_transposed():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 4))
    psi = ardyn.random_feedback(model, generator=generator())
    assert {block: tuple(each.shape) for block, each in psi.items()} == {"0": (3, 2), "2": (6, 4)}
