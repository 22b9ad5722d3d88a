"""The paper's networks, as plain torch modules."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ardyn.blocks import parameters_of, weighted_layers
from ardyn.errors import InputError, check_choice, check_positive

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "identity": nn.Identity,
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
        Modules "fc1", "tanh1", "fc2", … in order: the units take the names "fc1", "fc2", …

    Raises:
        InputError: fewer than two sizes, one that isn't positive, or an unknown activation.
    """
    check_choice("activation", activation, ACTIVATIONS)
    check_positive("std", std)
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise InputError(f"sizes must be two or more positive numbers, got {list(sizes)}")
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (below, above) in enumerate(itertools.pairwise(sizes), start=1):
        layer = modules[f"fc{i}"] = nn.Linear(below, above, dtype=dtype)
        nn.init.normal_(layer.weight, std=std, generator=generator)
        nn.init.zeros_(layer.bias)
        if i < len(sizes) - 1:
            modules[f"{activation}{i}"] = ACTIVATIONS[activation]()
    return nn.Sequential(modules)


def random_feedback(
    model: nn.Module, std: float = 0.05, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Feedback weights ψ ~ N(0, std²) for every block that has weights, independent of them.

    Returns:
        {block: ψ}, each in the shape of Wᵀ, [n_l, n_{l+1}], of a convolution in that of its
        flattened kernel's transpose; in the weights' type, on their device.
    """
    check_positive("std", std)
    parameters = parameters_of(model)
    weights = {
        name: parameters[layer.weight].flatten(1) for name, layer in weighted_layers(model).items()
    }
    return {
        name: std * torch.randn(W.mT.shape, generator=generator, dtype=W.dtype).to(W.device)
        for name, W in weights.items()
    }
