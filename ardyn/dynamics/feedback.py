"""Feedback weights ψ: random initialisation, and checks of their shapes against Wᵀ."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ardyn.dynamics.rule import Rule
from ardyn.errors import InputError, check_finite, check_positive
from ardyn.network.feed_forward import named_parameters
from ardyn.network.layer_calls import layer_of
from ardyn.network.layers import Layer
from ardyn.network.network import Network


def random_feedback(
    model: nn.Module, std: float = 0.05, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Feedback weights ψ ~ N(0, std²), independent of W, for every block that has weights.

    Returns:
        {block: ψ}, each in the shape of Wᵀ, [n_l, n_{l+1}], for a convolution in that of the
        transposed, flattened kernel; in the type and on the device of the weights.
    """
    check_positive("std", std)
    parameters = named_parameters(model)
    weights = {
        name: layer.matrix(parameters[layer.weight].detach())
        for name, layer in _weighted_layers(model).items()
        if layer.weight is not None
    }
    return {
        name: std * torch.randn(W.mT.shape, generator=generator, dtype=W.dtype).to(W.device)
        for name, W in weights.items()
    }


def _weighted_layers(model: nn.Module) -> dict[str, Layer]:
    """Linear layers and convolutions by block name; a shared module has one for each place."""
    found: dict[str, Layer] = {}
    places: dict[int, int] = {}
    first = {id(module): name for name, module in model.named_modules()}
    for _, module in model.named_modules(remove_duplicate=False):
        name = first[id(module)]
        layer = layer_of(module, name)
        if layer is not None:
            number = places[id(module)] = places.get(id(module), -1) + 1
            found[f"{name}_{number}" if number else name] = layer
    return found


def checked_feedback(
    network: Network,
    parameters: Mapping[str, Tensor],
    rules: Mapping[str, Rule],
    feedback: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """ψ of every block that has weights and whose Rule uses ψ, checked against Wᵀ."""
    if feedback and all(rule.feedback == "transpose" for rule in rules.values()):
        raise InputError(
            "feedback weights were passed, but every Rule uses Wᵀ as feedback; pass none, or use "
            "Rule(feedback='fixed')"
        )
    unknown = set(feedback) - {block.name for block in network.blocks}
    if unknown:
        raise InputError(
            f"feedback names {', '.join(map(repr, sorted(unknown)))}, which is not a block; "
            f"the blocks are {', '.join(network.block)}"
        )
    psi = {}
    for block in network.blocks:
        layer = block.layer
        if rules[block.name].feedback == "transpose" or layer.weight is None:
            continue
        if block.name not in feedback:
            raise InputError(
                f"feedback={rules[block.name].feedback!r} needs feedback weights for block "
                f"'{block.name}'; pass feedback=ardyn.random_feedback(model)"
            )
        W = parameters[layer.weight]
        given, expected = feedback[block.name], layer.matrix(W).mT
        if given.shape != expected.shape:
            kernel = ", of the flattened kernel" if expected.shape != W.mT.shape else ""
            raise InputError(
                f"feedback of '{block.name}' has shape {list(given.shape)}; it must have the shape "
                f"of Wᵀ{kernel}, {list(expected.shape)}"
            )
        psi[block.name] = given.detach().to(expected)
    if psi:
        check_finite({f"feedback of '{name}'": each for name, each in psi.items()})
    return psi
