"""From any traceable ``nn.Module`` to a Network: operations, grouped into blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

from torch import Tensor, fx, nn

from ardyn.errors import InputError, check_choice
from ardyn.evaluate import evaluate
from ardyn.graph import describe, is_part, output_node, trace_graph
from ardyn.known import elementwise, weighted_layer
from ardyn.layers import Operation, PassThrough, Weighted, identity
from ardyn.network import INPUT, UNITS, Block, Network, Units
from ardyn.parts import detach_outputs, hand_on_parts

MOST_TRACED = 32
"""Input shapes of one module whose traces are kept."""


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The module's parameters by name; tied ones under each of their names.

    Raises:
        InputError: no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    return dict(model.named_parameters(remove_duplicate=False))


def trace_network(model: nn.Module, inputs: Sequence[Tensor], units: Units = "block") -> Network:
    """The graph of blocks of a module; traced once for each shape of its inputs.

    A module whose own attributes, parts or parameters were replaced is traced again.

    Args:
        inputs: a batch to run it on: which operations carry gradients shows in their values.
        units: "block": a leak for every layer with its activation, for activations that stand
            alone and for outputs, while the rest passes on at once; "operation": one for every
            operation. Both settle on the same values.

    Raises:
        InputError: torch.fx cannot trace the module, or no gradient could reach a parameter.
    """
    check_choice("units", units, UNITS)
    structure = _structure(model)
    if model not in _TRACED or _TRACED[model].structure != structure:
        _TRACED[model] = _Traced(structure)
    networks = _TRACED[model].networks
    key = (units, *((x.dtype, x.shape) for x in inputs))
    if key not in networks:
        if len(networks) == MOST_TRACED:
            del networks[next(iter(networks))]
        networks[key] = _network(model, inputs, units)
    return networks[key]


def weighted_layers(model: nn.Module) -> dict[str, Weighted]:
    """Linear layers and convolutions of a module, by the names of their blocks."""
    graph = trace_graph(model)
    found = ((node.meta["name"], weighted_layer(model, node)) for node in graph.nodes)
    return {name: layer for name, layer in found if layer is not None}


@dataclass(frozen=True)
class _Traced:
    """Networks of one module, while it stays as it is."""

    structure: object
    networks: dict[object, Network] = field(default_factory=dict)


_TRACED: WeakKeyDictionary[nn.Module, _Traced] = WeakKeyDictionary()


_OF_TORCH = frozenset(vars(nn.Module()))
"""What torch itself keeps on every module."""


def _structure(model: nn.Module) -> object:
    """What a trace depends on: the modules, their attributes, and which parameters exist."""
    return [
        (
            id(module),
            [(k, _fingerprint(v)) for k, v in vars(module).items() if k not in _OF_TORCH],
            [(k, _fingerprint(v)) for k, v in module._buffers.items()],
            [(k, p.requires_grad) for k, p in module._parameters.items() if p is not None],
        )
        for module in model.modules()
    ]


def _fingerprint(value: object) -> object:
    # torch.fx takes the values of buffers and of other tensors for constants.
    return (id(value), value._version) if isinstance(value, Tensor) else repr(value)


def _network(model: nn.Module, inputs: Sequence[Tensor], units: Units) -> Network:
    graph = trace_graph(model, len(inputs))
    hand_on_parts(graph, evaluate(model, graph, inputs))
    detach_outputs(graph)
    values = evaluate(model, graph, inputs)
    for node, value in values.items():
        node.meta["has_parts"] = isinstance(value, (tuple, list))
    carries = {node for node, value in values.items() if _carries_gradient(value)}
    names = _input_names(graph, len(inputs))
    read = {node: name for node, name in names.items() if node in carries}
    grouping = _Grouping(model, carries, units, read, set(names))
    for node in graph.nodes:
        grouping.add(node)
    end = output_node(graph)
    ends = tuple(dict.fromkeys(grouping.unit[n] for n in end.all_input_nodes if n in grouping.unit))
    # An output that no input reaches, such as a parameter that is itself returned, has no leak.
    relaxing = {unit for n, unit in grouping.unit.items() if n in grouping.depends and unit in ends}
    reached = _reached(grouping.blocks, ends)
    if not any(block.layer.learns for block in reached):
        _refuse_without_gradient(model, values, carries)
    return Network(
        tuple(replace(each, relaxes=each.relaxes or each.name in relaxing) for each in reached),
        graph,
        end.args[0],
        tuple(each.name for each in reached if each.name in ends),
        tuple(names.values()),
    )


def _carries_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _input_names(graph: fx.Graph, count: int) -> dict[fx.Node, str]:
    nodes = [node for node in graph.nodes if node.op == "placeholder"][:count]
    if count == 1:
        return {nodes[0]: INPUT}
    return {node: f"{INPUT}.{node.target}" for node in nodes}


def _reached(blocks: Mapping[str, Block], ends: Sequence[str]) -> list[Block]:
    """The blocks from which a gradient path leads to an output."""
    wanted, found = set(ends), []
    for block in reversed(list(blocks.values())):
        if block.name in wanted:
            wanted.update(block.sources)
            found.append(block)
    return found[::-1]


def _refuse_without_gradient(
    model: nn.Module, values: Mapping[fx.Node, Any], carries: set[fx.Node]
) -> None:
    ending = [
        node
        for node, value in values.items()
        if isinstance(value, Tensor)
        and node not in carries
        and carries.intersection(node.all_input_nodes)
    ]
    at = f": gradients end at {describe(model, ending[-1])}" if ending else ""
    raise InputError(
        f"no gradient path leads from a parameter of {type(model).__name__} to its output{at}; "
        f"relax a module whose output depends on its weights"
    )


@dataclass
class _Grouping:
    """Traced operations become blocks one by one, in order."""

    model: nn.Module
    carries: set[fx.Node]
    """Operations whose values carry gradients."""
    units: Units
    unit: dict[fx.Node, str]
    """Block or input that holds the value of each operation."""
    depends: set[fx.Node]
    """Operations that depend on data, rather than on parameters alone."""
    blocks: dict[str, Block] = field(default_factory=dict)

    def add(self, node: fx.Node) -> None:
        """Make a block of an operation, or join it to the block below."""
        if self.depends.intersection(node.all_input_nodes):
            self.depends.add(node)
        if node in self.carries and node.op not in ("placeholder", "get_attr", "output"):
            block = self._block(node)
            self.blocks[block.name] = block
            self.unit[node] = block.name

    def _block(self, node: fx.Node) -> Block:
        head = _head(node)
        sources = tuple(dict.fromkeys(self.unit[n] for n in head.all_input_nodes if n in self.unit))
        has_data, reads_one = node in self.depends, len(sources) == 1
        name = _fresh(_block_name(node), self.blocks)
        layer, activation = weighted_layer(self.model, node), elementwise(self.model, node)
        if layer is not None and reads_one:
            return Block(name, sources, layer, node.name, head=node.name)
        if activation is not None and reads_one and has_data:
            below = self.blocks.get(sources[0])
            if self.units == "block" and below is not None and _takes_activation(below, node):
                return replace(below, node=node.name, activation=activation)
            return Block(name, sources, PassThrough(), node.name, activation, head=node.name)
        parameters = _parameter_names(self.model, head)
        relaxes = has_data and (bool(parameters) or self.units == "operation")
        operation = Operation(parameters, _path(node))
        return Block(name, sources, operation, node.name, relaxes=relaxes, head=head.name)


def _takes_activation(block: Block, node: fx.Node) -> bool:
    """Whether an activation joins a block: a layer that nothing else reads, and without one yet."""
    alone = len(node.all_input_nodes[0].users) == 1
    return alone and block.layer.learns and block.relaxes and block.activation is identity


def _head(node: fx.Node) -> fx.Node:
    """The operation whose part a node takes, or the node itself."""
    while is_part(node) and cast(fx.Node, node.args[0]).meta["has_parts"]:
        node = cast(fx.Node, node.args[0])
    return node


def _path(node: fx.Node) -> tuple[object, ...]:
    """Indices that lead from the value of the head to that of the node."""
    if node is _head(node):
        return ()
    return (*_path(cast(fx.Node, node.args[0])), node.args[1])


def _block_name(node: fx.Node) -> str:
    head, name = _head(node), str(node.meta.get("name", node.name))
    if head is node:
        return name
    return f"{head.meta['name']}.{node.args[1]}"


def _parameter_names(model: nn.Module, node: fx.Node) -> tuple[str, ...]:
    """Names of the parameters that an operation reads itself."""
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    read = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr"]
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        read += [f"{node.target}.{name}" for name, _ in module.named_parameters()]
    return tuple(dict.fromkeys(name for name in read if name in own))


def _fresh(name: str, taken: Mapping[str, object]) -> str:
    """``name``, numbered where another block has it."""
    names = [name, *(f"{name}_{i}" for i in range(1, len(taken) + 1))]
    return next(each for each in names if each not in taken)
