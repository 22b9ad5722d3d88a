"""The sequential top-down scheme of the authors' code."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ardyn.errors import check_positive
from ardyn.solve import Solution, SteadyState, System, Watch, grid


@dataclass(frozen=True)
class Sweep:
    """The authors' scheme: sweeps from the top, each unit seeing the updated one above it.

    x^l ← x^l + (h/τ_l) (−x^l + pull_l(x^{l+1} just updated)).

    Args:
        step: h, in units of time; the last one is shortened to end at the last recorded time.
    """

    step: float = 0.1

    def __post_init__(self) -> None:
        check_positive("the step", self.step)

    def growth(self, step_over_tau: float) -> float:
        """|1 − h/τ|: the factor by which one sweep multiplies a decaying activity."""
        return abs(1 - step_over_tau)

    def solve(self, system: System, times: Tensor, stop: SteadyState | None = None) -> Solution:
        """Sweep from t = 0, recording at ``times``, linearly interpolated between sweeps."""
        watch = Watch(system, stop)
        state = system.initial()
        nodes = grid(float(times[-1]), self.step)
        record = state.with_tensors([x.new_empty(len(times), *x.shape) for x in state.tensors()])
        due = 0
        sweeps = 0
        for start, end in itertools.pairwise([*nodes.tolist(), math.inf]):
            watch.callback_step(start, state.tensors(), None)
            last, step = state, min(end, nodes[-1].item()) - start
            if step > 0 and not watch.is_held:
                state = system.sweep(last, step)
                sweeps += 1
            while due < len(times) and times[due] <= end:
                share = 0.0 if step == 0 else (float(times[due]) - start) / step
                between = last.combine(state, lambda a, b, s=share: torch.lerp(a, b, s))  # type: ignore[misc]
                for kept, x in zip(record.tensors(), between.tensors(), strict=True):
                    kept[due] = x
                due += 1
        return Solution(record, sweeps + watch.evaluations, watch.steady_at)
