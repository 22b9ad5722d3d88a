import numpy as np
import pytest
import torch

from ardyn import InputError
from ardyn.loss import LOSSES, loss_function, loss_gradient
from tests import problems
from tests.brute_force import DRIVES
from tests.problems import difference, generator, log_cosh


def output_and_target(loss: str) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator()
    output = torch.randn(5, 3, generator=g, dtype=torch.float64)
    if loss == "cross_entropy":
        return output, torch.randint(3, (5,), generator=g)
    return output, torch.randn(5, 3, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("loss", problems.LOSSES)
def test_the_value_and_the_drive_are_those_of_the_formula(loss):
    output, target = output_and_target(loss)
    value, drive = loss_gradient(log_cosh if loss == "log_cosh" else loss, output, target)
    assert difference(value, problems.LOSSES[loss](output, target)) < 1e-15
    assert difference(drive, DRIVES[loss](output.cpu().numpy(), target.cpu().numpy())) < 1e-14


@pytest.mark.parametrize("loss", LOSSES)
def test_a_samples_drive_does_not_depend_on_its_batch(loss):
    output, target = output_and_target(loss)
    drive = loss_gradient(loss, output, target)[1]
    alone = loss_gradient(loss, output[2:3], target[2:3])[1]
    assert difference(drive[2:3], alone) < 1e-15


def test_cross_entropy_takes_probabilities_too():
    output, classes = output_and_target("cross_entropy")
    one_hot = torch.eye(3, dtype=torch.float64)[classes]
    drive = loss_gradient("cross_entropy", output, one_hot)[1]
    assert difference(drive, loss_gradient("cross_entropy", output, classes)[1]) < 1e-15


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
        loss_gradient(loss, output_and_target("sse")[0], target)


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
        loss_gradient(loss, *output_and_target("sse"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_targets_that_are_not_finite_are_refused(value):
    output, target = output_and_target("sse")
    target[1, 2] = value
    with pytest.raises(InputError, match=r"gradient of the loss 'sse' is not finite.*targets"):
        loss_gradient("sse", output, target)
