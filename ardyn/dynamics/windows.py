"""Coupled dynamics solved over the window of plasticity, in pieces that fit into memory."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.coupled import Coupled, check_untied
from ardyn.dynamics.plasticity import ROUNDING, Plasticity, check_window_within
from ardyn.errors import InputError
from ardyn.solvers.system import Solution, Solver, Stop
from ardyn.state import State


@dataclass(frozen=True, repr=False)
class Learned:
    """Weights and feedback weights at some of the recorded times, the last one among them."""

    times: Tensor
    """[record]."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """By parameter, [record, …]."""
    feedback: dict[str, Tensor] = field(default_factory=dict)
    """By block, [record, n_l, n_{l+1}]."""

    def __repr__(self) -> str:
        parts = self.weights | {f"ψ of {block}": psi for block, psi in self.feedback.items()}
        shapes = ", ".join(f"{name} {list(x.shape[1:])}" for name, x in parts.items())
        count = f"{len(self.times)} record{'' if len(self.times) == 1 else 's'}"
        return f"<Learned, {count} to {float(self.times[-1]):g}: {shapes}>"


AT_ONCE = 2**21
"""Numbers that one call of a solver records at most, beyond a single state; torchdiffeq holds them
twice, which is 16 MB in float32."""


HELD = Plasticity()


def relax_coupled(
    dynamics: Dynamics, plasticity: Plasticity, times: Tensor, solver: Solver, every: int = 0
) -> tuple[Solution, Learned]:
    """Relax while weights move within their window; where it opens or closes, a step ends.

    The solver starts anew there, and whenever the recorded states, weights included, would take
    too much memory.

    Args:
        times: recorded, increasing, from 0 on.
        every: keep the weights at every so many of the recorded times; 0: at the last alone.
    """
    state, start, evaluations = dynamics.initial(), 0.0, 0
    step = getattr(solver, "step", 0.0)
    fast: list[State] = []
    kept: list[tuple[float, Dynamics]] = []
    size = sum(x.numel() for x in Coupled.of(dynamics, plasticity, state).initial().tensors())
    number = 0
    for end, recorded in _pieces(plasticity, times, step, most=max(1, AT_ONCE // size)):
        is_moving = plasticity.window[0] <= start < plasticity.window[1]
        system = Coupled.of(dynamics, plasticity if is_moving else HELD, state, start)
        stops = sorted({*(t - start for t in recorded), end - start})
        solution = solver.solve(system, torch.tensor(stops, dtype=torch.float64))
        evaluations += solution.evaluations
        for i, t in enumerate(recorded):
            fast.append(_entry(State(solution.record.activity, solution.record.trace), i))
            number += 1
            if every and number % every == 0 and t < times[-1]:
                kept.append((t, system.at(_entry(solution.record, i))))
        last = _entry(solution.record, -1)
        del solution  # all the weights that it recorded
        state, dynamics, start = State(last.activity, last.trace), system.at(last), end
    kept.append((start, dynamics))
    record = fast[0].with_tensors(
        [torch.stack(x) for x in zip(*(each.tensors() for each in fast), strict=True)]
    )
    return Solution(record, evaluations), _learned(kept, plasticity)


def _pieces(
    plasticity: Plasticity, times: Tensor, step: float, most: int
) -> Iterator[tuple[float, list[float]]]:
    """Where each call of the solver ends, and the times that it records.

    A solver of constant step is stopped on its grid, so that what is recorded changes no step;
    only Adams' methods, which remember earlier steps, start anew with each piece.
    """
    at: list[float] = times.tolist()
    edges = sorted(edge for edge in plasticity.window if 0 < edge < at[-1] * (1 - ROUNDING))
    for before, edge in itertools.pairwise([-1.0, *edges, at[-1]]):
        left, start = [t for t in at if before < t <= edge], max(before, 0.0)
        while len(left) > most:
            end = min(_on_grid(left[most - 1], start, step), edge)
            group = [t for t in left if t <= end]
            if len(group) == len(left):
                break
            yield end, group
            left, start = left[len(group) :], end
        yield edge, left


def _on_grid(t: float, start: float, step: float) -> float:
    """``t``, or the first point of the grid after it."""
    if step == 0:
        return t
    return max(t, start + step * math.ceil((t - start) / step - 1e-9))


def _entry(record: State, i: int) -> State:
    """A state of its own, that keeps no others in memory."""
    return record.with_tensors([x[i].clone() for x in record.tensors()])


def _learned(kept: list[tuple[float, Dynamics]], plasticity: Plasticity) -> Learned:
    of = Coupled.of(kept[0][1], plasticity, State({})).initial()
    return Learned(
        torch.tensor([t for t, _ in kept], dtype=torch.float64),
        {n: torch.stack([each.forward_pass.parameters[n] for _, each in kept]) for n in of.weights},
        {n: torch.stack([each.feedback[n] for _, each in kept]) for n in of.feedback},
    )


def check_steps(plasticity: Plasticity, solver: Solver) -> None:
    """Raise InputError for moving weights and a solver that does not step, such as ClosedForm."""
    if plasticity.moves and not getattr(solver, "steps", True):
        raise InputError(
            f"ClosedForm ('exact', the default) needs weights that stand still: with tau_weights = "
            f"{plasticity.tau_weights:g} and tau_feedback = {plasticity.tau_feedback:g} their "
            f"products with activities are not linear; pass an adaptive solver such as "
            f"Adaptive('dopri5')"
        )


def check_plasticity(
    plasticity: Plasticity,
    dynamics: Dynamics,
    solver: Solver,
    end: float | None = None,
    stop: Stop | None = None,
) -> None:
    """Raise InputError for plasticity that this network, or this solver, cannot integrate."""
    check_steps(plasticity, solver)
    if stop is not None:
        raise InputError("a relaxation whose weights move comes to no rest; drop stop")
    fastest = min(plasticity.tau_weights, plasticity.tau_feedback)
    step = getattr(solver, "step", 0.0)
    if step > fastest:
        raise InputError(
            f"a step of {step:g} is longer than the weights' time constant {fastest:g}; use a step "
            f"below it, or slower weights"
        )
    if end is not None:
        check_window_within(plasticity.window, end)
    check_untied(dynamics.forward_pass.parameters)
    for block in dynamics.forward_pass.network.blocks:
        if block.layer.names and not block.layer.is_local:
            raise InputError(
                f"plasticity moves the weights of fully connected layers and convolutions, but "
                f"block '{block.name}' has parameters of its own, differentiated at the frozen "
                f"pass; train such a network by ardyn.backward"
            )
