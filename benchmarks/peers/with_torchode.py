"""The tasks by torchode, which gives every sample its own steps."""

from typing import Any

import torch
import torchode

from benchmarks.peers.problem import (
    ATOL,
    BATCH,
    END,
    RTOL,
    STEP,
    Outcome,
    Problem,
    RightHandSide,
    Solve,
    Task,
    norms,
)


def solve(problem: Problem, task: Task) -> Solve | None:
    """dopri5 per sample, and euler."""
    return _solve(problem, _solver(problem, task), task)


def solve_compiled(problem: Problem, task: Task) -> Solve | None:
    """The same with its step and its controller compiled.

    Not the whole loop: TorchScript, which torchode is written for, fails on it in torch 2.13, and
    torch.compile takes minutes for it, for no gain.
    """
    solver = _solver(problem, task)
    if solver is None or not task.is_adaptive:
        return None
    solver.step_method.step = torch.compile(solver.step_method.step)
    control = solver.step_size_controller
    control.adapt_step_size = torch.compile(control.adapt_step_size)
    return _solve(problem, solver, task)


def _solver(problem: Problem, task: Task) -> Any:
    """The solver; None where torchode has no such method."""
    term = torchode.ODETerm(RightHandSide(problem))
    if task.method == "dopri5" and task.is_per_sample:
        control = torchode.IntegralController(ATOL, RTOL, term=term, norm=norms)
        return torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
    if task.method == "euler":
        control = torchode.FixedStepController()
        return torchode.AutoDiffAdjoint(torchode.Euler(term=term), control)
    return None


def _solve(problem: Problem, solver: Any, task: Task) -> Solve | None:
    if solver is None:
        return None
    times = torch.from_numpy(task.times).expand(BATCH, -1)
    start, end = times.new_zeros(BATCH), times.new_full((BATCH,), END)
    first = None if task.is_adaptive else times.new_full((BATCH,), STEP)

    def run() -> Any:
        recorded = times if task.is_recorded else None
        initial = torchode.InitialValueProblem(problem.start, start, end, recorded)
        return solver.solve(initial, dt0=first)

    def outcome() -> Outcome:
        solution = run()
        return Outcome(solution.ys[:, -1].numpy(), int(solution.stats["n_f_evals"].max()))

    return Solve(run, outcome)
