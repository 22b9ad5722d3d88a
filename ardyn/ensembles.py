"""Ensembles: networks of one architecture, such as one per seed, side by side as one module.

Samples of all members lie in one batch, those of the first member first: [member · batch, …].
What has parameters holds those of every member, [member, …], and is mapped over them; the rest of
the network never learns that there are several.
"""

import copy
from collections.abc import Callable, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ardyn.errors import InputError
from ardyn.stacked import Stacked


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
