import pytest
import torch
from torch import nn

import ardyn
from ardyn.models import IMAGES
from tests.oracles.brute_force import FUNCTIONS
from tests.oracles.problems import difference, generator


def first_weight(model: nn.Module) -> torch.Tensor:
    weight: torch.Tensor = model.state_dict()["fc1.weight"]
    return weight


def test_weights_are_normal_and_biases_zero():
    model = ardyn.mlp([200, 300, 100], generator=generator())
    for name, p in model.state_dict().items():
        if name.endswith("bias"):
            assert not p.any()
        else:
            assert abs(float(p.std()) / 0.05 - 1) < 0.02
            assert abs(float(p.mean())) < 0.05 * 4 / p.numel() ** 0.5


def test_std_scales_the_weights():
    small = ardyn.mlp([20, 10], std=0.05, generator=generator())
    large = ardyn.mlp([20, 10], std=0.5, generator=generator())
    assert difference(first_weight(large), 10 * first_weight(small)) < 1e-6


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_the_last_layer_is_linear_and_the_others_are_not(activation):
    model = ardyn.mlp([4, 5, 6, 3], activation, std=1.0, generator=generator()).double()
    x = torch.randn(7, 4, generator=generator(1), dtype=torch.float64)
    truth = x.cpu().numpy()
    weights = [p for name, p in model.state_dict().items() if name.endswith("weight")]
    for i, W in enumerate(weights):
        truth = truth @ W.cpu().numpy().T
        truth = FUNCTIONS[activation](truth) if i < 2 else truth
    assert difference(model(x).detach(), truth) < 1e-14


def test_the_generator_is_the_only_source_of_chance():
    first, again = (ardyn.mlp([4, 3], generator=generator(3)) for _ in range(2))
    other = ardyn.mlp([4, 3], generator=generator(4))
    assert torch.equal(first_weight(first), first_weight(again))
    assert not torch.equal(first_weight(first), first_weight(other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_is_the_one_asked_for(dtype):
    assert {p.dtype for p in ardyn.mlp([4, 3, 2], dtype=dtype).parameters()} == {dtype}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([4],), r"two or more.*\[4\]"),
        (([4, 0],), r"positive.*\[4, 0\]"),
        (([4, 3.0],), r"positive integers.*\[4, 3.0\]"),
        (([4, 3], "tan"), "unknown activation 'tan': did you mean 'tanh'"),
        (([4, 3], "tanh", 0.0), "std must be positive"),
    ],
)
def test_a_network_that_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ardyn.InputError, match=words):
        ardyn.mlp(*arguments)


def test_feedback_has_the_shape_of_the_transpose():
    psi = ardyn.random_feedback(ardyn.mlp([4, 5, 3]), generator=generator())
    assert {name: tuple(each.shape) for name, each in psi.items()} == {
        "fc1": (4, 5),
        "fc2": (5, 3),
    }


@pytest.mark.parametrize(
    ("dataset", "variant", "shapes"),
    [
        ("cifar10", "paper", [(32, 3, 5, 5), (64, 32, 5, 5), (64, 6400), (120, 64), (10, 120)]),
        ("cifar100", "paper", [(32, 3, 5, 5), (64, 32, 5, 5), (64, 6400), (120, 64), (100, 120)]),
        ("svhn", "code", [(6, 3, 5, 5), (16, 6, 5, 5), (120, 1600), (120, 120), (10, 120)]),
        ("mnist", "code", [(6, 1, 5, 5), (16, 6, 5, 5), (120, 1024), (120, 120), (10, 120)]),
        ("digits", "paper", [(32, 1, 3, 3), (64, 32, 3, 3), (64, 64), (120, 64), (10, 120)]),
    ],
)
def test_the_convolutional_network_has_the_papers_layers(dataset, variant, shapes):
    model = ardyn.cnn(dataset, variant, generator=generator())
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    assert [tuple(W.shape) for W in weights] == shapes
    channels, side, classes = IMAGES[dataset]
    images = torch.zeros(2, channels, side, side)
    assert model(images).shape == (2, classes)
    sim = ardyn.Relaxation(model, images, torch.zeros(2, classes))
    assert sim.network.units == ("conv1", "conv2", "fc1", "fc2", "fc3")
    assert abs(float(weights[2].detach().std()) / 0.05 - 1) < 0.05
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cifar",), "unknown dataset 'cifar': did you mean 'cifar10'"),
        (("cifar10", "authors"), "unknown variant 'authors': choose one of paper, code"),
        (("cifar10", "paper", -1.0), "std must be positive"),
    ],
)
def test_a_convolutional_network_that_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ardyn.InputError, match=words):
        ardyn.cnn(*arguments)
