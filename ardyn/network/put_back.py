"""What a run may change, kept, so that the same run can be made again."""

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
"""Types that no run can write on."""
_CONTAINERS = frozenset({list, dict, set, OrderedDict, defaultdict, deque})


RUNNING = threading.RLock()
"""Held while a module runs or is put back: random numbers belong to all threads."""


class Snapshot:
    """Buffers, attributes and random numbers of modules, as they are now.

    Of attributes: tensors, random generators, and what lists, dicts, sets and namespaces hold.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._generators: list[Callable[[], object]] = []
        for module in modules:
            self._keep_attributes(module)
        self._numbers = (torch.get_rng_state(), random.getstate(), np.random.get_state())  # noqa: NPY002
        has_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if has_cuda else []

    def _keep_attributes(self, value: Any) -> None:
        own = vars(value)
        self._attributes.append((own, own.copy()))
        for each in own.values():
            kind = type(each)
            if kind not in _FIXED and (kind not in _CONTAINERS or each):
                self._keep(each)

    def _keep(self, value: Any) -> None:
        if type(value) in _CONTAINERS:
            if id(value) not in self._containers:
                self._containers[id(value)] = (value, value.copy())
                for each in value.values() if isinstance(value, dict) else value:
                    if type(each) not in _FIXED and not isinstance(each, (nn.Module, nn.Parameter)):
                        self._keep(each)
        elif isinstance(value, tuple):
            for each in value:
                self._keep(each)
        elif isinstance(value, SimpleNamespace):
            self._keep_attributes(value)
        elif isinstance(value, Tensor):
            if value.layout == torch.strided and 0 not in value.stride():
                self._tensors.append((value, value.detach().clone()))
        elif isinstance(value, torch.Generator):
            self._generators.append(functools.partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._generators.append(functools.partial(value.setstate, value.getstate()))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            self._generators.append(functools.partial(setattr, bits, "state", bits.state))

    def put_back(self) -> None:
        """Make everything what it was."""
        for own, then in self._attributes:
            own.clear()
            own.update(then)
            for container in then.values():
                if type(container) in _CONTAINERS and id(container) not in self._containers:
                    container.clear()  # it was empty
        for container, then in self._containers.values():
            container.clear()
            container.update(then) if hasattr(container, "update") else container.extend(then)
        for tensor, value in self._tensors:
            if tensor.shape != value.shape:
                tensor.data = value
            else:
                tensor.data.copy_(value)  # unseen by autograd, as no run depends on it
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
        self._versions: list[tuple[Tensor, int]] = []

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """From now on."""
        self._versions = [(x, x._version) for x in tensors if not x.is_inference()]

    def __bool__(self) -> bool:
        return all(x._version == version for x, version in self._versions)


@contextlib.contextmanager
def putting_back(
    modules: Iterable[nn.Module], start: Snapshot, unchanged: Unchanged | None = None
) -> Iterator[None]:
    """Go back to ``start``, and in the end to where the modules are now."""
    with RUNNING:
        now, was_unchanged = Snapshot(modules), bool(unchanged)
        start.put_back()
        try:
            yield
        finally:
            now.put_back()
            if unchanged is not None and was_unchanged:
                unchanged.watch([x for x, _ in unchanged._versions])
