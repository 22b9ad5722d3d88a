"""The tasks by torchdiffeq, whose steps all samples share."""

import itertools
from collections.abc import Callable

import torch
import torchdiffeq
from torch import Tensor

from benchmarks.peers.problem import (
    ATOL,
    RTOL,
    STEP,
    Outcome,
    Problem,
    RightHandSide,
    Solve,
    Task,
    norm,
)


def solve(problem: Problem, task: Task) -> Solve | None:
    """All but steps per sample."""
    if task.is_per_sample:
        return None
    rate, times = RightHandSide(problem), torch.from_numpy(task.times)
    if times[0] > 0:  # the first time is that of the initial state
        times = torch.cat([times.new_zeros(1), times])
    # A step ends at the last time, as those of the other libraries do.
    adaptive: dict[str, object] = {"step_t": times[-1:], "norm": norm}
    options = adaptive if task.is_adaptive else {"step_size": STEP}

    def run(f: Callable[[Tensor, Tensor], Tensor] = rate) -> Tensor:
        y: Tensor = torchdiffeq.odeint(
            f,
            problem.start,
            times,
            rtol=RTOL,
            atol=ATOL,
            method=task.method,
            options=dict(options),
        )
        return y

    def outcome() -> Outcome:
        evaluations = itertools.count()

        def counted(t: Tensor, y: Tensor) -> Tensor:
            next(evaluations)
            return rate.forward(t, y)

        return Outcome(run(counted)[-1].numpy(), next(evaluations))

    return Solve(run, outcome)
