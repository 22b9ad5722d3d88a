"""Training with AR: the weight update at the end of a relaxation, in place of loss.backward()."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ardyn.closed_form import ClosedForm
from ardyn.errors import InputError, check_positive
from ardyn.gradients import block_gradients, feedback_gradients, parameter_gradients
from ardyn.loss import Loss
from ardyn.network import Units
from ardyn.relaxation import Relaxation, Solver
from ardyn.rule import Rule


def backward(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    targets: Any,
    loss: Loss = "sse",
    rule: Rule | Mapping[str, Rule] = Rule(),  # noqa: B008  (frozen)
    tau: float | Sequence[float] = 1.0,
    duration: float = 10.0,
    solver: Solver = ClosedForm(),  # noqa: B008  (frozen)
    feedback: Mapping[str, Tensor] | None = None,
    tau_trace: float | None = None,
    units: Units = "block",
) -> Tensor:
    """Relax, then add AR's estimate of the gradient to every parameter's ``.grad``.

    Stands where ``loss.backward()`` would: any torch optimiser then takes its step. Where a Rule
    says that ψ is learned, it has its ``.grad`` too (Eq. 3); hand it to the optimiser as well.

    Args:
        duration: length of the relaxation, in the unit of ``tau``; the paper's is 10 τ.
        solver: how to relax; the default is exact, and needs a linear Rule.

    The other arguments are those of ``Relaxation``.

    Returns:
        𝓛, summed over the batch, [].

    Raises:
        InputError, DivergenceError: as ``Relaxation`` and its ``solve``.
    """
    check_positive("duration", duration, such_as=10)
    sim = Relaxation(model, inputs, targets, loss, rule, tau, feedback, tau_trace, units)
    final = sim.solve([duration], solver)
    x = {unit: final[unit][-1] for unit in final.units}
    z = {unit: trace[-1] for unit, trace in final.traces.items()}
    with torch.no_grad():
        changes = block_gradients(sim.dynamics, x, z)
        gradients = parameter_gradients(changes)
        learned = feedback_gradients(sim.dynamics, changes)
    reached = {name: model.get_parameter(name) for name in gradients}
    learning = {name: p for name, p in reached.items() if p.requires_grad}
    if not learning:
        raise InputError(f"no parameter of {type(model).__name__} requires a gradient; let one")
    for name, parameter in learning.items():
        _accumulate(parameter, gradients[name])
    for block, gradient in learned.items():
        _accumulate((feedback or {})[block], gradient)
    return sim.loss_value


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
