"""Activities, traces, weights and feedback weights as one state of one ODE.

    τ_l ẋ^l = −x^l + pull_l(x^{l+1}),   τ_z ż = x − z,   τ_W Ẇ = −∂𝓛/∂W − λ_W W,   τ_ψ ψ̇ likewise

with the current W in the pull-back and in a current derivative. What was frozen at the feed-forward
pass, x̄ and f′, stays so.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.learning import block_gradients, feedback_gradients, parameter_gradients
from ardyn.dynamics.plasticity import ROUNDING, Plasticity, learn
from ardyn.network.layers import PerMember
from ardyn.solvers.system import Solution
from ardyn.state import State


@dataclass(frozen=True)
class Coupled:
    """The right-hand side while weights move; from any state on."""

    dynamics: Dynamics
    plasticity: Plasticity
    start: State
    since: float = 0.0
    """When it starts, in the time of the relaxation."""

    @staticmethod
    def of(
        dynamics: Dynamics, plasticity: Plasticity, fast: State, since: float = 0.0
    ) -> "Coupled":
        """From activities and traces, with the weights as the dynamics have them."""
        passed = dynamics.forward_pass
        learned = [
            block
            for block, psi in dynamics.feedback.items()
            if dynamics.rules[block].feedback == "learned"
        ]
        weights = {
            name: passed.parameters[name]
            for block in passed.network.blocks
            for name in (getattr(block.layer, "weight", None), getattr(block.layer, "bias", None))
            if name is not None and name not in dynamics.held
        }
        return Coupled(
            dynamics,
            plasticity,
            State(
                fast.activity,
                fast.trace,
                weights if plasticity.tau_weights < math.inf else {},
                {block: dynamics.feedback[block] for block in learned}
                if plasticity.tau_feedback < math.inf
                else {},
            ),
            since,
        )

    def initial(self) -> State:
        """Where it starts."""
        return self.start

    def __call__(self, t: Tensor | float, state: State) -> State:
        """d(state)/dt."""
        now = self.at(state)
        fast = now(t, State(state.activity, state.trace))
        if not (state.weights or state.feedback):
            return fast
        slow = self._slow_rate(now, state)
        return replace(slow, activity=fast.activity, trace=fast.trace)

    def _slow_rate(self, now: Dynamics, state: State) -> State:
        changes = block_gradients(now, state.activity, state.trace)
        return slow_rate(self.plasticity, now, state, changes)

    def sweep(self, state: State, step: float) -> State:
        """One sequential sweep of the activities, then an Euler step of the weights."""
        now = self.at(state)
        swept = now.sweep(State(state.activity, state.trace), step)
        slow = self._slow_rate(now, replace(state, activity=swept.activity, trace=swept.trace))
        return State(
            swept.activity,
            swept.trace,
            {name: W + step * slow.weights[name] for name, W in state.weights.items()},
            {block: psi + step * slow.feedback[block] for block, psi in state.feedback.items()},
        )

    def at(self, state: State) -> Dynamics:
        """The dynamics with the weights of a state."""
        passed = self.dynamics.forward_pass
        parameters = {**passed.parameters, **state.weights}
        return replace(
            self.dynamics,
            forward_pass=replace(passed, parameters=parameters),
            feedback={**self.dynamics.feedback, **state.feedback},
        )


def slow_rate(
    plasticity: Plasticity,
    now: Dynamics,
    state: State,
    changes: Mapping[str, Mapping[str, Tensor]],
    span: float = 1.0,
) -> State:
    """d(W, b, ψ)/dt, or their change over a time ``span`` where ``changes`` are integrals over it.

    Args:
        now: the dynamics with the weights of the moment.
        state: what moves.
        changes: Eq. 2, {block: {parameter: gradient}}, summed over the batch.
    """
    gradients, learned = parameter_gradients(changes), feedback_gradients(now, changes)
    p = plasticity
    share = members(now) / len(now.like) if p.reduction == "mean" else 1.0
    return State(
        {},
        {},
        {
            name: learn(W, gradients[name], p.tau_weights, span * p.weight_decay, share)
            for name, W in state.weights.items()
        },
        {
            block: learn(psi, learned[block], p.tau_feedback, span * p.feedback_decay, share)
            for block, psi in state.feedback.items()
        },
    )


def members(dynamics: Dynamics) -> int:
    """How many networks share the batch: those of an ensemble, else one."""
    passed = dynamics.forward_pass
    layers = (block.layer for block in passed.network.blocks)
    stacked = [each.weight for each in layers if isinstance(each, PerMember)]
    return len(passed.parameters[stacked[0]]) if stacked else 1


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


class Stepper(Protocol):
    """Adaptive, Fixed or Sweep."""

    def solve(self, system: Coupled, times: Tensor) -> Solution: ...


AT_ONCE = 2**21
"""Numbers that one call of a solver records at most, beyond a single state; torchdiffeq holds them
twice, which is 16 MB in float32."""
HELD = Plasticity()


def relax_coupled(
    dynamics: Dynamics, plasticity: Plasticity, times: Tensor, solver: Stepper, every: int = 0
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
