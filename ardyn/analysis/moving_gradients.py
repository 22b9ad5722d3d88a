"""Gradients and equilibria at each record of weights that changed during a relaxation."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.coupled import Coupled
from ardyn.dynamics.plasticity import Plasticity
from ardyn.dynamics.windows import Learned
from ardyn.errors import InputError
from ardyn.network.agreement import uncut_gradients
from ardyn.network.forward_pass import ForwardPass
from ardyn.state import State


def equilibria(dynamics: Dynamics, plasticity: Plasticity, learned: Learned) -> dict[str, Tensor]:
    """g(t): the equilibrium of the activities with the weights of each record.

    x̄ and f′ are those of the feed-forward pass at t = 0.

    Returns:
        {unit: g}, [record, batch, …] each.
    """
    system = Coupled.of(dynamics, plasticity, dynamics.initial())
    found = [system.at(weights).equilibrium() for weights in _records(learned)]
    return {unit: torch.stack([each[unit] for each in found]) for unit in found[0]}


def backprop_gradients(forward_pass: ForwardPass, learned: Learned) -> dict[str, Tensor]:
    """BP(t): ∂𝓛/∂x̄ after a feed-forward pass with the weights of each record, by autograd.

    Returns:
        {unit: gradient}, [record, batch, …] each.
    """
    run, found = forward_pass.run, []
    for record in _records(learned):
        weights = {name: W.detach().requires_grad_() for name, W in record.weights.items()}
        other = replace(run, replaced=weights, parameters={**run.parameters, **weights})
        found.append(uncut_gradients(forward_pass, other)[0])
    return {unit: torch.stack([each[unit] for each in found]) for unit in found[0]}


def check_belongs(
    learned: Learned, parameters: Mapping[str, Tensor], feedback: Mapping[str, Tensor]
) -> None:
    """Raise InputError for weights or feedback weights that a network does not have."""
    own = {name: W.shape for name, W in parameters.items()}
    own |= {f"ψ of {block}": psi.shape for block, psi in feedback.items()}
    found = {name: W.shape[1:] for name, W in learned.weights.items()}
    found |= {f"ψ of {block}": psi.shape[1:] for block, psi in learned.feedback.items()}
    for name, shape in found.items():
        if own.get(name) != shape:
            raise InputError(
                f"the trajectory holds {name} of shape {list(shape)}, which this network does not "
                f"have; pass a trajectory of this Relaxation"
            )


def _records(learned: Learned) -> Iterator[State]:
    """Weights and feedback weights, one record after another."""
    for i in range(len(learned.times)):
        weights = {name: W[i] for name, W in learned.weights.items()}
        yield State({}, {}, weights, {block: psi[i] for block, psi in learned.feedback.items()})
