from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ardyn.network.activations import ELEMENTWISE, Slope, called_activation, identity
from ardyn.network.layer_calls import LAYERS, called_layer, layer_of
from ardyn.network.layers import Conv, Linear, PassThrough
from tests.oracles.brute_force import FUNCTIONS, SLOPES
from tests.oracles.problems import assert_same, difference, generator

MODULES = {
    type(module).__name__ + ("" if setting is None else f" {setting}"): module
    for module, setting in [
        (nn.Tanh(), None),
        (nn.ReLU(), None),
        (nn.ReLU(inplace=True), "in place"),
        (nn.Sigmoid(), None),
        (nn.GELU(), None),
        (nn.GELU(approximate="tanh"), "tanh"),
        (nn.LeakyReLU(0.3), 0.3),
        (nn.LeakyReLU(0.3, inplace=True), "in place"),
        (nn.ELU(0.7), 0.7),
        (nn.SiLU(), None),
        (nn.Softplus(2.0, 0.5), 0.5),
        (nn.Hardtanh(-0.5, 0.4), "bounds"),
        (nn.Hardtanh(-0.5, 0.4, inplace=True), "in place"),
        (nn.SELU(), None),
        (nn.CELU(0.6), 0.6),
        (nn.Mish(), None),
    ]
}
CALLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "positional": lambda a: functional.leaky_relu(a, 0.3),
    "by keyword": lambda a: functional.hardtanh(input=a, max_val=0.4),
    "in place by its place": lambda a: functional.hardtanh(a, -0.5, 0.4, True),
    "in place by its name": lambda a: functional.elu_(a, 0.7),
    "built in": lambda a: functional.softplus(a, 2, 0.5),
    "a method": lambda a: a.sigmoid_(),
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


class Calls(TorchFunctionMode):
    """Notes every call, and runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.made.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def layer_in(run: Callable[[torch.Tensor], Any], x: torch.Tensor, **named: torch.Tensor) -> Any:
    """The layer that a function applies to x, by its calls."""
    names = {id(p): name for name, p in named.items()}
    with Calls() as calls:
        run(x)
    ((function, args, kwargs),) = (each for each in calls.made if each[0] in LAYERS)
    found = called_layer(function, args, kwargs, lambda p: names.get(id(p)))
    if found is None:
        return None
    layer, read = found
    assert read is x
    return layer


@pytest.fixture(params=[(kind, way) for kind in CONVOLUTIONS for way in ("module", "call")])
def convolution(request):
    """A convolution of torch's in float64, its layer, its parameters and a batch."""
    kind, way = request.param
    module, shape = CONVOLUTIONS[kind]
    model = nn.Sequential(module).double()
    x = randn(5, *shape, seed=2)
    named = dict(model.named_parameters())
    layer = layer_of(module, "0") if way == "module" else layer_in(module, x, **named)
    assert isinstance(layer, Conv)
    parameters = {name: p.detach() for name, p in named.items()}
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
def test_a_slope_is_the_derivative_and_scales_stacks_by_it(name):
    f, a, v = KNOWN[name], 2 * randn(4, 5), randn(3, 4, 5, seed=1)
    truth = torch.from_numpy(SLOPES[name](a.cpu().numpy())).to(a)
    assert difference(f(a), FUNCTIONS[name](a.cpu().numpy())) < 1e-14
    for slope in (Slope.at(f, a), Slope.at(f, a, f(a))):
        assert difference(slope.value(), truth) < 1e-13
        assert difference(slope.times(v), v * truth) < 1e-13
        assert difference(slope.samples(slice(1, 2)).times(v[0, 1:2]), (v[0] * truth)[1:2]) < 1e-13


@pytest.mark.parametrize("f", [torch.tanh, functional.gelu])
def test_a_slope_leaves_its_argument_and_the_graph_alone(f):
    a = randn(4, 5).requires_grad_()
    with torch.no_grad():
        slope = Slope.at(f, a)
    assert not slope.value().requires_grad
    assert a.grad is None


def way_of(way: Any) -> str:
    return f"{getattr(way, '__module__', None) or 'Tensor'}.{way.__name__}"


@pytest.mark.parametrize("way", ELEMENTWISE, ids=way_of)
def test_every_listed_function_acts_on_each_element_alone(way):
    a = 2 * randn(6)
    f = ELEMENTWISE[way]
    assert difference(f(a), way(a.clone())) < 1e-15
    jacobian = torch.autograd.functional.jacobian(f, a)
    assert difference(jacobian, torch.diag(Slope.at(f, a).value())) < 1e-15
    assert difference(f(a)[2:], f(a[2:])) < 1e-15


@pytest.mark.parametrize("run", [*MODULES.values(), *CALLS.values()], ids=[*MODULES, *CALLS])
def test_a_called_activation_has_its_settings_and_is_never_in_place(run):
    a = 2 * randn(40)
    with Calls() as calls:
        truth = run(a.clone())
    functions = [called_activation(*call) for call in calls.made if call[0] in ELEMENTWISE]
    f = functions[0]
    assert f is not None
    kept = a.clone()
    assert difference(f(a), truth) < 1e-15
    assert torch.equal(a, kept)
    same = called_activation(*next(call for call in calls.made if call[0] in ELEMENTWISE))
    assert f == same
    assert hash(f) == hash(same)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: functional.softmax(a, -1),
        lambda a: functional.layer_norm(a, (6,)),
        lambda a: functional.dropout(a),
        lambda a: functional.rrelu(a, training=True),
        lambda a: functional.glu(a),
        lambda a: functional.prelu(a, randn(1)),
    ],
)
def test_what_mixes_elements_draws_lots_or_learns_is_not_listed(call):
    with Calls() as calls:
        call(2 * randn(6))
    assert all(called_activation(*made) is None for made in calls.made)


W, B = randn(3, 4), randn(3)
KERNEL = randn(3, 4, 2)


@pytest.mark.parametrize(
    ("run", "x"),
    [
        (lambda x: functional.linear(x, 2 * W), randn(5, 4)),
        (lambda x: functional.linear(x, W, 2 * B), randn(5, 4)),
        (lambda x: functional.linear(x, W[0]), randn(5, 4)),
        (lambda x: functional.conv1d(x, 2 * KERNEL), randn(5, 4, 6)),
        (lambda x: functional.conv1d(x, KERNEL), randn(4, 6)),
    ],
    ids=["weight", "bias", "row", "kernel", "no batch"],
)
def test_a_call_whose_rule_is_not_that_of_a_layer_is_none(run, x):
    assert layer_in(run, x, w=W, b=B, k=KERNEL) is None


def test_padding_that_differs_between_sides_has_no_local_rule():
    def named_k(p: object) -> str | None:
        return None if p is None else "k"

    def padded(size: int) -> Any:
        x, kernel = randn(5, 4, 6), randn(3, 4, size)
        return called_layer(torch.conv1d, (x, kernel), {"padding": "same"}, named_k)

    assert padded(2) is None
    assert padded(3)[0].padding == (1,)


def test_complex_weights_and_autocast_have_no_local_rule():
    w = W.to(torch.complex128)
    assert layer_in(lambda x: functional.linear(x, w), randn(5, 4).to(w), w=w) is None
    with torch.autocast("cpu"):
        assert layer_in(lambda x: functional.linear(x, W), randn(5, 4), w=W) is None
    assert layer_in(lambda x: functional.linear(x, W), randn(5, 4), w=W) == Linear("w", None)


def test_a_called_layer_goes_by_the_names_of_its_parameters():
    by_place = layer_in(lambda x: functional.linear(x, W, B), randn(5, 4), w=W, b=B)
    by_name = layer_in(lambda x: functional.linear(x, bias=B, weight=W), randn(5, 4), w=W, b=B)
    assert by_place == by_name == Linear("w", "b")
    even = layer_in(
        lambda x: functional.conv1d(x, KERNEL, B, 2, 1, 3), randn(5, 4, 6), k=KERNEL, b=B
    )
    assert even == Conv("k", "b", (2,), (1,), (3,), False, (0,), 1)
