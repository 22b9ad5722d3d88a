"""Tuples in a graph of operations, taken apart, so that each operation has one plain value."""

import operator
from collections.abc import Mapping
from typing import Any

from torch import fx

from ardyn.graph import is_part, output_node, tensors_in


def hand_on_parts(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> None:
    """Give every part of a tuple its own operation, so that none is handed on whole.

    Parts that are tuples are taken apart in turn. Shapes, and whatever else holds no tensor, stay
    as they are: no gradient passes through them.

    Args:
        values: of the operations, as ``evaluate`` found them.
    """
    left = [(node, value) for node, value in values.items() if node.op != "output"]
    while left:
        node, value = left.pop()
        if not isinstance(value, (tuple, list)) or not tensors_in(value):
            continue
        _index_attributes(graph, node, value)
        whole = [user for user in node.users if not is_part(user)]
        if not whole:
            continue
        with graph.inserting_after(node):  # each just behind it, so that the first comes last
            numbers = reversed(range(len(value)))
            parts = [graph.call_function(operator.getitem, (node, i)) for i in numbers][::-1]
        for user in whole:
            _replace(user, node, _like(value, parts))
        left += zip(parts, value, strict=True)


def detach_outputs(graph: fx.Graph) -> None:
    """Make an operation of every parameter that the module returns as it is."""
    end = output_node(graph)
    for node in end.all_input_nodes:
        if node.op == "get_attr":
            with graph.inserting_before(end):
                _replace(end, node, graph.call_method("clone", (node,)))


def _index_attributes(graph: fx.Graph, node: fx.Node, value: Any) -> None:
    """Turn named parts into numbered ones, as ``x.max(1).values`` into ``x.max(1)[0]``."""
    for user in list(node.users):
        if user.op == "call_function" and user.target is getattr:
            named = getattr(value, str(user.args[1]))
            number = next(i for i, part in enumerate(value) if part is named)
            with graph.inserting_before(user):
                user.replace_all_uses_with(graph.call_function(operator.getitem, (node, number)))
            graph.erase_node(user)


def _like(value: Any, parts: list[fx.Node]) -> Any:
    """The parts in a container like ``value``."""
    if hasattr(value, "_fields"):
        return type(value)(*parts)
    return parts if isinstance(value, list) else tuple(parts)


def _replace(user: fx.Node, node: fx.Node, by: Any) -> None:
    args = fx.map_arg((user.args, user.kwargs), lambda each: by if each is node else each)
    user.args, user.kwargs = args
