"""The cut pass has autograd's gradients, or is refused.

Whenever the sequence of calls is a new one, the gradients at the equilibrium, of every parameter
that autograd reaches and of every input that wants one, are compared with autograd's through the
uncut module: the same run, from the same state. What is kept after that is the network alone, for
runs of an equal sequence.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ardyn.errors import InputError, check_choice
from ardyn.network.activations import scale
from ardyn.network.containers import tensors_in
from ardyn.network.forward_pass import ForwardPass, Run, arguments_of, collect
from ardyn.network.network import UNITS, Block, Network, Units
from ardyn.network.put_back import RUNNING, Snapshot
from ardyn.network.watching import CannotCutError, Cut, Watch

MOST_KEPT = 32
"""Sequences of calls of one module whose networks are kept."""
ENOUGH = 3
"""Agreements after which a gradient that stayed zero is taken to be so for good."""
ROUNDING = 1000.0
"""Gradients that cancel are compared to this many roundings of the largest one."""


@dataclass
class _Known:
    """What is known of a module: networks by their sequence of calls, and what must stay whole."""

    networks: dict[object, Network] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    agreed: dict[object, int] = field(default_factory=dict)
    """How often a sequence of calls agreed that is not kept."""


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


@dataclass(frozen=True)
class Driven:
    """A forward pass, and what the loss makes of it."""

    forward_pass: ForwardPass
    value: Tensor
    """𝓛, []."""
    drive: Mapping[str, Tensor]
    """∂𝓛/∂x̄ of every block whose value the loss reads, [batch, …]."""
    penalty: Mapping[str, Tensor]
    """∂𝓛/∂θ of the parameters that the loss itself reads."""


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
                f"module '{name}' is compiled by torch.compile, within which no unit can be seen; "
                f"{cure}"
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
            alone and for outputs, while the rest passes on at once; "operation": one for every
            operation. Both settle on the same values.
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
    run = Run(model, modules, arguments_of(inputs), evaluate, units, parameters, replaced, owners)
    with RUNNING:
        run = replace(run, start=Snapshot(owners))
        watch, value, network, key = _watched(run, known)
        if key in known.networks:
            driven = _driven(run, watch, known.networks[key], value, known.whole)
        else:
            driven = _first_time(run, watch, network, value, known, key)
    driven.forward_pass.let_go()
    return driven


def _first_time(
    run: Run, watch: Watch, network: Network, value: Tensor, known: _Known, key: object
) -> Driven:
    """The pass of a sequence of calls that is a new one."""
    network = network.by_autograd if watch.is_hooked else network
    found, proves = _agreed(run, watch, network, value, known.whole)
    if len(known.agreed) == MOST_KEPT:
        known.agreed.clear()
    times = known.agreed[key] = known.agreed.get(key, 0) + 1
    if watch.is_hooked or not (proves or times >= ENOUGH):
        return found  # what a hook does can be another thing next time
    if len(known.networks) == MOST_KEPT:
        del known.networks[next(iter(known.networks))]
    known.networks[key] = found.forward_pass.network
    return found


def _watched(run: Run, known: _Known) -> tuple[Watch, Tensor, Network, object]:
    """The watched run, its loss, its network, and the key under which that is known."""
    watch, output = _under_watch(run, known)
    if not watch.outputs:
        raise _no_path(run, watch, output)
    with torch.enable_grad():
        value = run.evaluate(output)
    driven = frozenset(cut.index for cut in watch.outputs) | watch.reached(value).cuts
    network = _network(watch, driven)
    return (
        watch,
        value,
        network,
        (
            tuple(watch.calls),
            network,
            known.whole,
            run.units,
            watch.is_hooked,
        ),
    )


def _network(watch: Watch, driven: frozenset[int]) -> Network:
    blocks = watch.blocks(driven)
    ends = {watch.cuts[index].name for index in driven}
    outputs = tuple(block.name for block in blocks if block.name in ends)
    return Network(blocks, outputs, tuple(watch.fed))


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
            modules, cause = watch.modules_in(error), error
        left = [name for name in (*modules, "") if name not in known.whole]
        if not left:
            raise InputError(
                f"{type(run.model).__name__} runs, but not while its torch calls are watched "
                f"({_first_line(cause)}); relax the part of it that does"
            ) from cause
        known.whole |= {left[0]}
        _start(run).put_back()


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
            f"inputs must be [batch, …], got [], and {name} fails ({_first_line(error)}); pass a "
            f"single sample as inputs[None]"
        )
    for x in tensors_in(run.arguments):
        for its_name, p in run.parameters.items():
            if p.device != x.device or (x.is_floating_point() and p.dtype != x.dtype):
                return InputError(
                    f"inputs are {x.dtype} on {x.device} but '{its_name}' is {p.dtype} on "
                    f"{p.device}, and {name} fails ({_first_line(error)}); convert one with .to()"
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
    where = next((each for each in watch.modules_in(error) if each), name)
    own = {id(p) for p in run.parameters.values()}
    read = [x for x in watch.reading if id(x) not in own] or tensors_in(run.arguments)
    shapes = ", ".join(f"{list(x.shape)} ({x.dtype})" for x in read)
    return InputError(
        f"block '{where}' cannot take activities of shape {shapes} ({_first_line(error)}); pass "
        f"inputs that the module itself accepts"
    )


def _driven(
    run: Run, watch: Watch, network: Network, value: Tensor, whole: frozenset[str]
) -> Driven:
    """The pass, and the loss gradients at all that the loss reads."""
    passed = collect(run, watch, network, whole)
    reached = watch.reached(value).leaves
    passed.leaves.update({watch.name_of(key): watch.leaves[key] for key in reached})
    read = [watch.leaves[key] for key in reached]
    leaves = [passed.cuts[name].leaf for name in network.outputs]
    fed = [name for name, x in watch.fed.items() if isinstance(x, Cut)]
    leaves += [passed.cuts[name].leaf for name in fed]
    found = torch.autograd.grad(
        value, [*leaves, *read], allow_unused=True, materialize_grads=True, retain_graph=True
    )
    drive = dict(zip((*network.outputs, *fed), found, strict=False))
    penalty = dict(zip(map(watch.name_of, reached), found[len(leaves) :], strict=True))
    return Driven(passed, value.detach(), drive, penalty)


# Agreement


def _agreed(
    run: Run, watch: Watch, network: Network, value: Tensor, whole: frozenset[str]
) -> tuple[Driven, bool]:
    """The pass, with a network whose gradients at the equilibrium are autograd's.

    And whether that holds for other batches, too.
    """
    if not any(block.layer.names for block in network.blocks):
        raise _no_path(run, watch)
    own = {id(x): x for x in (*run.parameters.values(), *tensors_in(run.arguments))}
    try:
        with _without_hooks(own.values()):
            return _compared(run, watch, network, value, whole, own.keys())
    except RuntimeError as error:
        raise InputError(
            f"autograd cannot pull back through a part of {type(run.model).__name__} "
            f"({_first_line(error)}); mend that in the module, or use units='block'"
        ) from error


@contextlib.contextmanager
def _without_hooks(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Hooks of parameters are for the gradients that a user asked for."""
    kept = [(x._backward_hooks, dict(x._backward_hooks)) for x in leaves if x._backward_hooks]
    for hooks, _ in kept:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, own in kept:
            hooks.update(own)


def _compared(
    run: Run, watch: Watch, network: Network, value: Tensor, whole: frozenset[str], own: Set[int]
) -> tuple[Driven, bool]:
    truth, precision = _truth(run, watch, value), _precision(watch, value)
    for each in (network, network.by_autograd):
        found = _driven(run, watch, each, value, whole)
        x, gradients = _at_equilibrium(found)
        wrong = _first_wrong(gradients, truth, precision, own)
        hidden = own & _hidden(truth, precision) if wrong is None else set()
        if hidden and not watch.is_hooked:
            wrong = _first_wrong(*_probed(run, found, hidden), precision, own)
        if wrong is None:
            # What is zero now proves nothing for a batch on which it is not.
            proves = all(0 < _norm(g) < math.inf for key, g in truth.items() if key in own)
            is_odd = watch.is_hooked or watch.has_functions
            return (_with_linearity(found) if is_odd else found), proves
    assert wrong is not None
    key, size = wrong
    where = _where(run, found, x, key)
    raise InputError(
        f"the gradient of '{watch.name_of(key)}' at the equilibrium differs from autograd's by "
        f"{size:.2g} of its size; the two part at {where}, which ardyn cannot relax"
    )


def _with_linearity(found: Driven) -> Driven:
    """Whether pull-backs are linear, where hooks or functions of the user's take part in them.

    A(u + v) = A u + A v, for random u and v as large as the activities that a closed form carries.
    """
    passed = found.forward_pass
    generator = torch.Generator().manual_seed(0)

    def random(x: Tensor) -> Tensor:
        drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return drawn.to(x) * (passed.activity[names[0]].abs().max() + 1).to(x)

    names = list(found.drive)
    u, v = ({n: random(g) for n, g in found.drive.items()} for _ in range(2))
    both = {name: u[name] + v[name] for name in names}
    of_u, of_v, of_both = (
        _at_equilibrium(replace(found, drive=drive))[0] for drive in (u, v, both)
    )
    for name, x in of_both.items():
        if _norm(of_u[name] + of_v[name] - x) > 1e-3 * (_norm(of_u[name]) + _norm(of_v[name])):
            network = replace(passed.network, is_linear=False)
            return replace(found, forward_pass=replace(passed, network=network))
    return found


def _truth(run: Run, watch: Watch, watched: Tensor) -> dict[int, Tensor]:
    """The gradient of every leaf, by autograd through the uncut module; by identity."""
    asking = run.watch(frozenset())
    wanted = (*run.parameters.values(), *tensors_in(run.arguments))
    if not any(x.requires_grad for x in wanted):
        return {}
    try:
        with run.from_start(), torch.enable_grad():
            value = run.evaluate(run())
            reached = sorted(asking.reached(value).leaves)
            leaves = [asking.leaves[key] for key in reached]
            found = torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
            if not torch.allclose(value, watched, rtol=1e-3, atol=1e-6, equal_nan=True):
                raise InputError(
                    f"{type(run.model).__name__} gives another output when it is run again from "
                    f"the same state: it draws from a random generator that is none of its "
                    f"attributes, keeps something outside its modules, or asks whether a tensor "
                    f"requires a gradient; keep both in the module"
                )
    except RuntimeError as error:
        raise InputError(
            f"autograd cannot differentiate {type(run.model).__name__} by torch.autograd.grad "
            f"({_first_line(error)}); mend that in the module"
        ) from error
    return dict(zip(reached, found, strict=True))


def _at_equilibrium(driven: Driven) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """∂𝓛/∂x̄ of every block where the pass settles, and the gradients of leaves; Eq. 7 and 2."""
    passed, x = driven.forward_pass, dict(driven.drive)
    slope = passed.derivative.get

    def send(block: Block, v: Tensor) -> Tensor:
        x[block.name] = v
        return v

    def pull(block: Block, v: Tensor, sources: tuple[str, ...]) -> tuple[Tensor, ...]:
        return passed.pull(block, scale(v, slope(block.name)), sources)

    with torch.no_grad():
        x |= passed.network.descend(driven.drive, send, pull, passed.takers)
        above, local = passed.updates(
            x, lambda block: slope(block.name), lambda block: passed.below[block.name]
        )
        changes = [*driven.penalty.items(), *(c for own in local.values() for c in own.items())]
        roots, starts = passed.ends(above | passed.of_inputs(x), changes)
        leaves = list(passed.leaves.values())
        if not leaves:
            return x, {}
        found = torch.autograd.grad(
            roots, leaves, starts, retain_graph=True, materialize_grads=True, allow_unused=True
        )
    return x, dict(zip(map(id, leaves), found, strict=True))


def _hidden(truth: Mapping[int, Tensor], precision: float) -> set[int]:
    """Leaves whose gradients are so small beside the largest that rounding is a third of them."""
    sizes = {key: _norm(g) for key, g in truth.items()}
    rounding = _rounding(sizes.values(), precision)
    return {key for key, size in sizes.items() if 0 < size < 3 * rounding}


def _probed(
    run: Run, found: Driven, hidden: Set[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Gradients of hidden leaves of Σ ⟨r, x̄⟩ over their blocks, r random: ours and autograd's.

    What lies behind a weak branch has gradients as large as any other then.
    """
    passed, generator = found.forward_pass, torch.Generator().manual_seed(0)
    names = {name for name, leaf in passed.leaves.items() if id(leaf) in hidden}
    blocks = [b.name for b in passed.network.blocks if not names.isdisjoint(b.layer.names)]
    with _uncut(passed, run) as (watch, _):
        x = {cut.name: cut.leaf for cut in watch.cuts if cut.name in blocks}
        r = {
            name: (torch.rand(leaf.shape, generator=generator) - 0.5).to(leaf)
            for name, leaf in x.items()
        }
        leaves = {key: leaf for key, leaf in watch.leaves.items() if key in hidden}
        truth = torch.autograd.grad(
            list(x.values()),
            list(leaves.values()),
            list(r.values()),
            materialize_grads=True,
            allow_unused=True,
        )
    _, ours = _at_equilibrium(replace(found, drive=r, penalty={}))
    return {key: ours[key] for key in leaves}, dict(zip(leaves, truth, strict=True))


def _rounding(sizes: Iterable[float], precision: float) -> float:
    """How far gradients that cancel may differ, the largest being of the largest of these sizes."""
    largest = max((size for size in sizes if math.isfinite(size)), default=0.0)
    share: float = min(ROUNDING * precision, precision**0.5 / 10)
    return share * largest


def _first_wrong(
    found: Mapping[int, Tensor], truth: Mapping[int, Tensor], precision: float, own: Set[int]
) -> tuple[int, float] | None:
    """The leaf whose gradient is furthest from autograd's, and how far; None if all agree.

    A leaf that a run makes anew, which is none of the module's ``own``, is another in each run.
    """
    truth = {key: g for key, g in truth.items() if key in own or key in found}
    found = {key: g for key, g in found.items() if key in own or key in truth}
    sizes = {key: _norm(g) for key, g in truth.items()}
    rounding = _rounding(sizes.values(), precision)
    tolerance = min(1e-8 if precision < 1e-12 else math.inf, precision**0.5)
    wrong = {}
    for key, g in truth.items():
        gap = _norm(g - found[key]) if key in found else sizes[key]
        if not gap <= tolerance * sizes[key] + rounding and math.isfinite(sizes[key]):
            wrong[key] = gap / sizes[key] if sizes[key] else math.inf
    for key in found.keys() - truth.keys():
        if _norm(found[key]) > rounding:
            wrong[key] = math.inf
    if not wrong:
        return None
    key = max(wrong, key=lambda each: wrong[each])
    return key, wrong[key]


def uncut_gradients(passed: ForwardPass, run: Run) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """∂𝓛/∂x̄ and x̄ of every block, by autograd through the uncut module; [batch, …] each.

    Args:
        passed: the pass whose blocks are meant.
        run: the run to be made again, such as with other weights.

    Raises:
        InputError: a module that takes another path now.
    """
    with _uncut(passed, run) as (watch, value):
        leaves = {cut.name: cut.leaf for cut in watch.cuts if cut.name}
        found = torch.autograd.grad(
            value, list(leaves.values()), materialize_grads=True, allow_unused=True
        )
    return dict(zip(leaves, found, strict=True)), {n: x.detach() for n, x in leaves.items()}


@contextlib.contextmanager
def _uncut(passed: ForwardPass, run: Run) -> Iterator[tuple[Watch, Tensor]]:
    """The run made again with its units found, but nothing cut; and its loss."""
    watch = run.watch(passed.whole, is_cutting=False)
    with run.from_start(), torch.enable_grad():
        value = run.evaluate(run.under(watch))
        passed.match(watch)
        yield watch, value


def _precision(watch: Watch, value: Tensor) -> float:
    """Rounding of the coarsest numbers of a run."""
    types = {value.dtype, *(x.dtype for x in watch.leaves.values()), *watch.types}
    return max(torch.finfo(t).eps for t in types if t.is_floating_point or t.is_complex)


def _where(run: Run, found: Driven, x: Mapping[str, Tensor], key: int) -> str:
    """The operation where gradients part."""
    passed = found.forward_pass
    truth, _ = uncut_gradients(passed, run)
    for name, g in reversed(truth.items()):
        if name in x and _norm(x[name] - g) > 1e-3 * _norm(g):
            readers = [block.name for block in passed.network.blocks if name in block.sources]
            return f"'{(readers or [name])[-1]}'"
    return "an operation that reads it"


def _norm(x: Tensor) -> float:
    dense = x.to_dense() if x.layout != torch.strided else x
    return float(torch.linalg.vector_norm(dense.to(torch.promote_types(x.dtype, torch.float32))))


def _no_path(run: Run, watch: Watch, output: Any = None) -> InputError:
    name = type(run.model).__name__
    at = f": gradients end at {watch.ending}" if watch.ending else ""
    if output is not None and not tensors_in(output):
        return InputError(
            f"{name} returns a {type(output).__name__}, in which ardyn finds no tensor; return "
            f"tensors, or tuples, lists, dicts or dataclasses of them"
        )
    return InputError(
        f"no gradient path leads from a parameter of {name} to its output{at}; relax a module "
        f"whose output depends on its weights"
    )


def _start(run: Run) -> Snapshot:
    assert run.start is not None
    return run.start


def _first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [""])[0]
