"""Run: one call of a module on a batch, which can be repeated from the same state."""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ardyn.network.containers import swap_tensors, tensors_in
from ardyn.network.network import INPUT, Units
from ardyn.network.put_back import Snapshot, Unchanged, alias, putting_back
from ardyn.network.watching import Watch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One call of a module, which can be repeated on the same batch from the same state."""

    model: nn.Module
    modules: Mapping[str, nn.Module]
    """All of them, by name."""
    arguments: Arguments
    evaluate: Callable[[Any], Tensor]
    """𝓛 of what the module returns."""
    units: Units
    parameters: Mapping[str, Tensor]
    """By name, each under all of its names."""
    replaced: Mapping[str, Tensor]
    """Parameters in place of the module's own."""
    owners: Sequence[object]
    """Modules and objects that a run may change, those of the loss among them."""
    start: Snapshot
    """The state from which the module ran."""
    unchanged: Unchanged = field(default_factory=Unchanged)
    """Whether parameters, buffers and inputs still are what they were after it."""

    def from_start(self) -> contextlib.AbstractContextManager[None]:
        """Within it, the state from which the module ran; at the end, the present one again."""
        return putting_back(self.owners, self.start, self.unchanged)

    def __call__(self) -> Any:
        """The module's own output, nothing cut."""
        return self.call(*swap_tensors(self.arguments, _own))

    def call(self, args: Any, kwargs: Any) -> Any:
        """Call the module."""
        if self.replaced:
            return functional_call(self.model, dict(self.replaced), args, kwargs)
        return self.model(*args, **kwargs)

    def watch(
        self,
        whole: frozenset[str],
        given: Mapping[int, Tensor] | None = None,
        is_cutting: bool = True,
    ) -> Watch:
        """A mode under which the run is watched."""
        return Watch(self.modules, self.parameters, self.units, given, whole, is_cutting)

    def under(self, watch: Watch) -> Any:
        """The run, cut into units; returns its output, which is cut as well."""
        names = iter(input_names(self.model, self.arguments))
        with torch.enable_grad():
            arguments = swap_tensors(self.arguments, lambda x: watch.feed(next(names), _own(x)))
            with watch:
                output = self.call(*arguments)
            return swap_tensors(output, watch.end)


@dataclass(frozen=True)
class Watched:
    """A run that was watched, and its loss."""

    run: Run
    watch: Watch
    value: Tensor
    """𝓛, []."""


def _own(x: Tensor) -> Tensor:
    """An alias of an input, so that a module that writes on it can be run again."""
    return x if x.requires_grad else alias(x)


def arguments_of(inputs: Any) -> Arguments:
    """How a module is called: with one tensor, a tuple of arguments, or a dict of keywords."""
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return ((), dict(inputs)) if isinstance(inputs, dict) else ((inputs,), {})


def input_names(model: nn.Module, arguments: Arguments) -> list[str]:
    """A name for every input tensor, in order: "input", or of several "input.NAME" each."""
    args, kwargs = arguments
    total = len(tensors_in(arguments))
    if total == 1:
        return [INPUT]
    try:
        named = list(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        named = []
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    names = []
    for position, (key, value) in enumerate(given):
        is_named = isinstance(key, str) or position >= len(named)
        name = str(key) if is_named else named[position]
        count = len(tensors_in(value))
        names += [f"{INPUT}.{name}" + (f".{i}" if count > 1 else "") for i in range(count)]
    return names
