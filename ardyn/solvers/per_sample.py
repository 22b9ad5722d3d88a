"""Adaptive steps of every sample on its own, taken by the whole batch at once.

Each sample has its own time, step and error norm, as if it were solved alone; a stage of all of
them is one evaluation of the right-hand side, which must not depend on time. A sample that has
arrived takes steps of length 0.
"""

import math

from torch import Tensor

from ardyn.solvers.monitor import StepMonitor
from ardyn.solvers.stepping import Control, Stages, first_steps
from ardyn.solvers.tableaux import Tableau
from ardyn.state import State

_NO_TIME = math.nan
"""Samples are at different times, so that a right-hand side must not depend on it."""


class Clock:
    """Where one sample is in time, and which of the recorded times are still to come.

    Args:
        at: recorded times.
        step: the first step to try.
    """

    def __init__(self, at: list[float], step: float) -> None:
        self.at, self.step = at, step
        self.t = self.end = 0.0
        self.j, self.taken = int(at[0] == 0), 0

    @property
    def is_running(self) -> bool:
        """Whether recorded times are left."""
        return self.j < len(self.at)

    def begin(self, control: Control) -> float:
        """h of this step; 0 for a sample that has arrived."""
        if not self.is_running:
            return 0.0
        step = control.within(self.step)
        self.end = min(self.t + step, self.at[-1])
        self.step = self.end - self.t if self.end < self.t + step else step
        self.taken += 1
        return self.step

    def is_stuck(self, control: Control) -> bool:
        """Whether this step leads nowhere, or is one too many."""
        is_long = self.taken > control.max_num_steps
        return self.is_running and (self.end <= self.t or is_long)

    def passed(self) -> list[float]:
        """Recorded times that this step has reached; they count as recorded then."""
        first = self.j
        while self.is_running and self.at[self.j] <= self.end:
            self.j, self.taken = self.j + 1, 0
        return self.at[first : self.j]


def adaptive_by_sample(
    monitor: StepMonitor, times: Tensor, tableau: Tableau, control: Control
) -> State:
    """As ``adaptive_steps``, for an autonomous system whose samples do not depend on one another.

    Returns:
        The state at the recorded times, each tensor [time, batch, …].

    Raises:
        DivergenceError: a state that is not finite, or tolerances that no step keeps.
    """
    stages, at = Stages(monitor, tableau, by_sample=True), times.tolist()
    record = stages.layout.record(len(at))
    record[0] = stages.y  # replaced, unless it is the record of t = 0
    stages.evaluate(_NO_TIME, stages.y, 0)
    first = control.first_step
    steps = first_steps(stages, control) if first is None else [first] * len(stages.y)
    clocks = [Clock(at, step) for step in steps]
    _hold_steady(stages, clocks, record)
    while any(clock.is_running for clock in clocks):
        steps = [clock.begin(control) for clock in clocks]
        if any(clock.is_stuck(control) for clock in clocks):
            clock = next(each for each in clocks if each.is_stuck(control))
            monitor.last_time, monitor.last_state = clock.t, stages.state(stages.y)
            raise monitor.stuck("max_num_steps" if clock.end > clock.t else "no step")
        stages.run(_NO_TIME, stages.column(steps))
        errors, largest = stages.errors(control.rtol, control.atol)
        ratios = [step * error for step, error in zip(steps, errors, strict=True)]
        accepted = [
            ratio <= 1 or step <= control.min_step
            for ratio, step in zip(ratios, steps, strict=True)
        ]
        for i, clock in enumerate(clocks):
            if clock.is_running and accepted[i]:
                monitor.check_finite(clock.end, largest[i], stages.state(stages.end))
                _record(stages, clock, i, record)
                clock.t = clock.end
            clock.step = control.next(clock.step, ratios[i], tableau.order)
        stages.accept_where(accepted)
        _hold_steady(stages, clocks, record)
    return stages.layout.state(record)


def _record(stages: Stages, clock: Clock, sample: int, record: Tensor) -> None:
    """Write the states of a sample at the times that its step has passed."""
    j, passed = clock.j, clock.passed()
    within = [each for each in passed if each < clock.end]
    if within:
        shares = [(each - clock.t) / clock.step for each in within]
        rows = record[j : j + len(within), sample]
        stages.interpolate(shares, clock.step, rows, sample)
    if len(within) < len(passed):
        record[clock.j - 1, sample] = stages.end[sample]


def _hold_steady(stages: Stages, clocks: list[Clock], record: Tensor) -> None:
    """Stop samples that are at rest, and record them as they are at all times that are left."""
    monitor = stages.monitor
    if monitor.stop is None or monitor.steady_at is None:
        return
    state = stages.state(stages.y)
    steady = monitor.stop.is_reached(state, stages.rate(_NO_TIME)).tolist()
    for i, clock in enumerate(clocks):
        if steady[i] and monitor.steady_at[i].isnan():
            monitor.steady_at[i] = clock.t
            record[clock.j :, i] = stages.y[i]
            clock.j = len(clock.at)
