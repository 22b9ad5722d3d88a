import pytest
import torch
from torch import nn
from torch.nn import functional

from ardyn.graph import trace_graph
from ardyn.known import weighted_layer
from ardyn.layers import (
    ELEMENTWISE_FUNCTIONS,
    ELEMENTWISE_METHODS,
    ELEMENTWISE_MODULES,
    Conv,
    Linear,
    PassThrough,
    activate,
    identity,
)
from tests.brute_force import FUNCTIONS, SLOPES
from tests.problems import assert_same, difference, generator

LISTED = {
    **{module.__name__: module() for module in ELEMENTWISE_MODULES},
    **{f"function {f.__name__}": f for f in ELEMENTWISE_FUNCTIONS},  # type: ignore[attr-defined]
    **{f"method {name}": getattr(torch, name) for name in ELEMENTWISE_METHODS},
}
KNOWN = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "identity": identity,
}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def layer(has_bias: bool = True) -> tuple[Linear, dict[str, torch.Tensor]]:
    parameters = {"W": randn(3, 5), "b": randn(3, seed=1)}
    return Linear("W", "b" if has_bias else None), parameters


@pytest.mark.parametrize("has_bias", [True, False])
def test_forward_is_torchs_linear_map(has_bias):
    linear, parameters = layer(has_bias)
    x = randn(4, 5, seed=2)
    truth = functional.linear(x, parameters["W"], parameters["b"] if has_bias else None)
    assert difference(linear.forward(parameters, x), truth) < 1e-15


def test_sending_back_is_the_vector_jacobian_product():
    linear, parameters = layer()
    v = randn(4, 3, seed=3)
    _, truth = torch.autograd.functional.vjp(
        lambda x: linear.forward(parameters, x), randn(4, 5, seed=2), v
    )
    assert difference(linear.send_back(parameters, v, None, randn(4, 5)), truth) < 1e-15


def test_feedback_weights_stand_in_for_the_transpose():
    linear, parameters = layer()
    v, psi = randn(4, 3, seed=3), randn(5, 3, seed=4)
    truth = torch.stack([psi @ each for each in v])
    assert difference(linear.send_back(parameters, v, psi, randn(4, 5)), truth) < 1e-15


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_update_is_the_gradient_of_the_parameters(has_bias):
    linear, parameters = layer(has_bias)
    x, v = randn(4, 5, seed=2), randn(4, 3, seed=3)
    learning = {name: p.requires_grad_() for name, p in parameters.items()}
    names = ["W", "b"] if has_bias else ["W"]
    truth = torch.autograd.grad(linear.forward(learning, x), [learning[name] for name in names], v)
    assert_same(linear.update(parameters, v, x), dict(zip(names, truth, strict=True)), 1e-14)


CONVOLUTIONS = {
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 9)),
    "2d": (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 6, 7)),
    "3d": (nn.Conv3d(2, 3, 2), (2, 3, 4, 3)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1, groups=1), (3, 3, 4)),
    "same": (nn.Conv2d(2, 3, 3, padding="same", bias=False), (2, 5, 4)),
}


@pytest.fixture(params=CONVOLUTIONS)
def convolution(request):
    """A convolution of torch's in float64, its layer, its parameters and a batch."""
    module, shape = CONVOLUTIONS[request.param]
    model = nn.Sequential(module).double()
    x = randn(5, *shape, seed=2)
    graph = trace_graph(model)
    (node,) = (node for node in graph.nodes if node.op == "call_module")
    layer = weighted_layer(model, node)
    assert isinstance(layer, Conv)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return module, layer, parameters, x


def test_a_convolution_is_torchs_and_sends_back_its_vector_jacobian_product(convolution):
    module, layer, parameters, x = convolution
    y = module(x).detach()
    assert difference(layer.forward(parameters, x), y) < 1e-14
    v = randn(2, *y.shape, seed=3)
    truth = [torch.autograd.functional.vjp(module, x, each)[1] for each in v]
    assert difference(layer.send_back(parameters, v, None, x), torch.stack(truth)) < 1e-14
    assert difference(layer.send_back(parameters, v[0], None, x), truth[0]) < 1e-14


def test_the_update_of_a_convolution_is_the_gradient_of_its_parameters(convolution):
    module, layer, parameters, x = convolution
    y = module(x)
    v = randn(*y.shape, seed=3)
    truth = torch.autograd.grad(y, list(module.parameters()), v)
    assert_same(layer.update(parameters, v, x), dict(zip(parameters, truth, strict=True)), 1e-13)


def test_feedback_weights_of_a_convolution_are_its_flattened_kernel_transposed(convolution):
    module, layer, parameters, x = convolution
    other = randn(*module.weight.shape, seed=7)
    v = randn(*module(x).shape, seed=3)
    truth = layer.send_back(parameters | {layer.weight: other}, v, None, x)
    psi = other.flatten(1).T
    assert difference(layer.send_back(parameters, v, psi, x), truth) < 1e-15


def test_passing_through_changes_and_learns_nothing():
    x, v = randn(4, 5), randn(4, 5, seed=1)
    assert torch.equal(PassThrough().forward({}, x), x)
    assert torch.equal(PassThrough().send_back({}, v, None, x), v)
    assert PassThrough().update({}, v, x) == {}


@pytest.mark.parametrize("name", KNOWN)
def test_activate_gives_the_value_and_the_slope(name):
    a = 2 * randn(4, 5)
    value, slope = activate(KNOWN[name], a)
    assert difference(value, FUNCTIONS[name](a.cpu().numpy())) < 1e-14
    assert difference(slope, SLOPES[name](a.cpu().numpy())) < 1e-13


def test_activate_leaves_its_argument_and_the_graph_alone():
    a = randn(4, 5).requires_grad_()
    value, slope = activate(torch.tanh, a)
    assert not value.requires_grad
    assert not slope.requires_grad
    assert a.grad is None


def test_activate_works_where_gradients_are_off():
    with torch.no_grad():
        slope = activate(torch.tanh, randn(4, 5))[1]
    assert difference(slope, 1 - randn(4, 5).tanh() ** 2) < 1e-15


@pytest.mark.parametrize("name", sorted(LISTED))
def test_every_listed_function_acts_on_each_element_alone(name):
    a = 2 * randn(6)
    f = LISTED[name]
    jacobian = torch.autograd.functional.jacobian(f, a)
    assert difference(jacobian, torch.diag(activate(f, a)[1])) < 1e-15
    assert difference(f(a)[2:], f(a[2:])) < 1e-15


@pytest.mark.parametrize("module", [nn.Softmax, nn.LayerNorm, nn.Dropout])
def test_what_mixes_elements_or_draws_lots_is_not_listed(module):
    assert not issubclass(module, ELEMENTWISE_MODULES)
