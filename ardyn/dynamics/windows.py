"""Coupled dynamics solved over the window of plasticity, in intervals that fit into memory."""

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
    """Weights and feedback weights at some of the recorded times, the last one included."""

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


MAX_RECORDED = 2**21
"""Most elements that one call of a solver records, unless one state has more. torchdiffeq stores
them twice, which takes 16 MB in float32."""


_NO_PLASTICITY = Plasticity()


def relax_coupled(
    dynamics: Dynamics, plasticity: Plasticity, times: Tensor, solver: Solver, every: int = 0
) -> tuple[Solution, Learned]:
    """Relax with weights that are plastic within their window, one solver call per interval.

    An interval ends where the window begins or ends, so that no step of the solver crosses the
    discontinuity, and where the recorded states, weights included, would exceed ``MAX_RECORDED``.

    Args:
        times: times to record, increasing, 0 or later.
        every: keep the weights at every ``every``-th recorded time; 0 keeps those at the last one.
    """
    state, start, evaluations = dynamics.initial(), 0.0, 0
    step = getattr(solver, "step", 0.0)
    fast: list[State] = []
    kept: list[tuple[float, Dynamics]] = []
    # A recorded state of the solver includes all weights, of which there are usually far more than
    # activities: a long record would hold a copy of the network for each time.
    size = sum(x.numel() for x in Coupled.of(dynamics, plasticity, state).initial().tensors())
    number = 0
    for end, recorded in _intervals(plasticity, times, step, most=max(1, MAX_RECORDED // size)):
        is_plastic = plasticity.window[0] <= start < plasticity.window[1]
        system = Coupled.of(dynamics, plasticity if is_plastic else _NO_PLASTICITY, state, start)
        # A solver's time starts at 0 in every interval. Its last state is recorded even where the
        # user asked for none there, as the next interval starts from it.
        stops = sorted({*(t - start for t in recorded), end - start})
        solution = solver.solve(system, torch.tensor(stops, dtype=torch.float64))
        evaluations += solution.evaluations
        for i, t in enumerate(recorded):
            fast.append(_entry(State(solution.record.activity, solution.record.trace), i))
            number += 1
            if every and number % every == 0 and t < times[-1]:
                kept.append((t, system.at(_entry(solution.record, i))))
        last = _entry(solution.record, -1)
        del solution  # frees the recorded weights before the next interval allocates its own
        state, dynamics, start = State(last.activity, last.trace), system.at(last), end
    kept.append((start, dynamics))
    record = fast[0].with_tensors(
        [torch.stack(x) for x in zip(*(each.tensors() for each in fast), strict=True)]
    )
    return Solution(record, evaluations), _learned(kept, plasticity)


def _intervals(
    plasticity: Plasticity, times: Tensor, step: float, most: int
) -> Iterator[tuple[float, list[float]]]:
    """The end of each interval, and the times to record in it, of which there are about ``most``.

    With a constant step h an interval ends on the grid of steps, so that the recorded times do not
    affect the solution. Adams methods are the exception: they lose the history of their steps.
    """
    at: list[float] = times.tolist()
    edges = sorted(edge for edge in plasticity.window if 0 < edge < at[-1] * (1 - ROUNDING))
    # Half-open intervals (before, edge], the first of which must contain a recorded time 0.
    for before, edge in itertools.pairwise([-1.0, *edges, at[-1]]):
        remaining, start = [t for t in at if before < t <= edge], max(before, 0.0)
        while len(remaining) > most:
            # States between nodes are interpolated: continuing from one would shift the grid and
            # start from a state that the scheme does not produce.
            end = min(_on_grid(remaining[most - 1], start, step), edge)
            recorded = [t for t in remaining if t <= end]
            if len(recorded) == len(remaining):
                break
            yield end, recorded
            remaining, start = remaining[len(recorded) :], end
        yield edge, remaining


def _on_grid(t: float, start: float, step: float) -> float:
    """The first node of the grid start, start + h, … at or after t; t itself for adaptive steps."""
    if step == 0:
        return t
    # The tolerance keeps rounding of a t that is a node from adding one more step.
    return max(t, start + step * math.ceil((t - start) / step - 1e-9))


def _entry(record: State, i: int) -> State:
    """One state of a record, copied, as a view would keep the whole record in memory."""
    return record.with_tensors([x[i].clone() for x in record.tensors()])


def _learned(kept: list[tuple[float, Dynamics]], plasticity: Plasticity) -> Learned:
    of = Coupled.of(kept[0][1], plasticity, State({})).initial()
    return Learned(
        torch.tensor([t for t, _ in kept], dtype=torch.float64),
        {n: torch.stack([each.forward_pass.parameters[n] for _, each in kept]) for n in of.weights},
        {n: torch.stack([each.feedback[n] for _, each in kept]) for n in of.feedback},
    )


def check_steps(plasticity: Plasticity, solver: Solver) -> None:
    """Raise InputError for plastic weights and a solver without steps, such as ClosedForm."""
    if plasticity.moves and not getattr(solver, "steps", True):
        raise InputError(
            f"{type(solver).__name__} takes no steps, so that it needs constant weights: with "
            f"tau_weights = {plasticity.tau_weights:g} and tau_feedback = "
            f"{plasticity.tau_feedback:g} their products with activities are not linear; pass an "
            f"adaptive solver such as Adaptive('dopri5')"
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
        raise InputError("a relaxation with plastic weights has no steady state; drop stop")
    fastest = min(plasticity.tau_weights, plasticity.tau_feedback)
    step = getattr(solver, "step", 0.0)
    if step > fastest:
        raise InputError(
            f"a step of {step:g} is longer than the weights' time constant {fastest:g}; use a "
            f"shorter step, or a longer time constant"
        )
    if end is not None:
        check_window_within(plasticity.window, end)
    check_untied(dynamics.forward_pass.parameters)
    for block in dynamics.forward_pass.network.blocks:
        if block.layer.names and not block.layer.is_local:
            raise InputError(
                f"plasticity applies to the weights of fully connected layers and convolutions, "
                f"but block '{block.name}' has parameters of its own, differentiated at the frozen "
                f"pass; train such a network by ardyn.backward"
            )
