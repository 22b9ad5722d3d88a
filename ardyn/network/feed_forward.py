"""The first phase of AR: a module's run on a batch, cut into units, and the loss.

What is kept of a module after a run is its networks alone, for runs of an equal sequence of calls.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ardyn.errors import InputError, check_choice, first_line
from ardyn.network.agreement import agreed, no_path
from ardyn.network.blocks import network_of
from ardyn.network.containers import tensors_in
from ardyn.network.cuts import CannotCutError
from ardyn.network.forward_pass import Driven, driven_by_loss
from ardyn.network.network import UNITS, Network, Units
from ardyn.network.put_back import RUNNING, Snapshot
from ardyn.network.run import Run, Watched, arguments_of
from ardyn.network.watching import Watch

MOST_KEPT = 32
"""Sequences of calls of one module whose networks are kept."""


ENOUGH = 3
"""Agreements after which a gradient that was always zero is taken to be zero."""


@dataclass
class _Known:
    """What is known of a module: networks by their sequence of calls, and what must stay whole."""

    networks: dict[object, Network] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    agreed: dict[object, int] = field(default_factory=dict)
    """How often a sequence of calls agreed that is not kept."""


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The module's parameters by name; tied ones under each of their names.

    Raises:
        InputError: no module, or one that torch.compile has compiled.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        cure = ""
        if "_orig_mod" in module._modules:
            cure = "pass the module that it was made of, its _orig_mod"
        elif vars(module).get("_compiled_call_impl") is not None:
            cure = "make it anew, without .compile()"
        if cure:
            raise InputError(
                f"module '{name}' is compiled by torch.compile, which hides its layers; {cure}"
            )
    return dict(parameters_of(modules))


def parameters_of(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter, under each of its names."""
    for prefix, module in modules.items():
        for name, p in module._parameters.items():
            if p is not None:
                yield f"{prefix}.{name}" if prefix else name, p


def feed_forward(
    model: nn.Module,
    inputs: Any,
    evaluate: Callable[[Any], Tensor],
    units: Units = "block",
    replaced: Mapping[str, Tensor] | None = None,
    loss: object = None,
) -> Driven:
    """The first phase of AR: the module's run on a batch, cut into units, and the loss.

    Args:
        inputs: a tensor, a tuple of arguments or a dict of keywords.
        evaluate: 𝓛 of what the module returns.
        units: "block": a leak for every layer with its activation, for activations that stand
            alone and for outputs, while the rest transmits instantaneously; "operation": one for
            every operation. The equilibrium is the same.
        replaced: parameters by name, in place of the module's own.
        loss: what ``evaluate`` calls; where it is a module or an object, a run may change it too.

    Raises:
        InputError: inputs that the module cannot take, no gradient, or gradients that are not
            autograd's.
    """
    check_choice("units", units, UNITS)
    replaced = {name: W.detach().requires_grad_() for name, W in (replaced or {}).items()}
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(parameters_of(modules)) | replaced
    known = _KNOWN.setdefault(model, _Known())
    owners = (*modules.values(), *(loss.modules() if isinstance(loss, nn.Module) else [loss]))
    with RUNNING:
        run = Run(
            model,
            modules,
            arguments_of(inputs),
            evaluate,
            units,
            parameters,
            replaced,
            owners,
            Snapshot(owners),
        )
        watched = _watched(run, known)
        driven = _pass(watched, known)
    driven.forward_pass.free_preactivations()
    return driven


def _pass(watched: Watched, known: _Known) -> Driven:
    """The pass by the network that is kept for its sequence of calls; a new one is compared."""
    watch = watched.watch
    ends = frozenset(cut.index for cut in watch.outputs)
    network = network_of(watch, ends | watch.graph.reached(watched.value).cuts)
    key = (tuple(watch.values.calls), network, watch.whole, watch.units, watch.is_hooked)
    if key in known.networks:
        return driven_by_loss(watched, known.networks[key])
    network = network.by_autograd if watch.is_hooked else network
    found, proves = agreed(watched, network)
    if len(known.agreed) == MOST_KEPT:
        known.agreed.clear()
    times = known.agreed[key] = known.agreed.get(key, 0) + 1
    if watch.is_hooked or not (proves or times >= ENOUGH):
        return found  # a hook may do something else next time
    if len(known.networks) == MOST_KEPT:
        del known.networks[next(iter(known.networks))]
    known.networks[key] = found.forward_pass.network
    return found


def _watched(run: Run, known: _Known) -> Watched:
    """The watched run, and its loss."""
    watch, output = _under_watch(run, known)
    if not watch.outputs:
        raise no_path(run, watch, output)
    with torch.enable_grad():
        return Watched(run, watch, run.evaluate(output))


def _under_watch(run: Run, known: _Known) -> tuple[Watch, Any]:
    """The watched run; a module that cannot be cut is left whole, as one unit."""
    while True:
        watch = run.watch(known.whole)
        try:
            return watch, run.under(watch)
        except InputError:
            raise
        except CannotCutError as refused:
            modules, cause = refused.modules, None
        except Exception as error:
            _check_own_run(run, watch, error)
            modules, cause = watch.running.of_error(error), error
        left = [name for name in (*modules, "") if name not in known.whole]
        if not left:
            raise InputError(
                f"{type(run.model).__name__} runs, but not under a TorchFunctionMode "
                f"({first_line(cause)}); relax a part of it that does"
            ) from cause
        known.whole |= {left[0]}
        run.start.put_back()


def _check_own_run(run: Run, watch: Watch, error: Exception) -> None:
    """Raise InputError for a run that fails uncut as well."""
    try:
        with run.from_start(), torch.enable_grad():
            run()
    except InputError:
        raise
    except Exception as own:
        raise _refused(run, watch, own) from own


def _refused(run: Run, watch: Watch, error: Exception) -> InputError:
    """Why a module could not run on its inputs."""
    name = type(run.model).__name__
    args, kwargs = run.arguments
    if [x.shape for x in tensors_in(run.arguments)] == [()]:
        return InputError(
            f"inputs must be [batch, …], got [], and {name} fails ({first_line(error)}); pass a "
            f"single sample as inputs[None]"
        )
    for x in tensors_in(run.arguments):
        for its_name, p in run.parameters.items():
            if p.device != x.device or (x.is_floating_point() and p.dtype != x.dtype):
                return InputError(
                    f"inputs are {x.dtype} on {x.device} but '{its_name}' is {p.dtype} on "
                    f"{p.device}, and {name} fails ({first_line(error)}); convert one with .to()"
                )
    try:
        inspect.signature(run.model.forward).bind(*args, **kwargs)
    except TypeError:
        takes = ", ".join(inspect.signature(run.model.forward).parameters)
        return InputError(
            f"{name} takes the inputs {takes}, got {len(args) + len(kwargs)}; pass them as a "
            f"tuple, or by name as a dict"
        )
    except ValueError:
        pass
    where = next((each for each in watch.running.of_error(error) if each), name)
    own = {id(p) for p in run.parameters.values()}
    read = [x for x in watch.reading if id(x) not in own] or tensors_in(run.arguments)
    shapes = ", ".join(f"{list(x.shape)} ({x.dtype})" for x in read)
    return InputError(
        f"block '{where}' cannot take activities of shape {shapes} ({first_line(error)}); pass "
        f"inputs that the module itself accepts"
    )
