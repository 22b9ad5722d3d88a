import gc

import pytest
import torch
from torch import Tensor

from ardyn import InputError
from ardyn.dynamics.loss import evaluation
from ardyn.network.feed_forward import feed_forward
from ardyn.network.forward_pass import ForwardPass
from tests.oracles.brute_force import SLOPES, Chain
from tests.oracles.problems import (
    ACTIVATIONS,
    DEVICE,
    Problem,
    assert_same,
    chain,
    difference,
    problem,
)
from tests.solvers.test_memory import PeakMemory


def pass_of(case: Problem) -> ForwardPass:
    return feed_forward(
        case.model, case.inputs, evaluation("sse", case.targets), "block"
    ).forward_pass


def output_of(passed: ForwardPass) -> Tensor:
    (output,) = passed.network.outputs
    return passed.activity[output]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_pass_keeps_the_activities_of_the_network(activation):
    case = problem(activation=activation)
    truth = dict(zip(("input", *case.units), Chain(case).forward, strict=True))
    assert_same(pass_of(case).activity, truth, 1e-14)
    assert difference(output_of(pass_of(case)), case.model(case.inputs).detach()) < 1e-15


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_are_taken_at_the_true_pre_activation(activation):
    case = problem(activation=activation)
    by_hand = Chain(case)
    truth = {
        name: SLOPES[f](a)
        for name, f, a in zip(case.units, by_hand.f, by_hand.a, strict=True)
        if f != "identity"
    }
    found = {name: slope.value() for name, slope in pass_of(case).derivative.items()}
    assert_same(found, truth, 1e-13)


def test_the_bias_matters_to_the_slope():
    case = problem()
    without_bias = SLOPES["tanh"](case.inputs.cpu().numpy() @ Chain(case).W[0].T)
    assert difference(pass_of(case).derivative["fc1"].value(), without_bias) > 0.1


def test_a_deep_pass_agrees_with_the_network():
    case = chain(64)
    assert difference(output_of(pass_of(case)), case.model(case.inputs).detach()) < 1e-14


def test_some_samples_are_the_pass_of_those_samples():
    case = problem(batch=5)
    part, alone = pass_of(case).samples(slice(1, 3)), pass_of(case.samples(slice(1, 3)))
    assert_same(part.activity, alone.activity, 1e-14)
    slopes, those_alone = (
        {name: slope.value() for name, slope in each.derivative.items()} for each in (part, alone)
    )
    assert_same(slopes, those_alone, 1e-14)


def test_inputs_that_do_not_fit_a_block_are_refused():
    case = problem((6, 5, 3))
    wrong = torch.zeros(4, 7).double().to(DEVICE)
    with pytest.raises(InputError, match=r"block 'fc1' cannot take.*\[4, 7\]"):
        feed_forward(case.model, wrong, evaluation("sse", case.targets), "block")


def test_pre_activations_are_let_go_where_the_slope_is_known_without_them():
    held = {}
    for activation in ("tanh", "gelu"):
        case = problem((8, 512, 512, 4), activation, batch=600)
        with PeakMemory() as memory:
            passed = pass_of(case)
            gc.collect()
            held[activation] = sum(memory.sizes.values())
        assert len(passed.derivative) == 2
    assert held["tanh"] < 0.6 * held["gelu"]
