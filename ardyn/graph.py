"""From an ``nn.Module`` to its graph of operations, in a form in which each has one plain value.

What works in place works on a copy, and whoever reads the changed value later reads that copy;
identities are gone, and so are tuples that are handed on whole.
"""

import inspect
import operator
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ardyn.errors import InputError

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
    _check_modes(model)
    graph = _symbolic_trace(model, inputs)
    _name(graph)
    _drop_identities(model, graph)
    _redirect_in_place(model, graph)
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return graph


class Evaluator(fx.Interpreter):
    """Runs a module operation by operation, nothing in place."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        """The value of one operation.

        Raises:
            InputError: values that it cannot take.
        """
        with self.telling(n):
            value = super().run_node(n)
        # A part counts as a value of its own: its gradient is that of its uses alone, even where
        # the operation made other parts of it, as an LSTM cell makes h of c.
        if not is_part(n) or not isinstance(value, Tensor):
            return value
        with torch.enable_grad():
            return value.view_as(value)

    @contextmanager
    def telling(self, n: fx.Node) -> Iterator[None]:
        """Say in ardyn's words which operation could not be run."""
        try:
            yield
        except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            given = [x for x in map(self.env.get, n.all_input_nodes) if isinstance(x, Tensor)]
            shapes = ", ".join(f"{list(x.shape)} ({x.dtype})" for x in given)
            raise InputError(
                f"block '{n.meta.get('name', n.name)}' cannot take activities of shape {shapes} "
                f"({str(error).splitlines()[0]}); pass inputs that the module itself accepts"
            ) from error

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of an operation; copies, where it would write on them."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        if n.meta.get("in_place"):
            args = tuple(x.clone() if isinstance(x, Tensor) else x for x in args)
        return args, kwargs


def evaluate(model: nn.Module, graph: fx.Graph, inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
    """Value of every operation on some inputs, with autograd's record of them.

    Raises:
        InputError: inputs that the module cannot take, or a module that its graph doesn't equal.
    """
    inputs = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
    run = Evaluator(model, graph)
    with torch.enable_grad():
        found = run.run(*inputs)
        truth = model(*(x.detach().clone() for x in inputs))
    pairs = zip(tensors_in(found), tensors_in(truth), strict=True)
    if not all(torch.allclose(a.double(), b.double(), equal_nan=True) for a, b in pairs):
        raise InputError(
            f"{type(model).__name__} gives another output when run operation by operation: it "
            f"draws random numbers, or writes into a part of a tensor; call .eval(), and build "
            f"new tensors in place of such writes"
        )
    return run.env


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


def _check_modes(model: nn.Module) -> None:
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
    try:
        return fx.Tracer().trace(model, {each.name: each.default for each in left} or None)
    except Exception as error:
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
            f"«{str(error).splitlines()[0]}»; write it without control flow that depends on data, "
            f"and without assigning to parts of a tensor"
        ) from error


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
