"""Training with AR: the weight update at the end of a relaxation, in place of loss.backward()."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ardyn.closed_form import ClosedForm
from ardyn.dynamics import Dynamics
from ardyn.errors import InputError, check_positive
from ardyn.loss import Loss
from ardyn.network import Block, Units
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

    Stands where ``loss.backward()`` would: any torch optimiser then takes its step.

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
        gradients = parameter_gradients(sim.dynamics, x, z)
    reached = {name: model.get_parameter(name) for name in gradients}
    if not any(parameter.requires_grad for parameter in reached.values()):
        raise InputError(f"no parameter of {type(model).__name__} requires a gradient; let one")
    for name, parameter in reached.items():
        if parameter.requires_grad:
            old = parameter.grad
            parameter.grad = gradients[name] if old is None else old + gradients[name]
    return sim.loss_value


def parameter_gradients(
    dynamics: Dynamics, activity: Mapping[str, Tensor], traces: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Eq. 2 at the given activities, {parameter name: gradient}, summed over the batch.

    A parameter that is used several times has the sum of their gradients. What has no leak, such as
    a weight that is itself computed from parameters, takes its share of the same sweep.

    Args:
        activity: x of every unit, [batch, …].
        traces: z of the units that a Rule remembers, [batch, …].
    """
    x, z = dynamics.activities(activity), dynamics.activities(dict(activity) | dict(traces))
    presynaptic = {"frozen": dynamics.trace.activity, "current": x, "trace": z}
    gradients: dict[str, Tensor] = {}

    def send(block: Block, above: Tensor) -> Tensor:
        rule = dynamics.rules[block.name]
        slope = dynamics.derivative(rule.update_derivative, block, x)
        changes = dynamics.update(block, above, slope, presynaptic[rule.update_activity])
        for name, change in changes.items():
            gradients[name] = gradients[name] + change if name in gradients else change
        return above

    network = dynamics.trace.network
    network.descend(
        {unit: x[unit] for unit in (*network.units, *dynamics.clamped)},
        send,
        lambda block, v: dynamics.pull(block, v, x),
        network.towards_parameters,
    )
    return gradients
