"""What a run may change, kept, so that the same run can be made again."""

import contextlib
import functools
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_FIXED = frozenset({bool, int, float, str, type(None), tuple})
"""Types that no run can write on."""
_CONTAINERS = frozenset({list, dict, set, OrderedDict})


class Snapshot:
    """Buffers, attributes and random numbers of modules, as they are now.

    Args:
        with_pythons: the random numbers of Python and NumPy too, which take time to keep.
    """

    def __init__(self, modules: Iterable[nn.Module], with_pythons: bool = True) -> None:
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: dict[int, Any] = {}
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._generators: list[Callable[[], object]] = []
        for module in modules:
            own = vars(module)
            self._attributes.append((own, own.copy()))
            for value in own.values():
                kind = type(value)
                if kind not in _FIXED and (kind not in _CONTAINERS or value):
                    self._keep(value)
        self._torch = torch.get_rng_state()
        self.pythons = _pythons() if with_pythons else None
        has_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if has_cuda else []

    def _keep(self, value: Any) -> None:
        if type(value) in _CONTAINERS:
            self._containers[id(value)] = value.copy()
            for each in value.values() if isinstance(value, dict) else value:
                if isinstance(each, Tensor) and not isinstance(each, nn.Parameter):
                    self._keep(each)
        elif isinstance(value, Tensor):
            if value.layout == torch.strided:
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
                if type(container) in _CONTAINERS:
                    held = self._containers.get(id(container), ())  # nothing, where it was empty
                    container.clear()
                    container.extend(held) if isinstance(container, list) else container.update(
                        held
                    )
        for tensor, value in self._tensors:
            tensor.data.copy_(value)  # unseen by autograd, as no run depends on it
        for set_back in self._generators:
            set_back()
        torch.set_rng_state(self._torch)
        if self.pythons is not None:
            random.setstate(self.pythons[0])
            np.random.set_state(self.pythons[1])  # noqa: NPY002
        for device, state in enumerate(self._cuda):
            torch.cuda.set_rng_state(state, device)

    def pythons_moved(self) -> bool:
        """Whether Python or NumPy drew random numbers since."""
        return self.pythons is not None and repr(self.pythons) != repr(_pythons())


def _pythons() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()  # noqa: NPY002


class Unchanged:
    """Whether tensors were written on since a run, other than by the same run, made again."""

    def __init__(self) -> None:
        self._versions: list[tuple[Tensor, int]] = []

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """From now on."""
        self._versions = [(x, x._version) for x in tensors]

    def __bool__(self) -> bool:
        return all(x._version == version for x, version in self._versions)


@contextlib.contextmanager
def putting_back(
    modules: Iterable[nn.Module], start: Snapshot, unchanged: Unchanged | None = None
) -> Iterator[None]:
    """Go back to ``start``, and in the end to where the modules are now."""
    now, was_unchanged = Snapshot(modules), bool(unchanged)
    start.put_back()
    try:
        yield
    finally:
        now.put_back()
        if unchanged is not None and was_unchanged:
            unchanged.watch([x for x, _ in unchanged._versions])
