"""What activities teach: Eq. 2 for the weights and biases, Eq. 3 for learned feedback weights."""

from collections.abc import Mapping

from torch import Tensor

from ardyn.dynamics import Dynamics
from ardyn.layers import Weighted
from ardyn.network import Block


def block_gradients(
    dynamics: Dynamics, activity: Mapping[str, Tensor], traces: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Eq. 2 at the given activities, {block: {parameter name: gradient}}, summed over the batch.

    What has no leak, such as a weight that is itself computed from parameters, takes its share of
    the same sweep.

    Args:
        activity: x of every unit, [batch, …].
        traces: z of the units that a Rule remembers, [batch, …].
    """
    x, z = dynamics.activities(activity), dynamics.activities(dict(activity) | dict(traces))
    presynaptic = {"frozen": dynamics.trace.activity, "current": x, "trace": z}
    changes: dict[str, dict[str, Tensor]] = {}

    def send(block: Block, above: Tensor) -> Tensor:
        rule = dynamics.rules[block.name]
        slope = dynamics.derivative(rule.update_derivative, block, x)
        below = presynaptic[rule.update_activity]
        changes[block.name] = dynamics.update(block, above, slope, below)
        return above

    network = dynamics.trace.network
    network.descend(
        {unit: x[unit] for unit in (*network.units, *dynamics.clamped)},
        send,
        lambda block, v: dynamics.pull(block, v, x),
        network.towards_parameters,
    )
    return changes


def parameter_gradients(changes: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{parameter name: gradient}; one that is used several times has the sum of its gradients."""
    gradients: dict[str, Tensor] = {}
    for own in changes.values():
        for name, change in own.items():
            gradients[name] = gradients[name] + change if name in gradients else change
    return gradients


def feedback_gradients(
    dynamics: Dynamics, changes: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Eq. 3, {block: gradient of its learned ψ}: the transpose of what the block's weights get."""
    return {
        block: layer.matrix(changes[block][layer.weight]).mT
        for block in dynamics.feedback
        if dynamics.rules[block].feedback == "learned"
        and isinstance(layer := dynamics.trace.network.block[block].layer, Weighted)
    }
