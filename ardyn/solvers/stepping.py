"""Explicit Runge–Kutta steps at the price of their evaluations.

torchdiffeq's methods, error norm, first step, controller and interpolant, so that the same steps
are taken, accepted and rejected. The state is one vector, and the rates of the stages are rows of
one buffer that all steps share: a stage is one matrix–vector product, and all recorded times within
a step are one matrix product. torchdiffeq keeps the stages on the last axis, and times as tensors.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ardyn.solvers.monitor import StepMonitor
from ardyn.solvers.system import InPlace, grid
from ardyn.solvers.tableaux import Row, Tableau
from ardyn.solvers.vectors import Layout
from ardyn.state import State


@dataclass(frozen=True)
class Control:
    """How an adaptive method chooses its steps; the names are those of torchdiffeq's options.

    Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, II.4.
    """

    rtol: float
    atol: float
    first_step: float | None = None
    safety: float = 0.9
    ifactor: float = 10.0
    dfactor: float = 0.2
    min_step: float = 0.0
    max_step: float = math.inf
    max_num_steps: int = 2**31 - 1
    """Between two recorded times."""

    def within(self, step: float) -> float:
        """A step that the limits allow."""
        step = step if math.isfinite(step) else self.min_step
        return min(max(step, self.min_step), self.max_step)

    def next(self, step: float, ratio: float, order: int) -> float:
        """h · safety / ratio^(1/order), within limits; ratio is the error over the tolerance."""
        if ratio == 0:
            return step * self.ifactor
        if math.isnan(ratio):
            return math.nan
        least = 1.0 if ratio < 1 else self.dfactor
        factor: float = min(self.ifactor, max(self.safety / ratio ** (1 / order), least))
        return step * factor


class Stages:
    """The vectors of a step: y at its start and at its end, and the rates k_i of its stages."""

    def __init__(self, monitor: StepMonitor, tableau: Tableau, by_sample: bool = False) -> None:
        self.monitor, self.tableau = monitor, tableau
        self.layout, self.is_by_sample = Layout(monitor.names, by_sample), by_sample
        self.y, self.end = self.layout.new(2)
        self.layout.write(monitor.names, self.y)
        self.k = self.layout.new(len(tableau.c))
        self._columns = [self.k[:i].flatten(1).T for i in range(len(self.k) + 1)]
        self._weights = {row: self._numbers(row) for row in (*tableau.a, tableau.b)}
        self._error = self._numbers(tableau.error)
        self._quartic = _quartic(tableau) if tableau.middle else None
        self._states = {id(v): self.layout.state(v) for v in (self.y, self.end)}
        self._rates = [self.layout.state(row) for row in self.k]
        # Asked once: in Python 3.11 it takes as long as a small evaluation.
        self._in_place: InPlace | None = None
        if self.layout.has_views and isinstance(monitor.system, InPlace):
            self._in_place = monitor.system

    @cached_property
    def scale(self) -> Tensor:
        """Room for the tolerance of each number."""
        return self.layout.new()

    @cached_property
    def ratio(self) -> Tensor:
        """Room for the error of each number over its tolerance."""
        return self.layout.new()

    @cached_property
    def _ratios(self) -> list[Tensor]:
        return self.layout.split(self.ratio)

    def _numbers(self, row: Row) -> Tensor:
        return torch.tensor(row, dtype=torch.float64).to(self.y)

    def state(self, vector: Tensor) -> State:
        """y or the end, as a State: views where the types allow them."""
        return self._states[id(vector)] if self.layout.has_views else self.layout.state(vector)

    def evaluate(self, t: float, vector: Tensor, stage: int) -> None:
        """k_i = f(t, vector)."""
        self.monitor.evaluations += 1
        if self._in_place is not None:
            self._in_place.write_rate(t, self.state(vector), self._rates[stage])
        else:
            self.layout.write(self.monitor.system(t, self.state(vector)), self.k[stage])

    def column(self, steps: list[float]) -> Tensor:
        """Steps to multiply vectors with: [1], or one for each sample, [batch, 1]."""
        h = torch.tensor(steps, dtype=torch.float64).to(self.y)
        return h[:, None] if self.y.ndim > 1 else h

    def run(self, t: float, step: float | Tensor) -> None:
        """All stages after the first, and the end: y(t + h); h is one, or a column for samples."""
        for i in range(1, len(self.k)):
            self._combine(self.tableau.a[i], step)
            at = t if self.is_by_sample else t + self.tableau.c[i] * float(step)
            self.evaluate(at, self.end, i)
        if not self.tableau.ends_with_solution:
            self._combine(self.tableau.b, step)

    def _combine(self, row: Row, step: float | Tensor) -> None:
        """end = y + h Σ_i w_i k_i."""
        columns, weights = self._columns[len(row)], self._weights[row]
        if isinstance(step, Tensor):
            torch.mv(columns, weights, out=self.ratio.view(-1))
            torch.addcmul(self.y, step, self.ratio, out=self.end)
        elif len(row) == 1:
            torch.add(self.y, self.k[0], alpha=step * row[0], out=self.end)
        else:
            torch.addmv(self.y, columns, weights, alpha=step, out=self.end)

    def rate(self, t: float) -> State:
        """f(t, y); k_1, unless that is only near it, as the last stage of some adaptive methods."""
        if self.tableau.error and not self.tableau.ends_with_solution:
            self.monitor.evaluations += 1
            return self.monitor.system(t, self.state(self.y))
        return self._rates[0] if self.layout.has_views else self.layout.state(self.k[0])

    def errors(self, rtol: float, atol: float) -> tuple[list[float], list[float]]:
        """‖Σ_i (b − b̂)_i k_i / (atol + rtol max(|y|, |end|))‖, and the largest |end|.

        Of all, [1] each, or of every sample, [batch] each; times h the error over the tolerance.
        The second is finite where the end is.
        """
        torch.abs(self.y, out=self.scale)
        largest = torch.abs(self.end, out=self.ratio).amax(-1)
        torch.maximum(self.scale, self.ratio, out=self.scale).mul_(rtol).add_(atol)
        torch.mv(self._columns[-1], self._error, out=self.ratio.view(-1))
        self.ratio.div_(self.scale)
        errors, ends = self.layout.norm_and(self._ratios, largest)
        return errors, ends

    def accept_where(self, accepted: list[bool]) -> None:
        """The samples whose step was accepted go on from its end."""
        where = torch.tensor(accepted, device=self.y.device)[:, None]
        self.y.copy_(torch.where(where, self.end, self.y))
        self.k[0].copy_(torch.where(where, self.k[-1], self.k[0]))

    def accept(self) -> None:
        """The end of this step is where the next one starts."""
        self.y, self.end = self.end, self.y

    def interpolate(
        self, shares: list[float], step: float, record: Tensor, sample: int | None = None
    ) -> None:
        """record = y(t + x h) for each x in (0, 1): torchdiffeq's polynomial of order 4.

        Of all, [time, number], or of one sample.

        It goes through y, the middle and the end, with the slopes k_1 and k_s; as all of them are
        y + h Σ_i (…)_i k_i, so is every value: all times are one product with the k_i.
        """
        powers = torch.tensor([[x**n for n in (1, 2, 3, 4)] for x in shares], dtype=torch.float64)
        assert self._quartic is not None
        weights = (powers @ self._quartic).to(self.y)
        y, k = (self.y, self.k) if sample is None else (self.y[sample], self.k[:, sample])
        torch.addmm(y, weights, k, alpha=step, out=record)


def _quartic(tableau: Tableau) -> Tensor:
    """Weights of the k_i in the coefficients of x, x², x³ and x⁴, [4, s]."""
    b, middle = (torch.tensor(row, dtype=torch.float64) for row in (tableau.b, tableau.middle))
    first, last = torch.eye(len(b), dtype=torch.float64)[[0, -1]]
    return torch.stack(
        [
            first,
            last - 4 * first - 5 * b + 16 * middle,
            5 * first - 3 * last + 14 * b - 32 * middle,
            2 * (last - first) - 8 * b + 16 * middle,
        ]
    )


def fixed_steps(monitor: StepMonitor, times: Tensor, tableau: Tableau, step: float) -> State:
    """On the grid 0, h, 2h, …; between its points the state is interpolated linearly.

    Returns:
        The state at the recorded times, each tensor [time, batch, …].

    Raises:
        DivergenceError: a state that is not finite.
    """
    stages, at = Stages(monitor, tableau), times.tolist()
    record, j = stages.layout.record(len(at)), 0
    if at[0] == 0:
        record[0], j = stages.y, 1
    for start, end in itertools.pairwise(grid(at[-1], step).tolist()):
        stages.evaluate(start, stages.y, 0)
        if _is_steady(stages, start):
            break
        stages.run(start, end - start)
        monitor.check_finite(end, stages.end.sum().item(), stages.state(stages.end))
        while j < len(at) and at[j] <= end:
            torch.lerp(stages.y, stages.end, (at[j] - start) / (end - start), out=record[j])
            j += 1
        stages.accept()
    return _finished(stages, at[-1], record, j)


def adaptive_steps(
    monitor: StepMonitor, times: Tensor, tableau: Tableau, control: Control
) -> State:
    """With steps whose error keeps the tolerances; the last recorded time ends a step.

    Returns:
        The state at the recorded times, each tensor [time, batch, …].

    Raises:
        DivergenceError: a state that is not finite, or tolerances that no step keeps.
    """
    stages, at = Stages(monitor, tableau), times.tolist()
    record, j, t, taken = stages.layout.record(len(at)), 0, 0.0, 0
    if at[0] == 0:
        record[0], j = stages.y, 1
    stages.evaluate(t, stages.y, 0)
    step = control.first_step or first_steps(stages, control)[0]
    while j < len(at) and not _is_steady(stages, t):
        step = control.within(step)
        if t + step <= t or taken >= control.max_num_steps:
            monitor.last_time, monitor.last_state = t, stages.state(stages.y)
            raise monitor.stuck("max_num_steps" if t + step > t else "no step")
        end = min(t + step, at[-1])
        step = end - t if end < t + step else step
        stages.run(t, step)
        taken += 1
        (error,), (largest,) = stages.errors(control.rtol, control.atol)
        ratio = step * error
        if ratio <= 1 or step <= control.min_step:
            monitor.check_finite(end, largest, stages.state(stages.end))
            first = j
            while j < len(at) and at[j] <= end:
                j, taken = j + 1, 0
            if first < j and at[j - 1] == end:
                record[j - 1].copy_(stages.end)
            due = [each for each in at[first:j] if each < end]
            if due:
                shares = [(each - t) / step for each in due]
                stages.interpolate(shares, step, record[first : first + len(due)])
            stages.k[0].copy_(stages.k[-1])
            stages.accept()
            t = end
        step = control.next(step, ratio, tableau.order)
    return _finished(stages, t, record, j)


def _is_steady(stages: Stages, t: float) -> bool:
    """Whether y, where its rate is known, has come to rest."""
    monitor = stages.monitor
    return monitor.stop is not None and monitor.is_steady(t, stages.state(stages.y), stages.rate(t))


def _finished(stages: Stages, t: float, record: Tensor, j: int) -> State:
    """The record; a steady state is held for the rest of the times."""
    monitor = stages.monitor
    record[j:] = stages.y
    if monitor.stop is not None and not monitor.is_held:
        stages.evaluate(t, stages.y, 0)
        _is_steady(stages, t)
    return stages.layout.state(record)


def first_steps(stages: Stages, control: Control) -> list[float]:
    """A step from the sizes of y, f and its change: Hairer, Nørsett and Wanner, II.4.

    One, or one for each sample.
    """
    order, norm, y, k = stages.tableau.order, stages.layout.norm, stages.y, stages.k
    scale = torch.abs(y).mul_(control.rtol).add_(control.atol)
    sizes, rates = (norm(each / scale) for each in (y, k[0]))
    trial = [
        1e-6 if size < 1e-5 or rate < 1e-5 else 0.01 * size / rate
        for size, rate in zip(sizes, rates, strict=True)
    ]
    torch.addcmul(y, stages.column(trial), k[0], out=stages.end)
    stages.evaluate(trial[0], stages.end, 1)
    changes = norm((k[1] - k[0]) / scale)
    return [_first_step(*each, order) for each in zip(trial, rates, changes, strict=True)]


def _first_step(trial: float, rate: float, change: float, order: int) -> float:
    if trial == 0:  # an infinite rate
        return 0.0
    bend = change / trial
    if rate <= 1e-15 and bend <= 1e-15:
        return min(100 * trial, max(1e-6, trial * 1e-3))
    step: float = (0.01 / max(rate, bend)) ** (1 / order)
    return min(100 * trial, step)
