"""What a torch call does with tensors, and the modules within which it is made."""

import functools
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from ardyn.network.activations import argument

# fmt: off
QUERIES = frozenset({
    "size", "dim", "__len__", "numel", "stride", "__bool__", "item", "tolist", "__float__",
    "__int__", "__index__", "__contains__", "is_contiguous", "is_floating_point", "is_complex",
    "element_size", "data_ptr", "storage_offset", "ndimension", "nelement", "get_device",
    "untyped_storage", "storage", "__repr__", "__format__", "__hash__", "__set__", "is_signed",
    "requires_grad_", "is_tensor", "is_same_size", "_is_view", "_set_grad_enabled",
})
# fmt: on
"""Calls that query a property of a tensor: they read no activity."""
DATA, GRAD_FN = (getattr(Tensor, name).__get__ for name in ("data", "grad_fn"))
DETACHING = frozenset({Tensor.detach, Tensor.detach_, DATA})
DIFFERENTIATING = frozenset({"grad", "backward"})
HOOKING = frozenset({"register_hook", "register_post_accumulate_grad_hook"})
_CALL = nn.Module._call_impl.__code__


class RunningModules:
    """The modules of a model that are running now, by the frames of their calls."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._names = {id(modules[name]): name for name in reversed(list(modules))}

    def around(self) -> Iterator[str]:
        """Their names, innermost first."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name = self._of(frame)
            if name is not None:
                yield name
            frame = frame.f_back

    def of_error(self, error: BaseException) -> tuple[str, ...]:
        """Names of the modules in which an error was raised, innermost first."""
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        names = [self._of(frame) for frame in reversed(frames)]
        return tuple(name for name in names if name is not None)

    def place(self, func: Any, has_parameters: bool = False) -> str:
        """The module that calls, where the operation is what it is for; else both names."""
        name = next(self.around(), "")
        module = self._modules[name]
        is_its_own = not module._modules and (has_parameters or not module._parameters)
        return name if name and is_its_own else f"{name}.{plain_name(func)}".lstrip(".")

    def _of(self, frame: FrameType) -> str | None:
        """The module of which this is the call."""
        return self._names.get(id(frame.f_locals["self"])) if frame.f_code is _CALL else None


def saving_hooks() -> object:
    """Hooks on the tensors that autograd saves at present, as within a checkpoint."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def is_continuous(x: Tensor) -> bool:
    """Whether gradients with respect to it can exist."""
    return x.is_floating_point() or x.is_complex()


def can_be_cut(x: Tensor) -> bool:
    """Whether a leaf can replace it: a plain dense tensor of real or complex numbers."""
    return is_continuous(x) and type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided


def plain_name(func: Any) -> str:
    """The name of an operation: ``add`` for ``__add__`` and ``add_``."""
    return str(getattr(func, "__name__", "operation")).strip("_") or "operation"


def written_on(
    func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """The tensor that a call writes on, if it does."""
    if not _writes(name) and not argument(func, args, kwargs, "inplace"):
        return None
    x = args[0] if args else next(iter(kwargs.values()))
    return x if isinstance(x, Tensor) else None


@functools.cache
def _writes(name: str) -> bool:
    """Whether a call of that name works in place."""
    is_marked = name.endswith("_") and not name.endswith("__")
    return is_marked or name == "__setitem__" or (name.startswith("__i") and name != "__invert__")
