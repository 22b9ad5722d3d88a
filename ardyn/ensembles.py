"""Ensembles: several networks of one architecture, such as one per seed, as one module.

The samples of all members form one batch, those of the first member first: [member · batch, …].
Modules with parameters hold those of every member, [member, …], and are mapped over the members by
torch.vmap; all other modules are applied to the whole batch.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._pytree import tree_map

from ardyn.errors import InputError


def ensemble(models: Sequence[nn.Module]) -> nn.Module:
    """Networks of one architecture as one module, which relaxes and trains all of them together.

    Args:
        models: networks that differ only in the values of their parameters; they are not changed.

    Returns:
        A module with the parameter names of a single network; parameters are [member, …], inputs
        and outputs [member · batch, …], those of the first member first.

    Raises:
        InputError: modules that differ in more than values, or parameters that cannot be stacked.
    """
    if not models:
        raise InputError(
            "an ensemble needs one or more modules, got none; pass a list such as [model]"
        )
    _check_modes(models[0])
    for number, model in enumerate(models):
        if _architecture(model) != _architecture(models[0]):
            raise InputError(
                f"module {number} of the ensemble differs from the first in its modules, their "
                f"settings, or the shape, type or device of its parameters; pass modules of one "
                f"architecture"
            )
    _check_stackable(models[0])

    def stack(path: str) -> nn.Module:
        return Stacked([each.get_submodule(path) for each in models])

    return _replaced(models[0], stack, lambda m: bool(m._parameters or m._buffers))


def _architecture(model: nn.Module) -> object:
    """Everything that must be equal in all members."""
    modules = [(n, type(m), m.extra_repr(), m.training) for n, m in model.named_modules()]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return modules, [(n, x.shape, x.dtype, x.device, x.requires_grad) for n, x in tensors.items()]


def member(model: nn.Module, number: int) -> nn.Module:
    """One network of an ensemble, as a module of its own with copies of its parameters.

    Raises:
        InputError: not an ensemble, or a number that is not below its size.
    """
    stacked_ones = [each for each in model.modules() if isinstance(each, Stacked)]
    if not stacked_ones or not 0 <= number < stacked_ones[0].members:
        size = stacked_ones[0].members if stacked_ones else 0
        raise InputError(
            f"there is no member {number} in {type(model).__name__}, an ensemble of {size}; pass "
            f"an ensemble, and a number below its size"
        )

    def pick(path: str) -> nn.Module:
        stacked = model.get_submodule(path)
        assert isinstance(stacked, Stacked)
        return stacked.member(number)

    return _replaced(model, pick, lambda module: isinstance(module, Stacked))


def ensemble_size(model: nn.Module) -> int:
    """The number of members of a module; 1 if it is not an ensemble."""
    return next((each.members for each in model.modules() if isinstance(each, Stacked)), 1)


def _replaced(
    model: nn.Module, make: Callable[[str], nn.Module], wanted: Callable[[nn.Module], bool]
) -> nn.Module:
    """A copy in which ``make`` replaces every wanted module, given its path."""
    # deepcopy's memo maps an id to the copy to use, so that a module used in several places is
    # replaced once and stays shared.
    made = {path: make(path) for path, module in model.named_modules() if wanted(module)}
    if "" in made:
        return made[""]
    memo = {id(model.get_submodule(path)): new for path, new in made.items()}
    return copy.deepcopy(model, memo)


def _check_modes(model: nn.Module) -> None:
    for name, module in model.named_modules():
        draws = isinstance(module, _DropoutNd) and module.p > 0
        if module.training and (draws or isinstance(module, _NormBase)):
            raise InputError(
                f"{type(module).__name__} '{name}' is in training mode, in which samples depend on "
                f"random numbers or on the samples of other members; call model.eval()"
            )


def _check_stackable(model: nn.Module) -> None:
    seen: dict[int, str] = {}
    for path, module in model.named_modules():
        for name, p in module._parameters.items():
            if p is None:
                continue
            where = f"parameter '{f'{path}.{name}' if path else name}'"
            if any(module.children()):
                raise InputError(
                    f"{where} of an ensemble belongs to {type(module).__name__}, which also has "
                    f"submodules; put it into a module without submodules, such as nn.Linear"
                )
            if seen.setdefault(id(p), where) != where:
                raise InputError(
                    f"{where} of an ensemble is tied to {seen[id(p)]}; use one module twice instead"
                )


class Stacked(nn.Module):
    """A module with the parameters of all members, [member, …] each."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        parameters, buffers = stack_module_state(list(modules))
        for name, p in parameters.items():
            self.register_parameter(name, nn.Parameter(p.detach(), requires_grad=p.requires_grad))
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.members = len(modules)
        # In a tuple, so that nn.Module does not register its parameters as this module's.
        self._one = (copy.deepcopy(modules[0]),)

    @property
    def one(self) -> nn.Module:
        """The module of a single network, to be called with the parameters of a member."""
        return self._one[0]

    def member(self, number: int) -> nn.Module:
        """The module of one member, with copies of its parameters."""
        module = copy.deepcopy(self.one)
        module.load_state_dict({name: x[number] for name, x in self.state_dict().items()})
        return module

    def forward(self, *inputs: Tensor) -> Any:
        """Map over the members; tensors are [member · batch, …]."""
        return each_member(self, *inputs)


def each_member(module: Stacked, *inputs: Tensor) -> Any:
    """Run every member on its own samples, by vmap."""
    # Dispatched as a torch function, so that a __torch_function__ mode intercepts it as one call.
    if has_torch_function(inputs):
        return handle_torch_function(each_member, inputs, module, *inputs)
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    own = [by_member(x, module.members) for x in inputs]
    found = vmap(lambda state, *xs: functional_call(module.one, state, xs))(state, *own)
    return tree_map(lambda x: x.flatten(0, 1), found)


def by_member(x: Tensor, members: int, axis: int = 0) -> Tensor:
    """[…, member · batch, …] as […, member, batch, …].

    Raises:
        InputError: a batch that is not divisible by the number of members.
    """
    if x.shape[axis] % members:
        raise InputError(
            f"{x.shape[axis]} samples cannot be divided evenly among {members} members of an "
            f"ensemble; pass a batch of the same size for each, one after another"
        )
    shared: Tensor = torch.unflatten(x, axis, (members, -1))
    return shared
