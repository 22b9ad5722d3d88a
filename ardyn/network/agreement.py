"""A pass whose gradients at the equilibrium are not autograd's is refused.

Whenever the sequence of calls is a new one, the gradients at the equilibrium, of every parameter
that autograd reaches and of every input that requires one, are compared with autograd's through the
uncut module: the same run, from the same state.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ardyn.errors import InputError, first_line
from ardyn.network.activations import scale
from ardyn.network.containers import tensors_in
from ardyn.network.forward_pass import Driven, ForwardPass, driven_by_loss
from ardyn.network.graph import Graph
from ardyn.network.network import Block, Network
from ardyn.network.run import Run, Watched
from ardyn.network.watching import Watch

ROUNDING = 1000.0
"""Gradients that cancel are compared to this many roundings of the largest one."""


def agreed(watched: Watched, network: Network) -> tuple[Driven, bool]:
    """The pass, with a network whose gradients at the equilibrium are autograd's.

    And whether that holds for other batches, too.

    Raises:
        InputError: no parameter to learn, or gradients that differ, also without local rules.
    """
    run = watched.run
    if not any(block.layer.names for block in network.blocks):
        raise no_path(run, watched.watch)
    own = {id(x): x for x in (*run.parameters.values(), *tensors_in(run.arguments))}
    try:
        with _without_hooks(own.values()):
            return _compared(watched, network, own.keys())
    except RuntimeError as error:
        raise InputError(
            f"autograd cannot pull back through a part of {type(run.model).__name__} "
            f"({first_line(error)}); correct that in the module, or use units='block'"
        ) from error


@contextlib.contextmanager
def _without_hooks(leaves: Iterable[Tensor]) -> Iterator[None]:
    """The user's hooks on parameters must not see the gradients of a comparison."""
    kept = [(x._backward_hooks, dict(x._backward_hooks)) for x in leaves if x._backward_hooks]
    for hooks, _ in kept:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, own in kept:
            hooks.update(own)


def _compared(watched: Watched, network: Network, own: Set[int]) -> tuple[Driven, bool]:
    run, watch = watched.run, watched.watch
    truth, precision = _truth(watched), _precision(watched)
    for each in (network, network.by_autograd):
        found = driven_by_loss(watched, each)
        x, gradients = _at_equilibrium(found)
        wrong = _first_wrong(gradients, truth, precision, own)
        hidden = own & _hidden(truth, precision) if wrong is None else set()
        if hidden and not watch.is_hooked:
            wrong = _first_wrong(*_probed(run, found, hidden), precision, own)
        if wrong is None:
            # What is zero now proves nothing for a batch where it is not.
            proves = all(0 < _norm(g) < math.inf for key, g in truth.items() if key in own)
            is_odd = watch.is_hooked or watch.graph.has_functions
            return (_with_linearity(found) if is_odd else found), proves
    assert wrong is not None
    key, size = wrong
    where = _where(run, found, x, key)
    raise InputError(
        f"the gradient of '{watch.name_of(key)}' at the equilibrium differs from autograd's by "
        f"{size:.2g} of its size; they differ first at {where}, which ardyn cannot relax"
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


def _truth(watched: Watched) -> dict[int, Tensor]:
    """The gradient of every leaf, by autograd through the uncut module; by identity."""
    run, graph = watched.run, Graph()
    wanted = (*run.parameters.values(), *tensors_in(run.arguments))
    if not any(x.requires_grad for x in wanted):
        return {}
    try:
        with run.from_start(), torch.enable_grad():
            value = run.evaluate(run())
            reached = sorted(graph.reached(value).leaves)
            leaves = [graph.leaves[key] for key in reached]
            found = torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
            if not torch.allclose(value, watched.value, rtol=1e-3, atol=1e-6, equal_nan=True):
                raise InputError(
                    f"{type(run.model).__name__} gives another output when it is run again from "
                    f"the same state: it draws from a random generator that is not one of its "
                    f"attributes, has state outside its modules, or depends on whether a tensor "
                    f"requires a gradient; keep generators and state in the module"
                )
    except RuntimeError as error:
        raise InputError(
            f"autograd cannot differentiate {type(run.model).__name__} by torch.autograd.grad "
            f"({first_line(error)}); correct that in the module"
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

    So the gradients behind a branch of small weights are as large as any other.
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
        leaves = {key: leaf for key, leaf in watch.graph.leaves.items() if key in hidden}
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


def _precision(watched: Watched) -> float:
    """Rounding of the coarsest numbers of a run."""
    watch, value = watched.watch, watched.value
    types = {value.dtype, *(x.dtype for x in watch.graph.leaves.values()), *watch.values.types}
    return max(torch.finfo(t).eps for t in types if t.is_floating_point or t.is_complex)


def _where(run: Run, found: Driven, x: Mapping[str, Tensor], key: int) -> str:
    """The operation at which the gradients differ first."""
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


def no_path(run: Run, watch: Watch, output: Any = None) -> InputError:
    """No gradient leads from the output to a parameter; and where it ends, if that is known."""
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
