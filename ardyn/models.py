"""The paper's networks, as plain torch modules."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn

from ardyn.errors import InputError, check_choice, check_positive

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}
IMAGES = {
    "digits": (1, 8, 10),
    "mnist": (1, 28, 10),
    "fashion-mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "svhn": (3, 32, 10),
}
"""Channels, height and width, and classes of each data set."""
Variant = Literal["paper", "code"]
_WIDTHS: dict[Variant, tuple[int, int, int, int]] = {
    "paper": (32, 64, 64, 120),
    "code": (6, 16, 120, 120),
}


def mlp(
    sizes: Sequence[int],
    activation: str = "tanh",
    std: float = 0.05,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """A multi-layer perceptron with a linear last layer; W ~ N(0, std²), b = 0.

    Args:
        sizes: units per layer, input first; the paper's is [784, 300, 300, 100, 10] (Appendix B).
        activation: one of ``ACTIVATIONS``.
        std: standard deviation of the weights; 0.05 in the authors' code.
        generator: source of the random weights.
        dtype: of the weights; torch's default if None.

    Returns:
        Modules "fc1", "tanh1", "fc2", … in order; the units are named "fc1", "fc2", …

    Raises:
        InputError: fewer than two sizes, one that isn't positive, or an unknown activation.
    """
    check_choice("activation", activation, ACTIVATIONS)
    check_positive("std", std)
    if len(sizes) < 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(
            f"sizes must be two or more positive integers, got {list(sizes)}; pass sizes such as "
            f"[784, 300, 300, 100, 10]"
        )
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (below, above) in enumerate(itertools.pairwise(sizes), start=1):
        modules[f"fc{i}"] = nn.Linear(below, above, dtype=dtype)
        if i < len(sizes) - 1:
            modules[f"{activation}{i}"] = ACTIVATIONS[activation]()
    return _initialised(nn.Sequential(modules), std, generator)


def cnn(
    dataset: str,
    variant: Variant = "paper",
    std: float = 0.05,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """A convolutional network with tanh units and a linear last layer; W ~ N(0, std²), b = 0.

    Two convolutions with a max-pooling over 2 × 2 between them, then three fully connected layers.
    Kernels are 5 × 5; for "digits", whose images are too small for that, 3 × 3.

    Args:
        dataset: one of ``IMAGES``, which sets the size of the images and the number of classes.
        variant: "paper" (Appendix C): 32 and 64 filters, then 64, 120 and as many neurons as
            classes; "code", as in the authors' code: 6 and 16 filters, then 120, 120 and as many
            neurons as classes.
        std: standard deviation of the weights; 0.05 in the authors' code.
        generator: source of the random weights.
        dtype: of the weights; torch's default if None.

    Returns:
        Modules in order, from [batch, channel, height, width]; the units are "conv1", "conv2",
        "fc1", "fc2", "fc3". The pooling is no unit: it transmits instantaneously.

    Raises:
        InputError: an unknown data set or variant.
    """
    check_choice("dataset", dataset, IMAGES)
    check_choice("variant", variant, get_args(Variant))
    check_positive("std", std)
    channels, side, classes = IMAGES[dataset]
    kernel = 3 if dataset == "digits" else 5
    filters1, filters2, hidden1, hidden2 = _WIDTHS[variant]
    left = (side - kernel + 1) // 2 - kernel + 1
    modules: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(channels, filters1, kernel, dtype=dtype),
        "tanh1": nn.Tanh(),
        "pool": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(filters1, filters2, kernel, dtype=dtype),
        "tanh2": nn.Tanh(),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(filters2 * left**2, hidden1, dtype=dtype),
        "tanh3": nn.Tanh(),
        "fc2": nn.Linear(hidden1, hidden2, dtype=dtype),
        "tanh4": nn.Tanh(),
        "fc3": nn.Linear(hidden2, classes, dtype=dtype),
    }
    return _initialised(nn.Sequential(OrderedDict(modules)), std, generator)


def _initialised(
    model: nn.Sequential, std: float, generator: torch.Generator | None
) -> nn.Sequential:
    """W ~ N(0, std²), b = 0."""
    for name, p in model.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(p, std=std, generator=generator)
        else:
            nn.init.zeros_(p)
    return model
