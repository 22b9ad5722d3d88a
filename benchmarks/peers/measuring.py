"""All tasks by all libraries in one process, on the processors that it may use."""

import os
import time
import warnings
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.peers import with_ardyn, with_diffrax, with_torchdiffeq, with_torchode
from benchmarks.peers.problem import TASKS, Problem, Solve, Task, paper_mlp

ROUNDS = 5
"""Every solve is timed once per round, so that slow changes of processor speed affect all
equally."""
OURS = "ardyn"
LIBRARIES: dict[str, Callable[[Problem, Task], Solve | None]] = {
    OURS: with_ardyn.solve,
    "torchdiffeq": with_torchdiffeq.solve,
    "diffrax": with_diffrax.solve,
    "torchode": with_torchode.solve,
    "torchode, steps compiled": with_torchode.solve_compiled,
}
Solves = dict[tuple[Task, str], Solve]


def _solves(problem: Problem) -> Solves:
    """Each task by each library that can."""
    solves = {
        (task, library): solve(problem, task)
        for task in TASKS
        for library, solve in LIBRARIES.items()
    }
    return {key: solve for key, solve in solves.items() if solve is not None}


def _milliseconds(solve: Solve) -> float:
    time.sleep(0.01)  # the threads of the library before have come to rest
    start = time.perf_counter()
    solve.run()
    return 1e3 * (time.perf_counter() - start)


def _rows(problem: Problem, solves: Solves) -> list[str]:
    # The outcomes come first, as a first run compiles.
    outcomes = {key: solve.outcome() for key, solve in solves.items()}
    rounds = [{key: _milliseconds(solve) for key, solve in solves.items()} for _ in range(ROUNDS)]
    rows = []
    for (task, library), outcome in outcomes.items():
        took = median(each[task, library] for each in rounds)
        ratio = median(each[task, library] / each[task, OURS] for each in rounds)
        error = problem.error(outcome.final)
        cells = (task, library, f"{took:.1f}", f"{ratio:.2f}", outcome.evaluations, f"{error:.1e}")
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def main() -> None:
    """Print the table of this process."""
    warnings.simplefilter("ignore")
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)  # JAX takes as many as there are processors to use
    problem = paper_mlp()
    head = ("task", "library", "milliseconds", "over ardyn", "evaluations", "error")
    print(f"## {threads} thread{'s' if threads > 1 else ''}\n")
    print(f"| {' | '.join(head)} |\n| {' | '.join('---' for _ in head)} |")
    print("\n".join(_rows(problem, _solves(problem))))


if __name__ == "__main__":
    main()
