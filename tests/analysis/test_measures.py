import numpy as np
import pytest
import torch
from torch import nn

import ardyn
from ardyn.analysis import measures as compare
from tests.oracles.problems import (
    ACTIVATIONS,
    LOSSES,
    assert_same,
    difference,
    fill_biases,
    generator,
    problem,
)

TIMES, BATCH = 3, 4


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = generator()
    x = torch.randn(TIMES, BATCH, 2, 5, generator=g, dtype=torch.float64)
    return x, torch.randn(BATCH, 2, 5, generator=g, dtype=torch.float64)


def norm(x: np.ndarray) -> float:
    return float(np.sqrt((x**2).sum()))


MEASURES = {
    compare.relative_error: lambda x, g: norm(x - g) / norm(g),
    compare.cosine: lambda x, g: float((x * g).sum()) / norm(x) / norm(g),
    compare.norm_ratio: lambda x, g: norm(x) / norm(g),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_is_its_formula_over_the_batch(measure):
    x, g = pair()
    truth = [MEASURES[measure](x[t].cpu().numpy(), g.cpu().numpy()) for t in range(TIMES)]
    assert difference(measure(x, g), truth) < 1e-14


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_is_its_formula_per_sample(measure):
    x, g = pair()
    truth = [
        [MEASURES[measure](x[t, s].cpu().numpy(), g[s].cpu().numpy()) for s in range(BATCH)]
        for t in range(TIMES)
    ]
    assert difference(measure(x, g, per_sample=True), truth) < 1e-14


def test_a_vanishing_gradient_is_infinitely_far():
    x, g = pair()
    assert compare.relative_error(x, 0 * g).isinf().all()


def test_the_cosine_sees_direction_alone():
    _, g = pair()
    assert difference(compare.cosine(torch.stack([3 * g, -g]), g), [1.0, -1.0]) < 1e-15


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_autograd(activation, loss):
    case = problem(activation=activation, loss=loss)
    assert_same(case.relaxation().gradients, case.unit_gradients(), 1e-14)


@pytest.mark.parametrize(
    "modules",
    [
        [nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 3), nn.Hardtanh(inplace=True)],
        [nn.ReLU(inplace=True), nn.Linear(4, 3)],
    ],
    ids=["on layers", "on the input"],
)
def test_gradients_survive_operations_in_place(modules):
    model = nn.Sequential(*modules).double()
    fill_biases(model, generator(1))
    inputs = torch.randn(5, 4, generator=generator(2), dtype=torch.float64)
    targets = torch.randn(5, 3, generator=generator(3), dtype=torch.float64)
    x, truth = inputs.clone(), {}
    units = ("0", "0", "2", "2") if len(modules) == 4 else ("0", "1")
    for unit, module in zip(units, modules, strict=True):
        x = truth[unit] = module(x.clone()).requires_grad_()
    gradients = torch.autograd.grad((x - targets).square().sum(), list(truth.values()))
    kept = inputs.clone()
    found = ardyn.Relaxation(model, inputs, targets).gradients
    assert_same(found, dict(zip(truth, gradients, strict=True)), 1e-14)
    assert torch.equal(inputs, kept)


def test_what_autograd_itself_cannot_differentiate_is_refused():
    """The second activation overwrites what the first one's derivative is computed from."""
    model = nn.Sequential(
        nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Hardtanh(inplace=True), nn.Linear(3, 2)
    ).double()
    inputs, targets = torch.ones(5, 4).double(), torch.ones(5, 2).double()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(inputs).sum().backward()
    words = "cannot differentiate Sequential.*modified by an inplace operation"
    with pytest.raises(ardyn.InputError, match=words):
        ardyn.Relaxation(model, inputs, targets)


def test_gradients_leave_the_parameters_alone():
    case = problem()
    case.relaxation().gradients  # noqa: B018
    assert all(p.grad is None for p in case.model.parameters())
