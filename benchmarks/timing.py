"""Timing of several computations in one process, and the table of ratios, for all benchmarks."""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
import tyro

from plots.common.command_line import exit_on_error
from studies.running.run_folder import check_device

ROUNDS = 5
"""Every computation is timed once per round, so that slow changes of processor speed affect all
equally."""
Cases = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One ratio: time of ``what`` over time of ``over``, with the target that it should meet."""

    what: str
    over: str
    at_most: float = math.inf
    at_least: float = 0.0

    @property
    def target(self) -> str:
        """The target of the ratio; empty if there is none."""
        below = f"≤ {self.at_most:g}" if self.at_most < math.inf else ""
        return f"≥ {self.at_least:g}" if self.at_least else below

    def verdict(self, ratio: float) -> str:
        """Whether the target is met; empty if there is none."""
        is_met = self.at_least <= ratio <= self.at_most
        return ("met" if is_met else "missed") if self.target else ""


def main(name: str, title: str, rows: Sequence[Row], cases: Callable[[str], Cases]) -> None:
    """Run a benchmark from the command line."""

    def script(device: str = "cpu", save: bool = False) -> None:
        """Time the computations, and print the table of ratios.

        Args:
            device: Device to compute on: cpu, cuda, cuda:1, …
            save: Also write the table to benchmarks/results/NAME-DATE-DEVICE.md, with the
                number of threads on a CPU.
        """
        with exit_on_error():
            check_device(device)
        table = _table(title, rows, _time(cases(device)), device)
        print(table)
        if save:
            folder = Path(__file__).parent / "results"
            folder.mkdir(exist_ok=True)
            where = torch.device(device).type
            on = f"cpu-{torch.get_num_threads()}" if where == "cpu" else where
            path = folder / f"{name}-{datetime.now(UTC):%Y-%m-%d}-{on}.md"
            path.write_text(table)
            print(f"saved as {path}")

    tyro.cli(script)


def _time(cases: Cases) -> dict[str, list[float]]:
    """Median time of each computation in each round, in seconds."""
    from torch.utils.benchmark import Timer

    threads = torch.get_num_threads()
    timers = {
        name: Timer("run()", globals={"run": run}, num_threads=threads)
        for name, run in cases.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            seconds[name].append(timer.blocked_autorange(min_run_time=0.3).median)
    return seconds


def _ratio(row: Row, seconds: Mapping[str, list[float]]) -> float:
    """The median over rounds of the ratio within a round."""
    pairs = zip(seconds[row.what], seconds[row.over], strict=True)
    return median(what / over for what, over in pairs)


def _table(title: str, rows: Sequence[Row], seconds: Mapping[str, list[float]], device: str) -> str:
    where = torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine()
    lines = [
        f"{title}; {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{name} ({where.type}), {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}; medians of {ROUNDS} rounds",
        "",
        "| time of | over time of | ratio | target | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratio = _ratio(row, seconds)
        cells = (row.what, row.over, f"{ratio:.2f}", row.target, row.verdict(ratio))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | milliseconds |", "| --- | --- |"]
    lines += [f"| {name} | {1e3 * median(each):.3f} |" for name, each in seconds.items()]
    return "\n".join(lines) + "\n"
