from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from ardyn import InputError
from ardyn.dynamics.loss import LOSSES, check_drive, evaluation, loss_function
from tests.oracles import problems
from tests.oracles.brute_force import DRIVES
from tests.oracles.problems import difference, generator, log_cosh


def loss_gradient(
    loss: Any,
    outputs: Mapping[str, torch.Tensor],
    returning: Callable[[Mapping[str, torch.Tensor]], Any],
    target: Any,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """𝓛 and ∂𝓛/∂x̄ of every output, checked, of a module that arranges them so."""
    x = {name: value.clone().requires_grad_() for name, value in outputs.items()}
    value = evaluation(loss, target)(returning(x))
    found = torch.autograd.grad(value, list(x.values()), materialize_grads=True)
    drive = dict(zip(x, found, strict=True))
    check_drive(loss, drive, {name: each.detach() for name, each in x.items()})
    return value.detach(), drive


def gradient_of(loss: Any, output: torch.Tensor, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """𝓛 and ∂𝓛/∂output of a module that returns one tensor."""
    value, drives = loss_gradient(loss, {"out": output}, lambda x: x["out"], target)
    return value, drives["out"]


def output_and_target(loss: str) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator()
    output = torch.randn(5, 3, generator=g, dtype=torch.float64)
    if loss == "cross_entropy":
        return output, torch.randint(3, (5,), generator=g)
    return output, torch.randn(5, 3, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("loss", problems.LOSSES)
def test_the_value_and_the_drive_are_those_of_the_formula(loss):
    output, target = output_and_target(loss)
    value, drive = gradient_of(log_cosh if loss == "log_cosh" else loss, output, target)
    assert difference(value, problems.LOSSES[loss](output, target)) < 1e-15
    assert difference(drive, DRIVES[loss](output.cpu().numpy(), target.cpu().numpy())) < 1e-14


@pytest.mark.parametrize("loss", LOSSES)
def test_a_samples_drive_does_not_depend_on_its_batch(loss):
    output, target = output_and_target(loss)
    drive = gradient_of(loss, output, target)[1]
    alone = gradient_of(loss, output[2:3], target[2:3])[1]
    assert difference(drive[2:3], alone) < 1e-15


def test_cross_entropy_takes_probabilities_too():
    output, classes = output_and_target("cross_entropy")
    one_hot = torch.eye(3, dtype=torch.float64)[classes]
    drive = gradient_of("cross_entropy", output, one_hot)[1]
    assert difference(drive, gradient_of("cross_entropy", output, classes)[1]) < 1e-15


def test_an_unknown_loss_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="unknown loss 'ssee': did you mean 'sse'"):
        loss_function("ssee")


@pytest.mark.parametrize(
    ("loss", "target", "words"),
    [
        ("sse", torch.zeros(5), r"shape \[5\].*output of shape \[5, 3\].*'sse'.*one-hot"),
        ("mse", torch.zeros(5, 4), r"shape \[5, 4\].*'mse'; pass one per output"),
        ("sse", torch.zeros(4, 3), r"shape \[4, 3\]"),
        ("cross_entropy", torch.zeros(4).long(), r"shape \[4\] and type torch.int64.*'cross_ent"),
        ("cross_entropy", torch.tensor([0, 1, 2, 3, 0]), r"class 3, which is out of bounds"),
        (log_cosh, torch.zeros(5, 4), r"shape \[5, 4\].*'log_cosh'"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss, target, words):
    with pytest.raises(InputError, match=words):
        gradient_of(loss, output_and_target("sse")[0], target)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda x, t: (x - t).square().sum(1), r"one number.*got shape \[5\]; sum over"),
        (lambda x, t: torch.zeros(()), "one number that depends on the output"),
        (lambda x, t: 3.0, "one number that depends on the output, got 3.0"),
    ],
    ids=["vector", "constant", "float"],
)
def test_a_loss_that_is_not_one_number_of_the_output_is_refused(loss, words):
    with pytest.raises(InputError, match=words):
        gradient_of(loss, *output_and_target("sse"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_targets_that_are_not_finite_are_refused(value):
    output, target = output_and_target("sse")
    target[1, 2] = value
    with pytest.raises(InputError, match=r"gradient of the loss 'sse' is not finite.*targets"):
        gradient_of("sse", output, target)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_named(value):
    output, target = output_and_target("sse")
    output[1, 2] = value
    with pytest.raises(InputError, match=r"became non-finite in unit 'out'; scale"):
        gradient_of("sse", output, target)


def test_named_losses_add_up_over_outputs_however_they_are_arranged():
    one, two = output_and_target("sse")
    outputs = {"a": one, "b": 2 * one, "c": one**2}
    value, drives = loss_gradient(
        "sse",
        outputs,
        lambda x: {"first": (x["a"], x["b"]), "rest": [x["c"], torch.arange(3)]},
        {"first": (two, one), "rest": [None, None]},
    )
    assert difference(value, (one - two).square().sum() + one.square().sum()) < 1e-14
    assert difference(drives["a"], 2 * (one - two)) < 1e-14
    assert difference(drives["b"], 2 * one) < 1e-14
    assert not drives["c"].any()


def test_an_output_that_is_returned_twice_counts_twice():
    output, target = output_and_target("sse")
    once = gradient_of("sse", output, target)[1]
    twice = loss_gradient("sse", {"a": output}, lambda x: (x["a"], x["a"]), (target, target))[1]
    assert difference(twice["a"], 2 * once) < 1e-15


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            torch.zeros(5, 3),
            r"targets \[5, 3\] don't fit the output \(\[5, 3\], \[5, 3\]\); pass them",
        ),
        ((torch.zeros(5, 3),), r"targets \(\[5, 3\]\) don't fit"),
        ({"a": torch.zeros(5, 3)}, r"targets {'a': \[5, 3\]} don't fit"),
        ((None, None), "needs a target, got None"),
        ((torch.zeros(5, 3), torch.zeros(5, 2)), r"shape \[5, 2\] don't fit an output of"),
    ],
)
def test_targets_of_another_arrangement_are_refused(target, words):
    output = output_and_target("sse")[0]
    with pytest.raises(InputError, match=words):
        loss_gradient("sse", {"a": output}, lambda x: (x["a"], x["a"]), target)
