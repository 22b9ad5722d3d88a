"""Stacked: what an ensemble has once for every member.

Samples of all members lie in one batch, those of the first member first: [member · batch, …].
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._pytree import tree_map

from ardyn.errors import InputError


class Stacked(nn.Module):
    """A module that has parameters, once for every member."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        parameters, buffers = stack_module_state(list(modules))
        for name, p in parameters.items():
            self.register_parameter(name, nn.Parameter(p.detach(), requires_grad=p.requires_grad))
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.members = len(modules)
        # In a tuple, so that its parameters are not taken for this module's.
        self._one = (copy.deepcopy(modules[0]),)

    @property
    def one(self) -> nn.Module:
        """The module as a single network has it."""
        return self._one[0]

    def member(self, number: int) -> nn.Module:
        """A member's own, as a copy."""
        module = copy.deepcopy(self.one)
        module.load_state_dict({name: x[number] for name, x in self.state_dict().items()})
        return module

    def forward(self, *inputs: Tensor) -> Any:
        """Map over the members; tensors are [member · batch, …]."""
        return each_member(self, *inputs)


def each_member(module: Stacked, *inputs: Tensor) -> Any:
    """One call of torch's to whoever watches, in which every member runs on its own samples."""
    if has_torch_function(inputs):
        return handle_torch_function(each_member, inputs, module, *inputs)
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    own = [by_member(x, module.members) for x in inputs]
    found = vmap(lambda state, *xs: functional_call(module.one, state, xs))(state, *own)
    return tree_map(lambda x: x.flatten(0, 1), found)


def by_member(x: Tensor, members: int, axis: int = 0) -> Tensor:
    """[…, member · batch, …] as […, member, batch, …].

    Raises:
        InputError: samples that members cannot share evenly.
    """
    if x.shape[axis] % members:
        raise InputError(
            f"{x.shape[axis]} samples don't go round {members} members of an ensemble; pass a "
            f"batch of one size for each, one after another"
        )
    shared: Tensor = torch.unflatten(x, axis, (members, -1))
    return shared
