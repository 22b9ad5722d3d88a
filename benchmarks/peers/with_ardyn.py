"""The tasks by ardyn."""

import torch

import ardyn
from ardyn.solvers.system import Solver
from benchmarks.peers.problem import ATOL, RTOL, STEP, Outcome, Problem, Solve, Task, final_state


def solve(problem: Problem, task: Task) -> Solve:
    """Every task."""
    solver, times = _solver(task), torch.from_numpy(task.times)

    def run() -> ardyn.Trajectory:
        return problem.relaxation.solve(times, solver)

    def outcome() -> Outcome:
        trajectory = run()
        return Outcome(final_state(trajectory).numpy(), trajectory.evaluations)

    return Solve(run, outcome)


def _solver(task: Task) -> Solver:
    if task.is_adaptive:
        return ardyn.Adaptive(task.method, RTOL, ATOL, per_sample=task.is_per_sample)
    return ardyn.Fixed(task.method, step=STEP)
