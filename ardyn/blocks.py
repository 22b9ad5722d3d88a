"""From any traceable ``nn.Module`` to a Network: operations, grouped into blocks."""

import copy
import functools
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from ardyn.errors import InputError
from ardyn.layers import (
    ELEMENTWISE_FUNCTIONS,
    ELEMENTWISE_METHODS,
    ELEMENTWISE_MODULES,
    Activation,
    Linear,
    PassThrough,
    identity,
)
from ardyn.network import INPUT, Block, Network


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """The module's parameters by name, detached; tied ones under each of their names."""
    return {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}


def trace_network(model: nn.Module) -> Network:
    """The graph of blocks of a module; traced once, and again when its modules change.

    Raises:
        InputError: torch.fx cannot trace the module, or it holds an operation that ardyn cannot
            relax; the message names the operation.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    structure = _structure(model)
    cached = _TRACED.get(model)
    if cached is None or cached[0] != structure:
        graph = _symbolic_trace(model)
        cached = _TRACED[model] = (structure, Network(tuple(_blocks(model, graph)), graph))
    return cached[1]


_TRACED: WeakKeyDictionary[nn.Module, tuple[object, Network]] = WeakKeyDictionary()


def _structure(model: nn.Module) -> object:
    """What a trace depends on: the modules, their plain attributes, and which parameters exist."""
    return [
        (
            id(module),
            [(k, v) for k, v in vars(module).items() if isinstance(v, (bool, int, float, str))],
            [name for name, p in module._parameters.items() if p is not None],
        )
        for module in model.modules()
    ]


def _symbolic_trace(model: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(model)
    except Exception as error:
        ours = str(Path(__file__).parent)
        library = str(Path(torch.__file__).parent)
        frames = traceback.extract_tb(error.__traceback__)
        where = [f for f in frames if not f.filename.startswith((library, ours))] or frames
        raise InputError(
            f"torch.fx cannot trace {type(model).__name__}: {where[-1].line!r} (line "
            f"{where[-1].lineno} of {Path(where[-1].filename).name}) fails with "
            f"«{str(error).splitlines()[0]}»; write it without control flow that depends on data"
        ) from error


def _blocks(model: nn.Module, graph: fx.Graph) -> Iterator[Block]:
    """Group the traced operations into blocks; an activation joins the layer it follows."""
    unit: dict[fx.Node, str] = {}
    blocks: dict[str, Block] = {}
    for node in _live(graph):
        if node.op == "placeholder":
            if INPUT in unit.values():
                raise InputError(f"the module takes several inputs ({node.target!r}); pass one")
            unit[node] = INPUT
        elif node.op == "output":
            returned = node.args[0]
            if not isinstance(returned, fx.Node) or unit[returned] == INPUT:
                raise InputError(
                    "the module must return one tensor, computed by at least one block; "
                    "wrap it so that it does"
                )
        elif _is_identity(model, node):
            unit[node] = unit[_only_input(node)]
        elif (layer := _linear(model, node)) is not None:
            name = _fresh(str(node.target), blocks)
            blocks[name] = Block(name, (unit[_only_input(node)],), layer, node.name)
            unit[node] = name
        elif (activation := _elementwise(model, node)) is not None:
            source = _only_input(node)
            below = blocks.get(unit[source])
            if below is not None and below.activation is identity and len(source.users) == 1:
                blocks[below.name] = replace(below, node=node.name, activation=activation)
                unit[node] = below.name
            else:
                name = _fresh(str(node.target if node.op == "call_module" else node.name), blocks)
                blocks[name] = Block(name, (unit[source],), PassThrough(), node.name, activation)
                unit[node] = name
        else:
            raise InputError(
                f"ardyn cannot relax the operation {_describe(model, node)} of "
                f"{type(model).__name__}; use an nn.Sequential of plain nn.Linear and elementwise "
                f"activations"
            )
    yield from blocks.values()


def _live(graph: fx.Graph) -> list[fx.Node]:
    """The operations that the output depends on, in order."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in live:
            live.update((node, *node.all_input_nodes))
    return [node for node in graph.nodes if node in live]


def _is_identity(model: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(
        model.get_submodule(str(node.target)), nn.Identity
    )


def _linear(model: nn.Module, node: fx.Node) -> Linear | None:
    if node.op != "call_module":
        return None
    module = model.get_submodule(str(node.target))
    if not isinstance(module, nn.Linear) or "weight" not in module._parameters:
        return None  # a parametrised weight is computed, and would need its own gradient
    bias = None if module.bias is None else f"{node.target}.bias"
    return Linear(f"{node.target}.weight", bias)


def _elementwise(model: nn.Module, node: fx.Node) -> Activation | None:
    """The elementwise function that a node applies, never in place, or None."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if not isinstance(module, ELEMENTWISE_MODULES):
            return None
        if getattr(module, "inplace", False):
            module = copy.copy(module)
            setattr(module, "inplace", False)  # noqa: B010  (not declared on nn.Module)
        return module
    settings: Mapping[str, object] = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    if node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS and len(node.args) == 1:
        return functools.partial(cast(Activation, node.target), **settings)
    if node.op == "call_method" and node.target in ELEMENTWISE_METHODS:
        return getattr(torch, str(node.target))  # type: ignore[no-any-return]
    return None


def _only_input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _fresh(name: str, taken: Mapping[str, object]) -> str:
    """``name``, numbered when a module is called more than once."""
    names = [name, *(f"{name}_{i}" for i in range(1, len(taken) + 1))]
    return next(each for each in names if each not in taken)


def _describe(model: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{type(model.get_submodule(str(node.target))).__name__} '{node.target}'"
    return repr(getattr(node.target, "__name__", node.target))
