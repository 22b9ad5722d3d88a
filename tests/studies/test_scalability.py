"""The scalability study, and its networks."""

from dataclasses import replace

import numpy as np
import torch

import ardyn
from studies import scalability
from studies.problems.networks import cnn_for
from tests.studies.small_runs import run


def test_every_condition_trains(digits, tmp_path):
    config = scalability.Config(
        conditions=tuple(scalability.CONDITIONS), epochs=1, seeds=(3,), variant="code"
    )
    few = replace(digits.train, inputs=digits.train.inputs[:64], targets=digits.train.targets[:64])
    results = run(config, replace(digits, train=few), tmp_path, scalability)
    losses = results.test_loss.isel(epoch=-1, seed=0).values
    assert np.isfinite(losses).all()
    assert len(set(losses)) == len(losses)
    authors = cnn_for("digits", "code")(torch.Generator().manual_seed(3))
    loss, _ = ardyn.evaluate(authors, digits.test.inputs, digits.test.targets)
    np.testing.assert_allclose(results.test_loss.isel(epoch=0, seed=0), float(loss), rtol=1e-5)


def test_the_variant_is_the_authors_network():
    sizes = {
        variant: [len(p) for n, p in make(torch.Generator()).named_parameters() if "weight" in n]
        for variant, make in ((v, cnn_for("cifar10", v)) for v in ("paper", "code"))
    }
    assert sizes == {"paper": [32, 64, 64, 120, 10], "code": [6, 16, 120, 120, 10]}
