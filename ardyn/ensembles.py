"""Ensembles: networks of one architecture, such as one per seed, side by side as one module.

Samples of all members lie in one batch, those of the first member first: [member · batch, …].
What has parameters holds those of every member, [member, …], and is mapped over them; the rest of
the network never learns that there are several.
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
    """Networks of one architecture as one module, to relax and to train side by side.

    Args:
        models: they differ in the values of their parameters alone, and are left as they are.

    Returns:
        A module with the parameters' names of a single one; parameters are [member, …], inputs and
        outputs [member · batch, …], those of the first member first.

    Raises:
        InputError: modules that are not alike, or parameters that cannot be stacked.
    """
    if not models:
        raise InputError("an ensemble needs one or more modules, got none; pass such as [model]")
    _check_modes(models[0])
    for number, model in enumerate(models):
        if _anatomy(model) != _anatomy(models[0]):
            raise InputError(
                f"module {number} of the ensemble differs from the first in its modules, their "
                f"settings, or the shape, type or place of its parameters; pass modules of one "
                f"architecture"
            )
    _check_stackable(models[0])

    def stack(path: str) -> nn.Module:
        return Stacked([each.get_submodule(path) for each in models])

    return _replaced(models[0], stack, lambda m: bool(m._parameters or m._buffers))


def _anatomy(model: nn.Module) -> object:
    """Everything in which members must be alike."""
    modules = [(n, type(m), m.extra_repr(), m.training) for n, m in model.named_modules()]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return modules, [(n, x.shape, x.dtype, x.device, x.requires_grad) for n, x in tensors.items()]


def member(model: nn.Module, number: int) -> nn.Module:
    """One network of an ensemble, as a module of its own with copies of its parameters.

    Raises:
        InputError: no ensemble, or a number beyond its members.
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
    """How many members a module has; 1 if it is no ensemble."""
    return next((each.members for each in model.modules() if isinstance(each, Stacked)), 1)


def _replaced(
    model: nn.Module, make: Callable[[str], nn.Module], wanted: Callable[[nn.Module], bool]
) -> nn.Module:
    """A copy with every wanted module made anew; one that stands in several places, once."""
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
                f"{type(module).__name__} '{name}' is in training mode, where samples that share a "
                f"batch with other members depend on chance or on each other; call model.eval()"
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
                    f"{where} of an ensemble stands beside modules in {type(module).__name__}; put "
                    f"it into a module of its own, such as nn.Linear"
                )
            if seen.setdefault(id(p), where) != where:
                raise InputError(
                    f"{where} of an ensemble is tied to {seen[id(p)]}; use one module twice instead"
                )


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
