"""Snapshot: all that a run may change, saved, so that the same run can be repeated."""

import contextlib
import functools
import random
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_FIXED = frozenset({bool, int, float, str, type(None)})
"""Immutable types."""
_LIBRARIES = frozenset({"builtins", "torch", "numpy", "functools", "types", "typing", "weakref"})
"""Libraries whose objects are not saved attribute by attribute."""
_CONTAINERS = frozenset({list, dict, set, OrderedDict, defaultdict, deque})


RUNNING = threading.RLock()
"""Held while a module runs or is restored: all threads share the random generators."""


address: Callable[[Tensor], int] = torch._C._data_address  # type: ignore[attr-defined]
"""Where a tensor is in memory; asked so, it stays shared with its aliases."""


def alias(x: Tensor) -> Tensor:
    """The same values, in the same memory until either is written on; no view of ``x``."""
    if x.layout == torch.strided and not x.is_complex():
        with contextlib.suppress(RuntimeError):  # memory that is NumPy's or another process's
            return torch._lazy_clone(x)
    return x.clone()


def is_as_kept(x: Tensor, kept: Tensor) -> bool:
    """Whether x still has the values of its alias; version counters miss what .data is used for."""
    if x.layout != torch.strided or address(x) == address(kept):
        return True
    return x.shape == kept.shape and x.dtype == kept.dtype and bool(_is_equal(x.detach(), kept))


def _is_equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether all elements are, NaN being equal to itself."""
    return ((x == y) | ((x != x) & (y != y))).all()


class Snapshot:
    """The present state of all that a run may change.

    Of modules their parameters with ``.grad``, buffers and attributes; of attributes tensors,
    random generators, and what lists, dicts, sets and plain objects hold. And all random numbers.
    """

    def __init__(self, owners: Iterable[object]) -> None:
        """``owners`` are modules, or plain objects."""
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._gradients: list[tuple[Tensor, Tensor | None]] = []
        self._generators: list[Callable[[], object]] = []
        for owner in owners:
            if hasattr(owner, "__dict__"):
                self._keep_attributes(owner)
        self._numbers = (torch.get_rng_state(), random.getstate(), np.random.get_state())  # noqa: NPY002
        has_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if has_cuda else []

    def _keep_attributes(self, owner: object) -> None:
        own = vars(owner)
        self._attributes.append((own, own.copy()))
        for each in own.values():
            kind = type(each)
            if kind not in _FIXED and (kind not in _CONTAINERS or each):
                self._keep(each, is_owned=isinstance(owner, nn.Module))

    def _keep(self, value: Any, is_owned: bool = True) -> None:
        if type(value) in _CONTAINERS:
            if id(value) not in self._containers:
                self._containers[id(value)] = (value, value.copy())
                for each in value.values() if isinstance(value, dict) else value:
                    if type(each) not in _FIXED and not isinstance(each, nn.Module):
                        self._keep(each, is_owned)
        elif isinstance(value, tuple):
            for each in value:
                self._keep(each, is_owned)
        elif isinstance(value, Tensor):
            self._keep_tensor(value)
        elif isinstance(value, torch.Generator):
            self._generators.append(functools.partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._generators.append(functools.partial(value.setstate, value.getstate()))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            self._generators.append(functools.partial(setattr, bits, "state", bits.state))
        elif is_owned and _is_plain(value):  # not what such objects refer to in turn: that is large
            self._keep_attributes(value)

    def _keep_tensor(self, x: Tensor) -> None:
        if x.layout == torch.strided and 0 not in x.stride():
            self._tensors.append((x, alias(x.detach())))
        if x.is_leaf and x.requires_grad:
            self._gradients.append((x, x.grad))
            if x.grad is not None:
                self._keep_tensor(x.grad)

    def put_back(self) -> None:
        """Restore everything."""
        for own, then in self._attributes:
            own.clear()
            own.update(then)
            for container in then.values():
                if type(container) in _CONTAINERS and id(container) not in self._containers:
                    container.clear()  # it was empty
        for container, then in self._containers.values():
            container.clear()
            container.update(then) if hasattr(container, "update") else container.extend(then)
        for x, gradient in self._gradients:
            x.grad = gradient
        for x, kept in self._tensors:
            if x.shape != kept.shape:
                x.data = kept
            elif not is_as_kept(x, kept):
                x.data.copy_(kept)  # unseen by autograd, as no run depends on it
        for set_back in self._generators:
            set_back()
        torch.set_rng_state(self._numbers[0])
        random.setstate(self._numbers[1])
        np.random.set_state(self._numbers[2])  # noqa: NPY002
        for device, state in enumerate(self._cuda):
            torch.cuda.set_rng_state(state, device)


class Unchanged:
    """Whether tensors were written on since a run, other than by the same run, made again."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, int, Tensor]] = []

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Watch these from now on."""
        self._kept = [(x, x._version, alias(x.detach())) for x in tensors if not x.is_inference()]

    def __bool__(self) -> bool:
        return all(x._version == then and is_as_kept(x, kept) for x, then, kept in self._kept)


@contextlib.contextmanager
def putting_back(
    owners: Iterable[object], start: Snapshot, unchanged: Unchanged | None = None
) -> Iterator[None]:
    """Restore ``start``, and at the end the present state of the owners."""
    with RUNNING:
        now, was_unchanged = Snapshot(owners), bool(unchanged)
        start.put_back()
        try:
            yield
        finally:
            now.put_back()
            if unchanged is not None and was_unchanged:
                unchanged.watch([x for x, _, _ in unchanged._kept])


def _is_plain(value: object) -> bool:
    """Whether this is an object of a user's own class, whose state is in its attributes."""
    if not hasattr(value, "__dict__") or isinstance(value, (type, nn.Module)):
        return False
    home = type(value).__module__.partition(".")[0]
    return home not in _LIBRARIES or isinstance(value, SimpleNamespace)
