"""The slow variables: how a synapse remembers activity, and turns it into a weight change."""

from torch import Tensor

from ardyn.layers import LocalLayer, Parameters, scale


def remember(x: Tensor, z: Tensor, tau: float) -> Tensor:
    """τ_z dz/dt = x − z: the decaying trace of an activity."""
    return (x - z) / tau


def weight_gradient(
    layer: LocalLayer,
    parameters: Parameters,
    x_above: Tensor,
    slope: Tensor | None,
    x_below: Tensor,
) -> dict[str, Tensor]:
    """∂𝓛/∂W = (x^{l+1} ⊙ f′)ᵀ x^l and ∂𝓛/∂b = Σ x^{l+1} ⊙ f′, over the batch (paper, Eq. 2).

    Weights descend: W ← W − lr · ∂𝓛/∂W, as x^{l+1} settles on +∂𝓛/∂x^{l+1}.
    """
    return layer.update(parameters, scale(x_above, slope), x_below)
