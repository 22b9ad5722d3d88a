"""From an ``nn.Module`` to its graph of operations, and nothing else.

Whoever reads a tensor after it was changed in place reads the changed value; identities are gone.
"""

import inspect
import operator
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ardyn.errors import InputError
from ardyn.stacked import Stacked

_IN_PLACE_OPERATORS = frozenset(
    getattr(operator, name)
    for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imatmul", "imod")
)


def trace_graph(model: nn.Module, inputs: int | None = None) -> fx.Graph:
    """The operations that the module's output depends on.

    Args:
        inputs: how many positional arguments the module is called with; arguments beyond keep
            their defaults. None: those without a default.

    Raises:
        InputError: torch.fx cannot trace the module (the message gives the line), or it is in a
            training mode that ardyn cannot relax.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    check_modes(model)
    graph = _symbolic_trace(model, inputs)
    _name(graph)
    _drop_identities(model, graph)
    _redirect_in_place(model, graph)
    for node in reversed(list(graph.nodes)):
        is_kept = node.op in ("placeholder", "output") or "in_place" in node.meta
        if not node.users and not is_kept:
            graph.erase_node(node)
    return graph


def output_node(graph: fx.Graph) -> fx.Node:
    """The node whose argument the module returns."""
    end: fx.Node = next(node for node in reversed(graph.nodes) if node.op == "output")
    return end


def is_part(node: fx.Node) -> bool:
    """Whether a node takes one element of another's value."""
    return node.op == "call_function" and node.target is operator.getitem


def describe(model: nn.Module, node: fx.Node) -> str:
    """An operation in words."""
    if node.op == "call_module":
        return f"{type(model.get_submodule(str(node.target))).__name__} '{node.target}'"
    return repr(getattr(node.target, "__name__", node.target))


def check_modes(model: nn.Module) -> None:
    """Raise InputError for a module in a training mode that ardyn cannot relax."""
    for name, module in model.named_modules():
        draws = isinstance(module, _DropoutNd) and module.p > 0
        if module.training and (draws or isinstance(module, _NormBase)):
            raise InputError(
                f"{type(module).__name__} '{name}' is in training mode, where a sample depends on "
                f"chance or on its batch; call model.eval() first"
            )


def _symbolic_trace(model: nn.Module, inputs: int | None) -> fx.Graph:
    arguments = list(inspect.signature(model.forward).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [each for each in arguments if each.kind in kinds]
    left = [each for i, each in enumerate(named) if each.default is not each.empty]
    if inputs is not None:
        left = [each for each in named[inputs:] if each.default is not each.empty]
        most = len(named) if len(named) == len(arguments) else inputs
        if not len(named) - len(left) <= inputs <= most:
            raise InputError(
                f"{type(model).__name__} takes the inputs "
                f"{', '.join(each.name for each in named)}, got {inputs}; pass them as a tuple"
            )
    before = set(vars(model))
    try:
        graph = _Tracer().trace(model, {each.name: each.default for each in left} or None)
        _take_constants(model, graph, set(vars(model)) - before)
        return graph
    except Exception as error:
        if isinstance(error, InputError):
            raise
        ours = str(Path(__file__).parent)
        library = str(Path(torch.__file__).parent)
        frames = traceback.extract_tb(error.__traceback__)
        where = [f for f in frames if not f.filename.startswith((library, ours))]
        if not where:
            raise InputError(
                f"torch.fx cannot trace {type(model).__name__} from inside, as it is torch's own; "
                f"wrap it, as in nn.Sequential(model), to relax it as one block"
            ) from error
        raise InputError(
            f"torch.fx cannot trace {type(model).__name__}: {where[-1].line!r} (line "
            f"{where[-1].lineno} of {Path(where[-1].filename).name}) fails with "
            f"«{_shortened(error)}»; write it without assigning to parts of a tensor, and without "
            f"control flow that depends on data or on the sizes of an input (a size that a loop or "
            f"torch.zeros needs can be an attribute of the module)"
        ) from error
    finally:
        for name in set(vars(model)) - before:
            delattr(model, name)


def _take_constants(model: nn.Module, graph: fx.Graph, left: set[str]) -> None:
    """Keep in the graph what torch.fx left on the module, which isn't ours."""
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in left:
            node.meta["constant"] = constant = getattr(model, str(node.target))
            if isinstance(constant, Tensor) and constant.requires_grad:
                raise InputError(
                    f"{type(model).__name__} computes with a parameter that it doesn't read as its "
                    f"attribute, so that no gradient could reach it; write self.NAME"
                )


class _Tracer(fx.Tracer):
    """Takes what an ensemble holds once per member as one operation, like a layer of torch's."""

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return isinstance(m, Stacked) or super().is_leaf_module(m, qualified_name)


def _shortened(error: Exception) -> str:
    """The first sentence of a message."""
    return str(error).splitlines()[0].split(". ")[0]


def _name(graph: fx.Graph) -> None:
    """Name operations after their modules; a module called again is numbered."""
    calls: dict[str, int] = {}
    for node in graph.nodes:
        node.meta["name"] = node.name
        if node.op == "call_module":
            target = str(node.target)
            times = calls[target] = calls.get(target, -1) + 1
            node.meta["name"] = f"{target}_{times}" if times else target


def _drop_identities(model: nn.Module, graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(
            model.get_submodule(str(node.target)), (nn.Identity, _DropoutNd)
        ):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def _redirect_in_place(model: nn.Module, graph: fx.Graph) -> None:
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not _works_in_place(model, node):
            continue
        node.meta["in_place"] = True
        changed = node.all_input_nodes[0]
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)


def _works_in_place(model: nn.Module, node: fx.Node) -> bool:
    if not node.all_input_nodes:
        return False
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    if node.target in _IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__")):
        return True
    return bool(_argument(node, "inplace"))


def _argument(node: fx.Node, name: str) -> object:
    """An argument of a function call by its name, None if it has none."""
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return node.kwargs.get(name)
    return bound.arguments.get(name)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in tuples, lists and dicts."""
    found: list[Tensor] = []
    fx.node.map_aggregate(
        value, lambda each: found.append(each) if isinstance(each, Tensor) else None
    )
    return found
