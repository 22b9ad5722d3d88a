"""ardyn beside its peers, with one thread and with two: ``python -m benchmarks.peers [--save]``.

For a machine that does nothing else (Linux): where a processor is shared, PyTorch's two threads
wait for one another, and take many times as long.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
LIBRARIES = ("ardyn", "torch", "torchdiffeq", "torchode", "jax", "diffrax")
NOTES = """\
Relaxation of 784-300-300-100-10, batch 64, float32, sum of squared errors, τ = 1, to t = 10. The
equation, initial state, tolerances (rtol 1e-6, atol 1e-9), error norm (the largest root mean square
of a layer) and constant step (0.1) are the same for all; each library finds its first step. The
final state is recorded, or 201 times. diffrax is compiled before it is timed.

Each number of threads is a process bound to as many processors, where every solve is timed once per
round; medians over rounds. Evaluations are those of the right-hand side for the whole batch. The
error is that of the final state, ‖x − exact‖ / ‖exact‖, with the closed form in float64. Below
2e-6 it is rounding, most of it from interpolation, which some libraries also do at the end.

Steps per sample: torchode has no others, of diffrax it is the solve of one sample under vmap, and
torchdiffeq has none. A method that a library does not have is not in the table; diffrax has no rk4,
torchode neither bosh3, dopri8, midpoint nor rk4."""


def _table(processors: Sequence[int]) -> str:
    """What a process on these processors measures."""
    os.sched_setaffinity(0, processors)
    command = [sys.executable, "-m", "benchmarks.peers.measuring"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    """Measure, print the tables, and save them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--save", action="store_true", help="also write benchmarks/results/peers-DATE-cpu.md"
    )
    arguments = parser.parse_args()
    today, allowed = f"{datetime.now(UTC):%Y-%m-%d}", sorted(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    head = (
        f"ardyn and its peers; {today}\n\n"
        f"{platform.machine()} (cpu), Python {platform.python_version()}, {versions}\n\n{NOTES}\n"
    )
    text = "\n".join([head, *(_table(allowed[:threads]) for threads in (1, 2))])
    print(text)
    if arguments.save:
        path = RESULTS / f"peers-{today}-cpu.md"
        path.write_text(text)
        print(f"saved as {path}")


if __name__ == "__main__":
    main()
