"""Speed of relaxing the paper's MLP at batch 64 in float32, as ratios of times in one process.

The unit of account is the bare arithmetic of backprop through the hidden layers: three products
(v ⊙ f′) W, with nothing around them.
"""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
import tyro
from torch.nn import functional
from torch.utils.benchmark import Timer

import ardyn
from ardyn.layers import scale
from plots.command_line import refusing
from studies.runs import check_device

ROUNDS = 5
"""Every entry is timed once per round, so that a drifting clock touches all alike."""


@dataclass(frozen=True)
class Row:
    """One comparison: time of ``what`` over time of ``over``."""

    what: str
    over: str
    at_most: float = math.inf
    at_least: float = 0.0

    @property
    def bar(self) -> str:
        """What the ratio should be; empty where there is no bar."""
        below = f"≤ {self.at_most:g}" if self.at_most < math.inf else ""
        return f"≥ {self.at_least:g}" if self.at_least else below

    def verdict(self, ratio: float) -> str:
        """Whether the bar is met; empty where there is none."""
        is_met = self.at_least <= ratio <= self.at_most
        return ("met" if is_met else "missed") if self.bar else ""


ROWS = (
    Row("closed form, final state", "BP pull-backs", at_most=2.5),
    Row("closed form, 200 times", "closed form, final state", at_most=4),
    Row("closed form, 200 times, every state in hand", "closed form, final state", at_most=4),
    Row("100 Euler steps", "closed form, final state", at_least=30),
    Row("100 sweeps", "closed form, final state"),
    Row("dopri5 at rtol 1e-6", "closed form, final state", at_least=100),
    Row("ardyn.backward", "autograd forward and backward"),
)


def main(device: str = "cpu", save: bool = False) -> None:
    """Time, and print the ratios.

    Args:
        device: where to compute: cpu, cuda, …
        save: also keep the table under benchmarks/results/, dated.
    """
    with refusing():
        check_device(device)
    cases = _cases(device)
    table = _table(_time(cases), device)
    print(table)
    if save:
        folder = Path(__file__).parent / "results"
        folder.mkdir(exist_ok=True)
        path = folder / f"relaxation-{datetime.now(UTC):%Y-%m-%d}-{torch.device(device).type}.md"
        path.write_text(table)
        print(f"kept as {path}")


def _cases(device: str) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    model = ardyn.mlp([784, 300, 300, 100, 10], generator=generator).to(device)
    inputs = torch.rand(64, 784, generator=generator).to(device)
    labels = torch.randint(10, (64,), generator=generator)
    targets = functional.one_hot(labels, 10).float().to(device)
    sim = ardyn.Relaxation(model, inputs, targets)
    trace = sim.dynamics.trace
    hidden = [
        (trace.derivative.get(f"fc{i}"), trace.parameters[f"fc{i}.weight"]) for i in (4, 3, 2)
    ]
    times = torch.linspace(0.05, 10, 200)
    euler, sweep = ardyn.Fixed("euler", step=0.1), ardyn.Sweep(step=0.1)

    def pull_backs() -> None:
        v = sim.dynamics.drive["fc4"]
        for slope, W in hidden:
            v = scale(v, slope) @ W

    def states(times: object, solver: ardyn.relaxation.Solver) -> list[torch.Tensor]:
        trajectory = sim.solve(times, solver)  # type: ignore[arg-type]
        return [trajectory[unit] for unit in trajectory.units]

    def autograd() -> None:
        model.zero_grad()
        (model(inputs) - targets).square().sum().backward()

    def relaxed() -> None:
        model.zero_grad()
        ardyn.backward(model, inputs, targets)

    return {
        "BP pull-backs": pull_backs,
        "closed form, final state": lambda: states([10.0], ardyn.ClosedForm()),
        "closed form, 200 times": lambda: sim.solve(times, ardyn.ClosedForm()),
        "closed form, 200 times, every state in hand": lambda: states(times, ardyn.ClosedForm()),
        "100 Euler steps": lambda: states([10.0], euler),
        "100 sweeps": lambda: states([10.0], sweep),
        "dopri5 at rtol 1e-6": lambda: states([10.0], ardyn.Adaptive("dopri5", rtol=1e-6)),
        "autograd forward and backward": autograd,
        "ardyn.backward": relaxed,
    }


def _time(cases: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Medians in seconds, one per round."""
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


def _ratio(row: Row, seconds: dict[str, list[float]]) -> float:
    """The median over rounds, each of which compares what ran side by side."""
    pairs = zip(seconds[row.what], seconds[row.over], strict=True)
    return median(what / over for what, over in pairs)


def _table(seconds: dict[str, list[float]], device: str) -> str:
    where = torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine()
    lines = [
        f"Relaxation of 784-300-300-100-10, batch 64, float32; {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{name} ({where.type}), {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}; medians of {ROUNDS} rounds",
        "",
        "| time of | over time of | ratio | bar | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in ROWS:
        ratio = _ratio(row, seconds)
        cells = (row.what, row.over, f"{ratio:.2f}", row.bar, row.verdict(ratio))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | milliseconds |", "| --- | --- |"]
    lines += [f"| {name} | {1e3 * median(each):.3f} |" for name, each in seconds.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)
