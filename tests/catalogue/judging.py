"""Are the gradients at the end of a relaxation those of loss.backward()?"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.parameter import is_lazy

import ardyn
from tests.catalogue.entries import Entry

Verdict = Literal["right", "refused", "wrong", "raised", "no truth", "not installed"]
DURATION = 200.0
"""In units of τ; enough for chains of some hundred units."""
ROUNDING = 1e-12
"""Of the largest gradient, below which nothing is compared."""


@dataclass(frozen=True)
class Judgement:
    """What became of an entry."""

    entry: Entry
    verdict: Verdict
    sentence: str = ""
    units: int = 0
    seconds: float = 0.0


def judge(entry: Entry, is_counting_units: bool = True) -> Judgement:
    """Compare ardyn's gradients of every parameter with those of backprop.

    Both start from the same weights, the same batch and the same random numbers.
    """
    start = time.perf_counter()
    with _default_dtype(entry.dtype):
        verdict, sentence = _judged(entry)
        units = _units(entry) if is_counting_units and verdict == "right" else 0
    return Judgement(entry, verdict, sentence, units, time.perf_counter() - start)


def _judged(entry: Entry) -> tuple[Verdict, str]:
    try:
        model, inputs = made(entry)
        _seed(2)
        value = objective(_call(model, inputs))
        value.backward()
    except ImportError as error:
        return "not installed", str(error).splitlines()[0]
    except Exception as error:
        return "no truth", _told(error)
    truth, state = _gradients(model), _buffers(model)
    if not any(_norm(g) > 0 for g in truth.values()):
        return "no truth", "no gradient reaches a parameter"
    model, inputs = made(entry)
    _seed(2)
    try:
        found_value = ardyn.backward(model, inputs, torch.zeros(1), objective, duration=DURATION)
    except ardyn.InputError as error:
        return "refused", str(error)
    except Exception as error:
        return "raised", _told(error)
    if not torch.allclose(found_value, value.detach(), rtol=entry.tolerance):
        return "wrong", f"the loss is {found_value.item():.6g}, not {value.item():.6g}"
    verdict, sentence = _compared(_gradients(model), truth, entry.tolerance)
    if verdict != "right":
        return verdict, sentence
    for name, x in _buffers(model).items():
        if not torch.equal(x, state[name]):
            return "wrong", f"buffer '{name}' is not what one run leaves behind"
    return "right", ""


def _compared(
    found: dict[str, Tensor | None], truth: dict[str, Tensor | None], tolerance: float
) -> tuple[Verdict, str]:
    largest = max(_norm(g) for g in truth.values())
    worst, where = 0.0, ""
    for name, g in truth.items():
        gap = _norm(_minus(found[name], g))
        if not gap <= tolerance * _norm(g) + ROUNDING * largest:
            error = gap / _norm(g) if _norm(g) else float("inf")
            worst, where = max((worst, where), (error, name))
    if where:
        return "wrong", f"the gradient of '{where}' is off by {worst:.2g} of its size"
    return "right", ""


def objective(output: Any, _: Any = None) -> Tensor:
    """Σ |x|² / 2 + Σ Re x over all that a module returns, which reaches every output."""
    terms = [(x.abs().square() / 2 + x.real).sum() for x in _continuous(output)]
    if not terms:
        raise ValueError("the module returns no tensor that bears a gradient")
    return torch.stack([term.to(terms[0].dtype) for term in terms]).sum()


def _continuous(value: Any) -> Iterator[Tensor]:
    """Every floating or complex tensor in an output."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield value.to_dense() if value.layout != torch.strided else value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _continuous(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _continuous(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _continuous(getattr(value, each.name))
    elif isinstance(value, (SimpleNamespace, Distribution)):
        for each in vars(value).values():
            yield from _continuous(each)


def made(entry: Entry) -> tuple[nn.Module, Any]:
    """The module and its batch, the same each time."""
    _seed(0)
    model = entry.make().train(entry.train)
    if entry.dtype == torch.float64:
        model = model.double()
    _seed(1)
    with torch.no_grad():
        # A weight that starts at one value, such as 0, could hide a gradient that is wrong.
        for p in model.parameters():
            if is_lazy(p) or not p.is_floating_point() or not p.numel():
                continue
            if (p == p.flatten()[0]).all():
                p.add_(0.2 * torch.randn(p.shape).to(p))
    return model, entry.inputs()


def _units(entry: Entry) -> int:
    model, inputs = made(entry)
    return len(ardyn.Relaxation(model, inputs, torch.zeros(1), objective).network.units)


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def _gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters(remove_duplicate=False)}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().to_dense().clone() for name, x in model.named_buffers()}


def _minus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a.to_dense() - b.to_dense()


def _norm(g: Tensor | None) -> float:
    return 0.0 if g is None else float(torch.linalg.vector_norm(g.to_dense()))


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (modules draw from it)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def count(judgements: list[Judgement]) -> dict[str, Counter[str]]:
    """How many of each verdict, by group."""
    counts: dict[str, Counter[str]] = {}
    for each in judgements:
        counts.setdefault(each.entry.group, Counter())[each.verdict] += 1
    return counts
