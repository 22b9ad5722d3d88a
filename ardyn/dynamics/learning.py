"""Weight gradients from activities: Eq. 2 for weights and biases, Eq. 3 for feedback weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ardyn.dynamics.activity import Activities, Dynamics
from ardyn.network.activations import Slope
from ardyn.network.network import Block

Changes = dict[str, dict[str, Tensor]]
BY_AUTOGRAD = ""
"""Key, in place of a block's name, of all parameters without a local rule of a layer."""


def updates(
    dynamics: Dynamics, activity: Mapping[str, Tensor], traces: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Changes]:
    """Eq. 2 by the local rule of each layer, and x ⊙ f′ of the blocks left to autograd.

    Args:
        activity: x of every unit, [batch, …].
        traces: z of the units whose trace a Rule uses, [batch, …].

    Returns:
        {block: x ⊙ f′, [batch, …]} and {block: {parameter: gradient summed over the batch}}.
    """
    x, z = dynamics.activities(activity), dynamics.activities(dict(activity) | dict(traces))
    return updates_at(dynamics, x, x, z)


def updates_at(
    dynamics: Dynamics,
    above: Mapping[str, Tensor],
    x: Activities,
    z: Activities,
    into: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Changes]:
    """The same; gradients are written into the tensors ``into`` where the layer can do so.

    Args:
        above: x^{l+1}, or a multiple of it, to which the gradients are proportional.
        x: the activities.
        z: the same activities, but of units with a trace the trace.
        into: by parameter; none that several blocks use.
    """
    presynaptic = {"current": x, "trace": z}

    def slope(block: Block) -> Slope | None:
        return dynamics.derivative(dynamics.rules[block.name].update_derivative, block, x)

    def below(block: Block) -> Tensor:
        choice = dynamics.rules[block.name].update_activity
        if choice == "frozen":
            return dynamics.forward_pass.below[block.name]
        return dynamics.presynaptic(block, presynaptic[choice])

    return dynamics.forward_pass.updates(above, slope, below, into)


def block_gradients(
    dynamics: Dynamics, activity: Mapping[str, Tensor], traces: Mapping[str, Tensor]
) -> Changes:
    """Eq. 2 at the given activities, {block: {parameter name: gradient}}, summed over the batch.

    Gradients of parameters without a local rule, such as those from which a weight is computed, are
    under ``BY_AUTOGRAD``. Arguments as in ``updates``.
    """
    above, changes = updates(dynamics, activity, traces)
    if above:
        passed = dynamics.forward_pass
        names = {n for name in above for n in passed.network.block[name].layer.names}
        leaves = {name: passed.leaves[name] for name in sorted(names)}
        roots, starts = passed.ends(above, ())
        found = torch.autograd.grad(
            roots, list(leaves.values()), starts, retain_graph=True, materialize_grads=True
        )
        changes[BY_AUTOGRAD] = dict(zip(leaves, found, strict=True))
    return changes


def accumulate(
    dynamics: Dynamics,
    activity: Mapping[str, Tensor],
    traces: Mapping[str, Tensor],
    penalty: Mapping[str, Tensor],
    feedback: Mapping[str, Tensor],
) -> None:
    """Add Eq. 2 to ``.grad`` of every parameter, as ``loss.backward()`` adds its gradients.

    Hooks of parameters are called with the complete gradient. Inputs that require a gradient get
    theirs as well.

    Args:
        activity: x of every unit, [batch, …].
        traces: z of the units whose trace a Rule uses, [batch, …].
        penalty: gradients of parameters that the loss reads directly.
        feedback: ψ by block; learned ψ get a ``.grad`` too, by Eq. 3.
    """
    passed = dynamics.forward_pass
    above, changes = updates(dynamics, activity, traces)
    above |= _input_gradients(dynamics, activity)
    own = [*(each for block in changes.values() for each in block.items()), *penalty.items()]
    leaves = passed.leaves
    if not (above or penalty or any(_is_hooked(leaf) for leaf in leaves.values())):
        for name, gradient in own:
            p = leaves.get(name)
            if p is not None and p.grad is None:
                p.grad = gradient
            elif p is not None and p.grad is not None:
                p.grad += gradient  # in place, as autograd accumulates
    else:
        roots, starts = passed.ends(above, own)
        torch.autograd.backward(roots, starts, retain_graph=True, inputs=list(leaves.values()))
    for block, gradient in feedback_gradients(dynamics, changes).items():
        psi, g = feedback[block], gradient.to(feedback[block])
        psi.grad = (
            g.clone() if psi.grad is None else psi.grad + g
        )  # g is a view of the weights' own


def _is_hooked(p: Tensor) -> bool:
    return bool(p._backward_hooks or p._post_accumulate_grad_hooks)


def _input_gradients(dynamics: Dynamics, activity: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """∂𝓛/∂x⁰ of the inputs that require a gradient: the drive from the lowest units."""
    passed = dynamics.forward_pass
    wanted = passed.takers - frozenset(passed.network.block)
    if not wanted:
        return {}
    x = dynamics.activities(activity)
    found = passed.network.descend(
        {**dynamics.drive, **{unit: x[unit] for unit in dynamics.tau}},
        lambda block, drive: x[block.name] if block.name in dynamics.tau else drive,
        lambda block, v, sources: dynamics.pull(block, v, sources, x),
        passed.takers,
    )
    return {name: found[name] for name in wanted if name in found}


def parameter_gradients(changes: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{parameter name: gradient}, summed over all uses of a parameter."""
    gradients: dict[str, Tensor] = {}
    for own in changes.values():
        for name, change in own.items():
            gradients[name] = gradients[name] + change if name in gradients else change
    return gradients


def feedback_gradients(
    dynamics: Dynamics, changes: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Eq. 3, {block: gradient of its learned ψ}: the transpose of the weight gradient."""
    found = {}
    for block in dynamics.feedback:
        layer = dynamics.forward_pass.network.block[block].layer
        if dynamics.rules[block].feedback == "learned" and layer.weight is not None:
            found[block] = layer.matrix(changes[block][layer.weight]).mT
    return found
