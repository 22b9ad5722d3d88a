"""How far apart must the time scales of activities and plasticity be for learning to succeed?

Weights change while activities relax, τ_W dW/dt = −∂𝓛/∂W, during a window of each stimulus.
Compares the weight change of one stimulus with the backprop step, and measures test loss and
accuracy after a stream of stimuli, for every τ_W, τ_ψ and window; predicts both in the quasi-static
limit, in which weights change only at the end of each stimulus.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice, product, starmap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import ardyn
from ardyn import DivergenceError, InputError, Learner, Plasticity, Rule
from ardyn.closed_form.quasi_static import stimulus_change
from ardyn.errors import check_choice
from ardyn.models import IMAGES
from ardyn.solvers.system import Solver
from plots.timescales import DIVERGED, draw
from studies.problems import images, networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import both_sets, main
from studies.running.flags import (
    SolvedOnce,
    check_distinct,
    check_positive_settings,
    check_time_constants,
)
from studies.running.run_folder import RunFolder, check_device
from studies.running.solvers import STEPLESS
from studies.running.variables import described_training
from studies.training.angles import feedback_angles

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Config(SolvedOnce):
    """Settings of the stimuli and of plasticity; times are in units of τ of the activities."""

    tau_w: tuple[float, ...] = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    """Time constants τ_W of weights and biases, in units of τ; two or more."""
    tau_psi: tuple[float, ...] = ()
    """Time constants τ_ψ of plastic feedback weights ψ (paper, Eq. 3), initially random, in units
    of τ. By default feedback is through Wᵀ."""
    window: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99)
    """Onsets of plasticity, as fractions of the stimulus, at least 0 and below 1; two or more.
    Plasticity lasts from its onset to the end of each stimulus."""
    duration: float = 10.0
    """Duration T of a stimulus, in units of τ."""
    stimuli: int = 100
    """Number of stimuli in a stream; each is a batch, over which updates are averaged."""
    depth: int = 3
    """Layers of the network, two or more: tanh layers of 64 neurons, and a linear output layer;
    initially W ~ N(0, 1 / inputs)."""
    solver: str = "dopri5"
    """Solver of the coupled ODE: any method of torchdiffeq, or sweep (the authors' scheme)."""
    rtol: float = 1e-4
    atol: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_time_constants("tau_w", self.tau_w, least=2)
        check_time_constants("tau_psi", self.tau_psi)
        check_distinct("window", self.window, least=2)
        for share in self.window:
            if not 0 <= share < 1:
                raise InputError(f"window must be at least 0 and below 1, got {share}; use 0.9")
        check_positive_settings(self, "stimuli")
        check_choice("solver", self.solver, [n for n in ardyn.SOLVER_NAMES if n not in STEPLESS])
        if self.depth < 2:
            raise InputError(f"depth must be 2 or more layers, got {self.depth}; use 3")

    @property
    def rule(self) -> Rule:
        """The modelling choices."""
        return Rule(feedback="learned" if self.tau_psi else "transpose")

    @property
    def cells(self) -> list[Cell]:
        """Every combination; feedback through Wᵀ has τ_ψ = ∞."""
        return list(starmap(Cell, product(self.tau_w, self.tau_psi or (math.inf,), self.window)))

    @property
    def ode_solver(self) -> Solver:
        """The solver."""
        return ardyn.solver_named(self.solver, self.step, self.rtol, self.atol)


class Cell(NamedTuple):
    """One combination of time constants and window: a cell of the maps."""

    tau_w: float
    tau_psi: float
    window: float
    """Onset of plasticity, as a fraction of the stimulus."""

    def plasticity(self, duration: float) -> Plasticity:
        """Its time constants and window."""
        window = (self.window * duration, math.inf)
        return Plasticity(self.tau_w, self.tau_psi, reduction="mean", window=window)

    def __str__(self) -> str:
        psi = "" if math.isinf(self.tau_psi) else f", τ_ψ {self.tau_psi:g}"
        return f"τ_W {self.tau_w:g}{psi}, from {self.window:g} T"


def run(config: Config, sets: images.Sets, folder: RunFolder) -> xr.Dataset:
    """One stimulus and a stream of them, for every τ_W, τ_ψ and window.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
    """
    sets = sets.to(check_device(config.device))
    rows = next(ardyn.batches(len(sets.train.inputs), config.batch_size, [config.seed], 0))
    batch = sets.train.inputs[rows], sets.train.targets[rows]
    for cell in config.cells:
        _check(config, cell, batch)
    checkpoints = Checkpoints.of(folder.path, config, sets.checksum)
    saved = checkpoints.load("cells") or {"cells": {}}
    found: dict[str, dict[str, float]] = saved["cells"]
    with tqdm(total=len(config.cells), desc="timescales", unit="cell") as progress:
        progress.update(len(found))
        for cell in config.cells:
            if repr(cell) not in found:
                progress.set_postfix_str(str(cell))
                found[repr(cell)] = _measures(config, sets, batch, cell)
                checkpoints.save("cells", {"cells": found})
                progress.update()
    measured = _grid(config, [found[repr(cell)] for cell in config.cells])
    return described_training(measured, "timescales", config, sets.checksum)


def _measures(
    config: Config, sets: images.Sets, batch: tuple[Tensor, Tensor], cell: Cell
) -> dict[str, float]:
    """All measures of one cell, of the coupled ODE and predicted; NaN where training diverged."""
    coupled, predicted = (
        one_stimulus(config, batch, cell, is_limit) | stream(config, sets, cell, is_limit)
        for is_limit in (False, True)
    )
    return coupled | {f"quasi_static_{name}": value for name, value in predicted.items()}


def one_stimulus(
    config: Config, batch: tuple[Tensor, Tensor], cell: Cell, is_quasi_static: bool = False
) -> dict[str, float]:
    """Cosine and norm ratio of the change of all parameters to the backprop step of the same rate.

    The rate is the duration of plasticity over τ_W, divided by the batch size; NaN where the
    solution diverged.
    """
    learner = _make_learner(config, cell)
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    try:
        _solve_stimulus(learner, batch, is_quasi_static)
    except DivergenceError:
        return {"cosine": math.nan, "norm_ratio": math.nan}
    change = _flat({n: p.detach() - before[n] for n, p in learner.model.named_parameters()})
    model = _make_learner(config, cell).model
    ardyn.backprop(model, *batch)
    rate = (1 - cell.window) * config.duration / cell.tau_w / len(batch[0])
    step = _flat({n: -rate * p.grad for n, p in model.named_parameters() if p.grad is not None})
    return {
        "cosine": float(change @ step / (change.norm() * step.norm())),
        "norm_ratio": float(change.norm() / step.norm()),
    }


def stream(
    config: Config, sets: images.Sets, cell: Cell, is_quasi_static: bool = False
) -> dict[str, float]:
    """Loss and accuracy [%] on the test set after a stream of stimuli, and the angle ψ–Wᵀ.

    NaN where training diverged: weights that are not finite, or a loss more than ``DIVERGED`` times
    that at the start.
    """
    diverged = {"loss": math.nan, "accuracy": math.nan, "angle": math.nan}
    learner = _make_learner(config, cell)
    start = float(ardyn.evaluate(learner.model, sets.test.inputs, sets.test.targets)[0][0])
    train = sets.train
    try:
        for rows in islice(_batches(config, train), config.stimuli):
            batch = train.inputs[rows], train.targets[rows]
            _solve_stimulus(learner, batch, is_quasi_static)
            if not _is_finite(learner.model):
                return diverged
    except DivergenceError:
        return diverged
    loss, accuracy = ardyn.evaluate(learner.model, sets.test.inputs, sets.test.targets)
    if not float(loss[0]) < DIVERGED * start:
        return diverged
    return {
        "loss": float(loss[0]),
        "accuracy": 100 * float(accuracy[0]),
        "angle": float(feedback_angles(learner).mean()),
    }


def _check(config: Config, cell: Cell, batch: tuple[Tensor, Tensor]) -> None:
    """Raise InputError for a combination that the solver cannot integrate."""
    learner = _make_learner(config, cell)
    sim = ardyn.Relaxation(
        learner.model,
        *batch,
        rule=learner.rule,
        feedback=learner.feedback,
        plasticity=learner.plasticity,
    )
    sim.check(learner.solver, end=learner.duration)


def _solve_stimulus(learner: Learner, batch: tuple[Tensor, Tensor], is_quasi_static: bool) -> None:
    """Solve one stimulus with plastic weights; in the quasi-static limit they change at its end."""
    if not is_quasi_static:
        learner.step(*batch)
        return
    assert learner.plasticity is not None
    sim = ardyn.Relaxation(learner.model, *batch, rule=learner.rule, feedback=learner.feedback)
    with torch.no_grad():
        change = stimulus_change(sim.dynamics, learner.plasticity, learner.duration)
        for name, p in learner.model.named_parameters():
            p.add_(change.weights[name])
        for block, psi in learner.psi.items():
            psi.add_(change.feedback[block])


def _make_learner(config: Config, cell: Cell) -> Learner:
    generator = torch.Generator().manual_seed(config.seed)
    channels, side, classes = IMAGES[config.dataset]
    pixels = channels * side**2
    model = networks.deep("mlp", pixels, config.depth, classes, generator)
    model = ardyn.ensemble([model.to(config.device, getattr(torch, config.dtype))])
    psi = ardyn.random_feedback(model, generator=generator) if config.tau_psi else None
    return Learner(
        model,
        rule=config.rule,
        duration=config.duration,
        solver=config.ode_solver,
        feedback=psi,
        plasticity=cell.plasticity(config.duration),
    )


def _batches(config: Config, train: images.Data) -> Iterator[Tensor]:
    """Rows of each batch, epoch after epoch without end, [sample]."""
    return chain.from_iterable(
        ardyn.batches(len(train.inputs), config.batch_size, [config.seed], epoch)
        for epoch in count(1)
    )


def _is_finite(model: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in tensors.values()])


def _grid(config: Config, found: Sequence[Mapping[str, float]]) -> xr.Dataset:
    import xarray as xr

    axes = {
        "tau_w": list(config.tau_w),
        "tau_psi": list(config.tau_psi) or [math.inf],
        "window": list(config.window),
    }
    shape = [len(values) for values in axes.values()]
    return xr.Dataset(
        {
            name: (tuple(axes), np.reshape([each[name] for each in found], shape))
            for name in found[0]
        },
        axes,
    )


def summary(results: xr.Dataset) -> str:
    """A table of accuracies after the stream of stimuli."""
    table = results.accuracy.stack(row=["tau_w", "tau_psi"]).to_pandas().T
    text = table.to_string(float_format="{:.1f}".format)
    return (
        f"{results.attrs['title']} [%] after a stream of stimuli\nrows: τ_W / τ and τ_ψ / τ (inf: "
        f"feedback through Wᵀ); columns: onset of plasticity, as a fraction of the stimulus;\nNaN: "
        f"training diverged (weights or loss not finite, or a loss more than {DIVERGED} times that "
        f"at the start)\n{text}"
    )


if __name__ == "__main__":
    main("timescales", Config, run, summary, draw, __doc__, both_sets)
