"""A training step, recorded as a list of tensor operations and repeated on other batches.

In a small network most of the time of a step is Python's, which does the same at every batch. So
its tensor operations are recorded by torch.fx, compared with the next step, and from then on
repeated alone; on a GPU as a CUDA graph.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import _has_any_global_hook

from ardyn.ensembles import Stacked
from ardyn.errors import InputError, first_line
from ardyn.network.put_back import Snapshot, address

SEEN = 20
"""Steps of one kind before it is recorded, which takes as long as some dozens of them."""
MOST_KINDS = 8
"""Kinds of steps that are recorded: batches of another shape are another kind."""

_OWN_LAYERS = frozenset({
    nn.Sequential, nn.ModuleList, nn.Identity, nn.Linear, nn.Bilinear, nn.Flatten, nn.Unflatten,
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.ELU, nn.SiLU, nn.LeakyReLU, nn.Softplus, nn.Hardtanh,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.LayerNorm, nn.GroupNorm,
})  # fmt: skip
"""Modules of torch whose run changes nothing, and draws no random numbers."""

Tensors = Sequence[Tensor]
Found = Sequence[Tensor]
"""The loss, and numbers that are finite if all that was computed is."""
Step = Callable[[Any, Any], Found]
"""Fills ``.grad`` from inputs and targets."""


@dataclass
class _Kind:
    """What is known of steps of one kind."""

    seen: int = 0
    again: "_Repeat | None" = None
    repeat: "Callable[[Tensors, Tensor, Tensor], Found] | None" = None
    is_refused: bool = False


@dataclass
class Recorder:
    """Fills ``.grad`` step by step, by repeating what was recorded where the step is the same.

    Args:
        step: the step in Python.
        model: the module that learns.
        feedback: ψ, which are read, and learned where a Rule says so.
        loss: its name, or what is called to compute it.
        is_wanted: True: refuse what cannot be recorded; None: record where all modules are layers
            of torch's own, which compute the same at every batch; False: never record.
    """

    step: Step
    model: nn.Module
    feedback: Sequence[Tensor]
    loss: object
    is_wanted: bool | None
    _kinds: dict[object, _Kind] = field(default_factory=dict)

    def __call__(self, inputs: Any, targets: Any) -> Found:
        """One step; fills ``.grad``."""
        if self.is_wanted is False:
            return self.step(inputs, targets)
        owners = self._owners()
        tensors = [*_tensors_of(owners), *self.feedback]
        kind = self._kind(owners, tensors, inputs, targets)
        if kind is None or kind.is_refused:
            return self.step(inputs, targets)
        if kind.repeat is not None:
            return kind.repeat(tensors, inputs, targets)
        kind.seen += 1
        if kind.seen <= (1 if self.is_wanted else SEEN):
            return self.step(inputs, targets)
        if kind.again is None:
            return self._record(kind, Snapshot(owners), tensors, inputs, targets)
        return self._compare(kind, Snapshot(owners), tensors, inputs, targets)

    def _kind(
        self, owners: Sequence[object], tensors: Sequence[Tensor], inputs: Any, targets: Any
    ) -> _Kind | None:
        """The kind of this step; None where it cannot be recorded."""
        if self.is_wanted is None and not all(map(is_stateless, owners)):
            return None
        batch = [inputs, targets]
        is_plain = all(type(x) is Tensor and not x.requires_grad for x in batch)
        hooked = any(x._backward_hooks or x._post_accumulate_grad_hooks for x in tensors)
        if not is_plain or hooked or torch.is_inference_mode_enabled() or _casts(inputs):
            return None
        layouts = (*map(_layout, tensors), *map(_layout, batch))
        key = (*owners, *map(_settings, owners), *layouts)
        if key not in self._kinds and len(self._kinds) == MOST_KINDS:
            return None
        return self._kinds.setdefault(key, _Kind())

    def _owners(self) -> list[object]:
        """All that may change in a step."""
        its_loss = self.loss.modules() if isinstance(self.loss, nn.Module) else [self.loss]
        return [*self.model.modules(), *its_loss]

    def _record(
        self, kind: _Kind, start: Snapshot, tensors: Tensors, inputs: Tensor, targets: Tensor
    ) -> Found:
        """One step, of which the operations are recorded."""
        found: list[Tensor] = []

        def run(*_: Tensor) -> tuple[Tensor | None, ...]:
            found[:] = self.step(inputs, targets)
            return (*found, *(x.grad for x in tensors))

        try:
            operations = make_fx(run)(*tensors, inputs, targets)
        except Exception as error:  # what is wrong with the batch is told by the step itself
            start.put_back()
            results = self.step(inputs, targets)
            self._refuse(kind, first_line(error))
            return results
        kind.again = _Repeat(_without_aliases(operations), len(found))
        return found

    def _compare(
        self, kind: _Kind, start: Snapshot, tensors: Tensors, inputs: Tensor, targets: Tensor
    ) -> Found:
        """One step, after which the recorded operations must give the same from the same state."""
        found = self.step(inputs, targets)
        gradients = [x.grad for x in tensors]
        start.put_back()
        assert kind.again is not None
        repeated = kind.again(tensors, inputs, targets)
        both = [*found, *gradients], [*repeated, *(x.grad for x in tensors)]
        is_right = len(found) == len(repeated) and all(map(_is_same, *both))
        if is_right and inputs.is_cuda:
            kind.repeat = _Captured(kind.again, tensors, inputs, targets)
        elif is_right:
            kind.repeat = kind.again
        _fill(tensors, gradients)
        if not is_right and all(map(_is_finite, both[0])):
            self._refuse(kind, "it is another one at another batch")
        return found

    def _refuse(self, kind: _Kind, why: str) -> None:
        kind.is_refused = True
        if self.is_wanted:
            raise InputError(
                f"the step of {type(self.model).__name__} cannot be recorded ({why}); drop "
                f"capture=True"
            )


@dataclass
class _Repeat:
    """Repeats recorded operations."""

    operations: GraphModule
    numbers: int
    """How many of their results are not gradients."""

    @torch.no_grad()
    def __call__(self, tensors: Tensors, inputs: Tensor, targets: Tensor) -> Found:
        """Fill ``.grad`` of the tensors."""
        _fill(tensors, repeat(None))  # so that the new ones take the memory of the last
        results = self.operations(*tensors, inputs, targets)
        _fill(tensors, results[self.numbers :])
        return results[: self.numbers]  # type: ignore[no-any-return]


class _Captured:
    """The same as a CUDA graph, which starts all its kernels at once."""

    def __init__(self, again: _Repeat, tensors: Tensors, inputs: Tensor, targets: Tensor) -> None:
        self._batch = inputs.clone(), targets.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._found = again(tensors, *self._batch)
        self._gradients = [x.grad for x in tensors]

    def __call__(self, tensors: Tensors, inputs: Tensor, targets: Tensor) -> Found:
        """Fill ``.grad`` of the tensors, in memory that the next step writes on again."""
        for own, x in zip(self._batch, (inputs, targets), strict=True):
            own.copy_(x)
        self._graph.replay()
        _fill(tensors, self._gradients)
        return [x.clone() for x in self._found]


def _tensors_of(owners: Iterable[object]) -> Iterator[Tensor]:
    """Parameters and buffers."""
    for owner in owners:
        if isinstance(owner, nn.Module):
            yield from (p for p in owner._parameters.values() if p is not None)
            yield from (b for b in owner._buffers.values() if b is not None)


def _fill(tensors: Tensors, gradients: Iterable[Tensor | None]) -> None:
    for x, gradient in zip(tensors, gradients, strict=False):
        x.grad = gradient


def _casts(x: Tensor) -> bool:
    """Whether operations are done in another type."""
    return torch.is_autocast_enabled(x.device.type)


def is_stateless(owner: object) -> bool:
    """Whether a run leaves this as it was, and depends on parameters and inputs alone.

    So it is for modules of torch's own that nobody hooked; and for what is no object.
    """
    if isinstance(owner, Stacked):
        return not _is_hooked(owner) and all(map(is_stateless, owner.one.modules()))
    if isinstance(owner, nn.Module):
        return type(owner) in _OWN_LAYERS and not _is_hooked(owner)
    return owner is None or type(owner) is str


def _is_hooked(module: nn.Module) -> bool:
    """Whether a call of the module runs more than its class's ``forward``."""
    own = vars(module)
    return (
        bool(own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"])
        or bool(own["_backward_pre_hooks"])
        or "forward" in own
        or bool(_has_any_global_hook())  # type: ignore[no-untyped-call]
    )


def _settings(owner: object) -> object:
    """What a layer of torch's own depends on besides its parameters."""
    if not (isinstance(owner, nn.Module) and is_stateless(owner)):
        return type(owner)
    return tuple(value for name, value in vars(owner).items() if name[0] != "_")


def _layout(x: Tensor) -> object:
    """All that operations depend on besides the numbers; on a GPU where they are as well."""
    where = address(x) if x.is_cuda else 0
    return x.shape, x.stride(), x.dtype, x.device, x.requires_grad, where


def _without_aliases(operations: GraphModule) -> GraphModule:
    """The same without ``detach``, which does nothing where no gradients are recorded."""
    for node in operations.graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
    operations.graph.eliminate_dead_code()
    operations.recompile()
    return operations


def _is_finite(x: Tensor | None) -> bool:
    return x is None or bool(x.isfinite().all())


def _is_same(x: Tensor | None, y: Tensor | None) -> bool:
    if x is None or y is None:
        return x is y
    gap, size = (torch.linalg.vector_norm(each) for each in (x - y, x))
    return bool(gap <= torch.finfo(x.dtype).eps ** 0.5 * size)
