"""Angles between the weight gradients of AR and of backprop, and between ψ and Wᵀ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import ardyn
from ardyn import Learner

if TYPE_CHECKING:
    import xarray as xr


def gradient_angles(learner: Learner, inputs: Tensor, targets: Tensor) -> xr.DataArray:
    """Angle between the gradients of AR and of backprop in every layer's weights, in degrees.

    Args:
        inputs: [sample, pixel]; each member of an ensemble is given all of them.
        targets: [sample, class].

    Returns:
        [layer, seed].
    """
    members, weights = ardyn.ensemble_size(learner.model), weights_of(learner)
    device = next(learner.model.parameters()).device
    x, t = (each.to(device).repeat(members, 1) for each in (inputs, targets))
    learner.fill_gradients(x, t)
    relaxed = {name: W.grad for name, W in weights.items()}
    learner.model.zero_grad()
    ardyn.backprop(learner.model, x, t, learner.loss)
    return _by_layer({name: _angle(relaxed[name], W.grad) for name, W in weights.items()})


def feedback_angles(learner: Learner) -> xr.DataArray:
    """Angle between ψ and Wᵀ, in degrees, [layer, seed]; NaN for the lowest layer."""
    transposed = {name: W.detach().mT for name, W in weights_of(learner).items()}
    psi: Mapping[str, Tensor] = learner.feedback or transposed
    found = {name: _angle(psi[name], W) for name, W in transposed.items()}
    found[next(iter(found))] *= torch.nan  # no unit below the lowest layer receives feedback
    return _by_layer(found)


def weights_of(learner: Learner) -> dict[str, Tensor]:
    """Weights of each layer, [member, n_{l+1}, n_l]."""
    return {
        name.removesuffix(".weight"): p
        for name, p in learner.model.named_parameters()
        if name.endswith("weight")
    }


def _by_layer(values: Mapping[str, Tensor]) -> xr.DataArray:
    import xarray as xr

    stacked = torch.stack(list(values.values())).cpu().numpy()
    return xr.DataArray(stacked, {"layer": list(values)}, ("layer", "seed"))


def _angle(a: Tensor | None, b: Tensor | None) -> Tensor:
    """Angle between two matrices of each member, in degrees, [member].

    2 arctan(‖â − b̂‖ / ‖â + b̂‖) of the normalised matrices (Kahan), as the arccosine is inaccurate
    for small angles.
    """
    assert a is not None
    assert b is not None
    a, b = (x.flatten(1).double() / x.flatten(1).double().norm(dim=1, keepdim=True) for x in (a, b))
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)).rad2deg()
