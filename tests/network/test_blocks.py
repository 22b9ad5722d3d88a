import gc
import weakref
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ardyn
from ardyn.network.feed_forward import feed_forward, named_parameters
from ardyn.network.layers import Linear, PassThrough
from ardyn.network.network import Network
from tests.oracles.problems import (
    assert_same,
    difference,
    fill_biases,
    generator,
    gradients_on,
    problem,
)


class Functional(nn.Module):
    """Every way to call an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 6)
        self.third = nn.Linear(6, 5)
        self.last = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = functional.gelu(self.second(x), approximate="tanh")
        x = self.third(x).sigmoid()
        y: Tensor = self.last(functional.relu(x, inplace=False))
        return y


class WithFlag(nn.Module):
    """A network whose shape depends on a plain attribute."""

    def __init__(self, is_nonlinear: bool) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.is_nonlinear = is_nonlinear

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(x)
        y: Tensor = self.out(torch.tanh(x) if self.is_nonlinear else x)
        return y


class DependsOnData(nn.Module):
    """Takes one of two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x.tanh()
        y: Tensor = self.out(x)
        return y


class UnusedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.unused, self.out = nn.Linear(4, 5), nn.Linear(4, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        y: Tensor = self.out(self.hidden(x).tanh())
        return y


def batch() -> tuple[Tensor, Tensor]:
    g = generator(5)
    return torch.randn(4, 4, generator=g).double(), torch.randn(4, 3, generator=g).double()


def network_of(model: nn.Module, *inputs: Tensor) -> Network:
    """The blocks that a batch shows."""

    def evaluate(output: Tensor) -> Tensor:
        return output.square().sum()

    driven = feed_forward(model, inputs or (batch()[0].float(),), evaluate)
    return driven.forward_pass.network


def blocks_of(model: nn.Module, *inputs: Tensor) -> tuple[str, ...]:
    return tuple(network_of(model, *inputs).block)


M = TypeVar("M", bound=nn.Module)


def output_of(sim: ardyn.Relaxation) -> Tensor:
    (output,) = sim.network.outputs
    return sim.dynamics.forward_pass.activity[output]


def double(model: M) -> M:
    fill_biases(model.double(), generator(6))
    return model


def test_an_activation_joins_the_layer_it_follows():
    case = problem((6, 5, 4, 3))
    network = network_of(case.model, case.inputs)
    assert network.units == ("fc1", "fc2", "fc3")
    assert network.outputs == ("fc3",)
    assert [block.sources for block in network.blocks] == [("input",), ("fc1",), ("fc2",)]
    assert network.is_chain


def test_functional_calls_make_the_same_blocks_as_modules():
    assert blocks_of(Functional()) == ("first", "second", "third", "relu", "last")


def test_activations_that_stand_alone_are_units():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sigmoid(), nn.Identity(), nn.Tanh())
    network = network_of(model)
    assert network.units == ("0", "2", "4")
    assert [type(block.layer) for block in network.blocks] == [Linear, PassThrough, PassThrough]


def test_an_activation_of_the_input_is_a_unit_too():
    model = nn.Sequential(nn.Tanh(), nn.Linear(4, 3))
    assert network_of(model).units == ("0", "1")


def test_units_are_named_after_nested_modules():
    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    assert blocks_of(nn.Sequential(inner, nn.Linear(4, 3))) == ("0.0", "1")


def test_a_module_called_twice_makes_two_units():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 3))
    assert blocks_of(model) == ("0", "0_1", "4")


def test_what_the_output_does_not_depend_on_is_no_block():
    assert blocks_of(UnusedLayer()) == ("hidden", "out")


@pytest.mark.parametrize(
    "model",
    [
        Functional(),
        UnusedLayer(),
        nn.Sequential(nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Sigmoid(), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3), nn.Softplus()),
        nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.3), nn.ELU(), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(4, 5), nn.Hardtanh(-0.5, 0.4), nn.SiLU(), nn.Linear(5, 3)),
    ],
    ids=["functional", "unused", "alone", "inplace", "leaky", "hardtanh"],
)
def test_the_blocks_compute_what_the_module_does(model):
    inputs, targets = batch()
    sim = ardyn.Relaxation(double(model), inputs, targets)
    assert difference(output_of(sim), model(inputs).detach()) < 1e-15
    for unit, gradient in sim.gradients.items():
        assert difference(sim.solve([80.0])[unit][-1], gradient) < 1e-12


def test_an_in_place_module_is_left_in_place():
    relu = nn.ReLU(inplace=True)
    network_of(nn.Sequential(nn.Linear(4, 5), relu, nn.Linear(5, 3)))
    assert relu.inplace


def test_tied_parameters_are_listed_under_each_name():
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    found = named_parameters(nn.Sequential(one, two))
    assert set(found) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert found["1.weight"] is found["0.weight"] is one.weight


def test_a_replaced_module_is_seen():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    assert blocks_of(model) == ("0", "2")
    model[2] = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    assert blocks_of(model) == ("0", "2.0", "2.2")


def test_an_attribute_that_steers_forward_is_seen():
    inputs, targets = batch()
    model = double(WithFlag(is_nonlinear=False))
    ardyn.Relaxation(model, inputs, targets)
    model.is_nonlinear = True
    sim = ardyn.Relaxation(model, inputs, targets)
    assert difference(output_of(sim), model(inputs).detach()) < 1e-15


def test_a_bias_that_was_removed_is_seen():
    inputs, targets = batch()
    model = double(WithFlag(is_nonlinear=True))
    ardyn.Relaxation(model, inputs, targets)
    model.hidden.register_parameter("bias", None)
    sim = ardyn.Relaxation(model, inputs, targets)
    assert difference(output_of(sim), model(inputs).detach()) < 1e-15


def test_a_relaxed_model_can_be_forgotten():
    inputs, targets = batch()
    model = double(Functional())
    ardyn.Relaxation(model, inputs, targets).solve([1.0])
    watch = weakref.ref(model)
    del model
    gc.collect()
    assert watch() is None


def test_the_path_that_the_data_take_is_the_one_relaxed():
    inputs, targets = batch()
    model = double(DependsOnData())
    for x in (inputs.abs(), -inputs.abs(), inputs.abs()):
        model.zero_grad()
        ardyn.backward(model, x, targets, duration=80.0)
        truth = torch.autograd.grad((model(x) - targets).square().sum(), list(model.parameters()))
        names = [name for name, _ in model.named_parameters()]
        assert_same(gradients_on(model), dict(zip(names, truth, strict=True)), 1e-12)
    assert blocks_of(model, inputs.abs()) == ("tanh", "out")
    assert blocks_of(model, -inputs.abs()) == ("out",)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Identity()), "no gradient path leads from a parameter of Sequential"),
        (nn.Sequential(nn.Tanh()), "no gradient path leads from a parameter"),
        (lambda x: x, "must be a torch.nn.Module, got function"),
    ],
    ids=["empty", "untrainable", "function"],
)
def test_a_module_that_cannot_be_relaxed_is_refused(model, words):
    with pytest.raises(ardyn.InputError, match=words):
        ardyn.Relaxation(model, batch()[0].float(), batch()[0].float())
