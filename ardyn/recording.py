"""A training step, recorded as a list of tensor operations and repeated on other batches.

In a small network most of the time of a step is spent in Python, which does the same at every
batch. So torch.fx records the tensor operations of one step. At the next step they must give the
gradients that the step in Python gives; from then on they alone are repeated, on a GPU as a CUDA
graph.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import _has_any_global_hook

from ardyn.ensembles import Stacked
from ardyn.errors import InputError, first_line
from ardyn.network.feed_forward import ENOUGH
from ardyn.network.put_back import Snapshot, address

SEEN = 20
"""Steps of one kind before one is recorded; recording takes as long as several dozen steps."""
MOST_RECORDED = 8
"""Kinds of steps that are recorded."""
_MOST_KINDS = 64
"""Kinds whose steps are counted."""
_SIMPLE = frozenset({bool, int, float, str, type(None)})

_OWN_LAYERS = frozenset({
    nn.Sequential, nn.Identity, nn.Linear, nn.Flatten, nn.Unflatten,
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
    """Steps of the same operations: of batches of one shape, with the same modules and settings."""

    owners: Sequence[object] = ()
    """Modules and the loss, kept so that their identities stay theirs."""
    seen: int = 0
    recorded: "_Repeat | None" = None
    repeat: "Callable[[Tensors, Tensor, Tensor], Found] | None" = None
    """The recorded operations, when another step has confirmed them."""
    is_refused: bool = False


@dataclass
class Recorder:
    """Fills ``.grad`` step by step, by repeating what was recorded where the step is the same.

    Args:
        model: the module that learns.
        feedback: ψ by block, which are read, and learned where a Rule says so.
        loss: its name, or what is called to compute it.
        is_wanted: True: refuse what cannot be recorded; None: record where all modules are layers
            of torch's own, which compute the same at every batch; False: never record.
    """

    model: nn.Module
    feedback: Mapping[str, Tensor]
    loss: object
    is_wanted: bool | None
    _kinds: dict[object, _Kind] = field(default_factory=dict)

    def __call__(self, step: Step, inputs: Any, targets: Any) -> Found:
        """One step, in Python by ``step`` where it is not repeated; fills ``.grad``."""
        if self.is_wanted is False:
            return step(inputs, targets)
        owners = self._owners()
        tensors = [*_tensors_of(owners), *self.feedback.values()]
        kind = self._kind(owners, tensors, inputs, targets)
        if kind is None or kind.is_refused:
            return step(inputs, targets)
        if kind.repeat is not None:
            try:
                return kind.repeat(tensors, inputs, targets)
            except Exception:  # the step says what is wrong with the batch
                return step(inputs, targets)
        kind.seen += 1
        if kind.seen <= (ENOUGH if self.is_wanted else SEEN):
            return step(inputs, targets)
        if kind.recorded is None:
            return self._record(step, kind, tensors, inputs, targets)
        return self._compare(step, kind, tensors, inputs, targets)

    def _kind(
        self, owners: Sequence[object], tensors: Tensors, inputs: Any, targets: Any
    ) -> _Kind | None:
        """The kind of this step; None where it cannot be recorded."""
        if self.is_wanted is None and not all(map(is_stateless, owners)):
            return None
        batch = [inputs, targets]
        if not all(type(x) is Tensor and not x.requires_grad for x in batch):
            if self.is_wanted:
                raise InputError(
                    "capture=True needs inputs and targets that are one tensor each, without a "
                    "gradient; pass such, or drop it"
                )
            return None
        is_hooked = any(x._backward_hooks or x._post_accumulate_grad_hooks for x in tensors)
        if is_hooked or torch.is_inference_mode_enabled() or _is_another_mode(inputs):
            return None
        key = _key(owners, [*tensors, *batch])
        if key in self._kinds:
            return self._kinds[key]
        if sum(each.recorded is not None for each in self._kinds.values()) == MOST_RECORDED:
            return None
        if len(self._kinds) == _MOST_KINDS:
            self._kinds = {k: each for k, each in self._kinds.items() if each.recorded}
        return self._kinds.setdefault(key, _Kind(owners))

    def _owners(self) -> list[object]:
        """All that may change in a step."""
        its_loss = self.loss.modules() if isinstance(self.loss, nn.Module) else [self.loss]
        return [*self.model.modules(), *its_loss]

    def _record(
        self, step: Step, kind: _Kind, tensors: Tensors, inputs: Tensor, targets: Tensor
    ) -> Found:
        """One step, of which the operations are recorded."""
        start = Snapshot(kind.owners)
        found: list[Tensor] = []

        def run(*_: Tensor) -> tuple[Tensor | None, ...]:
            found[:] = step(inputs, targets)
            return (*found, *(x.grad for x in tensors))

        try:
            operations = make_fx(run)(*tensors, inputs, targets)
        except Exception as error:  # what is wrong with the batch is told by the step itself
            start.put_back()
            results = step(inputs, targets)
            self._refuse(kind, first_line(error))
            return results
        kind.recorded = _Repeat(_without_aliases(operations), len(found))
        return found

    def _compare(
        self, step: Step, kind: _Kind, tensors: Tensors, inputs: Tensor, targets: Tensor
    ) -> Found:
        """One step, after which the recorded operations must give the same from the same state."""
        start = Snapshot(kind.owners)
        found = step(inputs, targets)
        gradients = [x.grad for x in tensors]
        start.put_back()
        assert kind.recorded is not None
        repeated = kind.recorded(tensors, inputs, targets)
        both = [*found, *gradients], [*repeated, *(x.grad for x in tensors)]
        is_right = len(found) == len(repeated) and all(map(_is_same, *both))
        if is_right and inputs.is_cuda:
            kind.repeat = _Captured(kind.recorded, tensors, inputs, targets)
        elif is_right:
            kind.repeat = kind.recorded
        _fill(tensors, gradients)
        if not is_right and all(map(_is_finite, both[0])):
            self._refuse(kind, "its results differ at another batch")
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
        for x in tensors:  # so that the new gradients take the memory of the last
            x.grad = None
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
    for x, gradient in zip(tensors, gradients, strict=True):
        x.grad = gradient


def _is_another_mode(x: Tensor) -> bool:
    """Whether operations are done in another type, or by a mode of the user's."""
    return torch.is_autocast_enabled(x.device.type) or torch._C._len_torch_function_stack() > 0


def _key(owners: Sequence[object], tensors: Tensors) -> object:
    """All that the operations of a step depend on besides numbers in tensors."""
    first: dict[int, int] = {}
    alike = tuple(first.setdefault(id(x), at) for at, x in enumerate(tensors))  # tied ones
    flags = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    ids, settings, layouts = map(id, owners), map(_settings, owners), map(_layout, tensors)
    return *ids, *settings, *layouts, alike, flags


def is_stateless(owner: object) -> bool:
    """Whether a run leaves it as it is, and depends on its parameters and inputs alone.

    True for modules of torch without hooks, for None, and for the name of a loss.
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
    """What a module's run depends on besides its parameters: its settings and submodules."""
    if not isinstance(owner, nn.Module):
        return None
    if isinstance(owner, Stacked):
        return tuple(map(_settings, owner.one.modules()))
    parts = tuple(map(id, owner._modules.values()))
    if not type(owner).__module__.startswith("torch.nn."):
        return owner.training, parts
    return *(_simple(value) for name, value in vars(owner).items() if name[0] != "_"), parts


def _simple(value: object) -> object:
    """A number, a word, or several; None for anything else, which no layer of torch's reads."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_simple, value))
    return value if type(value) in _SIMPLE else None


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
