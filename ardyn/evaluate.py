"""A module, run operation by operation, and checked to be the same module then."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from ardyn.errors import InputError
from ardyn.graph import is_part, tensors_in

_RAISED = (RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError)
"""What operations raise on values that they cannot take."""


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
        if "constant" in n.meta:
            return n.meta["constant"]
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
        except _RAISED as error:
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
    _check_shared(graph, run.env)
    _check_equal(model, found, truth)
    return run.env


def _check_equal(model: nn.Module, found: Any, truth: Any) -> None:
    """Raise InputError unless outputs and parameter gradients are the module's own."""
    pairs = list(zip(tensors_in(found), tensors_in(truth), strict=True))
    if not all(torch.allclose(a.double(), b.double(), equal_nan=True) for a, b in pairs):
        raise InputError(
            f"{type(model).__name__} gives another output when run operation by operation: it "
            f"draws random numbers, or writes into a part of a tensor; call .eval(), and build "
            f"new tensors in place of such writes"
        )
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        expected = _gradients([b for _, b in pairs], tuple(named.values()))
    except RuntimeError:  # what works in place can keep torch itself from differentiating
        return
    gradients = _gradients([a for a, _ in pairs], tuple(named.values()))
    for name, a, b in zip(named, gradients, expected, strict=True):
        if b.isfinite().all() and (a - b).norm() > 1e-2 * b.norm():
            raise InputError(
                f"the gradient of '{name}' is another when {type(model).__name__} is run operation "
                f"by operation: it uses torch.no_grad, an autograd.Function of its own, or hooks; "
                f"use .detach() and plain operations instead"
            )


def _gradients(outputs: Sequence[Tensor], of: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of one and the same random mixture of the outputs."""
    ends = [x for x in outputs if x.requires_grad]
    if not ends or not of:
        return tuple(torch.zeros_like(p) for p in of)
    generator = torch.Generator().manual_seed(0)
    mixture = [torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) for x in ends]
    return torch.autograd.grad(ends, of, mixture, allow_unused=True, materialize_grads=True)


def _check_shared(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> None:
    """Raise InputError if writing on a tensor changes another one that is read later."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    tensors = {node: value for node, value in values.items() if isinstance(value, Tensor)}
    for node in graph.nodes:
        written = node.all_input_nodes[0] if node.meta.get("in_place") else None
        if written not in tensors:
            continue
        memory = tensors[written].untyped_storage().data_ptr()
        for other, value in tensors.items():
            is_shared = other is not written and value.untyped_storage().data_ptr() == memory
            if is_shared and any(order[user] > order[node] for user in other.users):
                raise InputError(
                    f"'{node.meta['name']}' writes on '{written.meta.get('name', written.name)}', "
                    f"which shares its memory with '{other.meta.get('name', other.name)}', read "
                    f"later; use the operation that returns a new tensor"
                )
