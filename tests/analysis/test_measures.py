import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
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


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_complex_activities_are_compared_as_twice_as_many_real_ones(measure, per_sample):
    g = generator()
    x = torch.randn(TIMES, BATCH, 3, generator=g, dtype=torch.complex128)
    reference = torch.randn(BATCH, 3, generator=g, dtype=torch.complex128)
    truth = measure(torch.view_as_real(x), torch.view_as_real(reference), per_sample)
    assert difference(measure(x, reference, per_sample), truth) < 1e-14


def first_lasting(times: np.ndarray, error: np.ndarray, tolerance: float) -> float:
    """Walk back from the end to the last time above, then along the straight line in log error."""
    if error[-1] > tolerance:
        return float("nan")
    for i in reversed(range(len(times))):
        if error[i] > tolerance:
            high, low = np.log(error[i]), np.log(max(error[i + 1], 1e-300))
            share = (high - np.log(tolerance)) / (high - low)
            return float(times[i] + share * (times[i + 1] - times[i]))
    return float(times[0])


@given(
    st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=8),
    st.floats(1e-3, 5.0),
    st.floats(0.0, 3.0),
    st.floats(0.1, 4.0),
)
@example([0.1, 0.2], 1.0, 2.0, 0.5)  # below from the first record on
@example([3.0, 0.1, 2.0, 0.1], 1.0, 0.5, 0.5)  # above once more
@example([0.1, 3.0], 1.0, 0.5, 0.5)  # not below at the last
def test_the_crossing_is_the_last_one_on_the_line_in_log_error(errors, tolerance, start, step):
    times = start + step * np.arange(len(errors))
    found = compare.crossing_time(
        torch.tensor(times), torch.tensor(errors, dtype=torch.float64), tolerance
    )
    truth = first_lasting(times, np.array(errors), tolerance)
    assert float(found) == pytest.approx(truth, rel=1e-9, abs=1e-9, nan_ok=True)


@given(st.floats(0.2, 3.0), st.floats(1e-4, 0.5))
def test_an_exponential_decay_is_timed_exactly_between_records(tau, tolerance):
    times = torch.linspace(0, 30 * tau, 8, dtype=torch.float64)
    found = compare.crossing_time(times, torch.exp(-times / tau), tolerance)
    assert float(found) == pytest.approx(-tau * np.log(tolerance), rel=1e-12)


def test_errors_may_have_further_axes():
    times = torch.arange(6, dtype=torch.float64)
    errors = torch.rand(6, 3, 2, generator=generator(), dtype=torch.float64)
    found = compare.crossing_time(times, errors, 0.6)
    truth = [
        [first_lasting(times.cpu().numpy(), e.cpu().numpy(), 0.6) for e in row]
        for row in errors.permute(1, 2, 0)
    ]
    assert np.array_equal(found.isnan(), np.isnan(truth))
    assert difference(found.nan_to_num(-1.0), np.nan_to_num(truth, nan=-1.0)) < 1e-12


def test_an_error_that_vanishes_is_crossed_just_after_the_last_record_above():
    times, errors = torch.arange(3).double(), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    assert 1 < float(compare.crossing_time(times, errors, 1e-3)) < 1.02


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
