"""How far apart must the time scales of activity and of plasticity be for learning to work?

Weights move while activities relax, τ_W dW/dt = −∂𝓛/∂W, during a window of each stimulus. Compares
the weight change of one stimulus with the backprop step, and what a stream of stimuli teaches, over
τ_W, τ_ψ and the window; beside the quasi-static prediction, in which weights wait for the end.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice, product, starmap
from typing import Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

import ardyn
from ardyn import DivergenceError, InputError, Learner, Plasticity, Rule
from ardyn.closed_form.quasi_static import stimulus_change
from ardyn.errors import check_choice, check_positive
from ardyn.models import IMAGES
from ardyn.solvers.system import Solver
from plots.timescales import draw
from studies.problems import images as data
from studies.problems import networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import both_sets, main
from studies.running.run_folder import RunFolder, check_device
from studies.running.training_variables import described
from studies.training.angles import feedback_angles

_POSITIVE = {"duration": 10, "rtol": 1e-4, "atol": 1e-7, "step": 0.1}
LOST = 100
"""A network whose loss has grown so many times has lost what it could learn."""
_COUNTS = {"batch_size": 64, "stimuli": 100}


@dataclass(frozen=True)
class Config:
    """What learns, and how fast; times are in units of the activities' τ."""

    tau_w: tuple[float, ...] = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    """Time constants τ_W of weights and biases, two or more."""
    tau_psi: tuple[float, ...] = ()
    """Time constants τ_ψ of feedback weights that learn in time too (Eq. 3), from random ones on;
    where none is given, Wᵀ sends activity back."""
    window: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99)
    """When plasticity begins, as a share of the stimulus, two or more: 0 is always on; it lasts to
    the end."""
    duration: float = 10.0
    """Length T of a stimulus."""
    stimuli: int = 100
    """Stimuli in a stream, a batch each."""
    dataset: data.DatasetName = "digits"
    """Images and their labels: digits is bundled; the others are read from --data-dir."""
    depth: int = 3
    """Layers of the network, of 64 tanh neurons each but for the last; W ~ N(0, 1 / inputs)."""
    batch_size: int = 64
    """Samples per stimulus; what they teach is averaged."""
    solver: str = "dopri5"
    """Any torchdiffeq method, or sweep."""
    step: float = 0.1
    """Step of a solver of constant step."""
    rtol: float = 1e-4
    """Relative tolerance of an adaptive solver."""
    atol: float = 1e-7
    """Absolute tolerance of an adaptive solver."""
    seed: int = 0
    """Seed of the weights, and of the order of the samples."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, …"""

    def __post_init__(self) -> None:
        for name in ("tau_w", "tau_psi"):
            for tau in getattr(self, name):
                check_positive(name.replace("_", "-"), tau, 1000)
        for share in self.window:
            if not 0 <= share < 1:
                raise InputError(f"window must lie in 0 … 1, the stimulus, got {share}; use 0.9")
        for name, least in {"tau_w": 2, "tau_psi": 0, "window": 2}.items():
            values = getattr(self, name)
            if len(values) < least or len(set(values)) < len(values):
                raise InputError(
                    f"{name.replace('_', '-')} needs {least} or more values, for a map, "
                    f"each once, got {list(values)}; pass as many that differ"
                )
        for name, such_as in (_POSITIVE | _COUNTS).items():
            check_positive(name.replace("_", "-"), getattr(self, name), such_as)
        check_choice("solver", self.solver, [n for n in ardyn.SOLVER_NAMES if n != "exact"])
        if self.depth < 2:
            raise InputError(f"depth must be 2 or more layers, got {self.depth}; use such as 3")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must lie in 0 … 2⁶³ − 1, got {self.seed}; use one such as 0")

    @property
    def rule(self) -> Rule:
        """The modelling choices."""
        return Rule(feedback="learned" if self.tau_psi else "transpose")

    @property
    def cells(self) -> list["Cell"]:
        """Every combination; Wᵀ in ψ's place counts as a ψ that never learns."""
        return list(starmap(Cell, product(self.tau_w, self.tau_psi or (math.inf,), self.window)))

    @property
    def how(self) -> Solver:
        """The solver."""
        return ardyn.solver_named(self.solver, self.step, self.rtol, self.atol)


class Cell(NamedTuple):
    """A place on the map."""

    tau_w: float
    tau_psi: float
    window: float
    """When plasticity begins, as a share of the stimulus."""

    def plasticity(self, duration: float) -> Plasticity:
        """Its time constants and window."""
        window = (self.window * duration, math.inf)
        return Plasticity(self.tau_w, self.tau_psi, reduction="mean", window=window)

    def __str__(self) -> str:
        psi = "" if math.isinf(self.tau_psi) else f", τ_ψ {self.tau_psi:g}"
        return f"τ_W {self.tau_w:g}{psi}, from {self.window:g} T"


def run(config: Config, sets: data.Sets, folder: RunFolder) -> xr.Dataset:
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
    return described(measured, "timescales", config, sets.checksum)


def _measures(
    config: Config, sets: data.Sets, batch: tuple[Tensor, Tensor], cell: Cell
) -> dict[str, float]:
    """All measures in one cell, coupled and as predicted; NaN where learning was lost."""
    coupled, predicted = (
        one_stimulus(config, batch, cell, waits) | stream(config, sets, cell, waits)
        for waits in (False, True)
    )
    return coupled | {f"quasi_static_{name}": value for name, value in predicted.items()}


def one_stimulus(
    config: Config, batch: tuple[Tensor, Tensor], cell: Cell, is_quasi_static: bool = False
) -> dict[str, float]:
    """Cosine and norm ratio of the change of all weights to the backprop step of the same rate."""
    student = _student(config, cell)
    before = {name: p.detach().clone() for name, p in student.model.named_parameters()}
    try:
        _live(student, batch, is_quasi_static)
    except DivergenceError:
        return {"cosine": math.nan, "norm_ratio": math.nan}
    change = _flat({n: p.detach() - before[n] for n, p in student.model.named_parameters()})
    model = _student(config, cell).model
    ardyn.backprop(model, *batch)
    rate = (1 - cell.window) * config.duration / cell.tau_w / len(batch[0])
    step = _flat({n: -rate * p.grad for n, p in model.named_parameters() if p.grad is not None})
    return {
        "cosine": float(change @ step / (change.norm() * step.norm())),
        "norm_ratio": float(change.norm() / step.norm()),
    }


def stream(
    config: Config, sets: data.Sets, cell: Cell, is_quasi_static: bool = False
) -> dict[str, float]:
    """Loss and accuracy [%] on the test set after a stream of stimuli, and the angle ψ–Wᵀ.

    NaN where learning was lost: numbers that are not finite, or a loss ``LOST`` times as large as
    at the start.
    """
    lost = {"loss": math.nan, "accuracy": math.nan, "angle": math.nan}
    student = _student(config, cell)
    start = float(ardyn.evaluate(student.model, sets.test.inputs, sets.test.targets)[0][0])
    train = sets.train
    try:
        for rows in islice(_endless(config, train), config.stimuli):
            batch = train.inputs[rows], train.targets[rows]
            _live(student, batch, is_quasi_static)
            if not _is_finite(student.model):
                return lost
    except DivergenceError:
        return lost
    loss, accuracy = ardyn.evaluate(student.model, sets.test.inputs, sets.test.targets)
    if not float(loss[0]) < LOST * start:
        return lost
    return {
        "loss": float(loss[0]),
        "accuracy": 100 * float(accuracy[0]),
        "angle": float(feedback_angles(student).mean()),
    }


def _check(config: Config, cell: Cell, batch: tuple[Tensor, Tensor]) -> None:
    """Raise InputError for a cell that the solver cannot integrate."""
    student = _student(config, cell)
    sim = ardyn.Relaxation(
        student.model,
        *batch,
        rule=student.rule,
        feedback=student.feedback,
        plasticity=student.plasticity,
    )
    sim.check(student.solver, end=student.duration)


def _live(student: Learner, batch: tuple[Tensor, Tensor], is_quasi_static: bool) -> None:
    """One stimulus; in the quasi-static limit weights are changed at its end."""
    if not is_quasi_static:
        student.step(*batch)
        return
    assert student.plasticity is not None
    sim = ardyn.Relaxation(student.model, *batch, rule=student.rule, feedback=student.feedback)
    with torch.no_grad():
        change = stimulus_change(sim.dynamics, student.plasticity, student.duration)
        for name, p in student.model.named_parameters():
            p.add_(change.weights[name])
        for block, psi in student.feedback_items:
            psi.add_(change.feedback[block])


def _student(config: Config, cell: Cell) -> Learner:
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
        solver=config.how,
        feedback=psi,
        plasticity=cell.plasticity(config.duration),
    )


def _endless(config: Config, train: data.Data) -> Iterator[Tensor]:
    return chain.from_iterable(
        ardyn.batches(len(train.inputs), config.batch_size, [config.seed], epoch)
        for epoch in count(1)
    )


def _is_finite(model: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in tensors.values()])


def _grid(config: Config, found: Sequence[Mapping[str, float]]) -> xr.Dataset:
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
    """Accuracy after the stream."""
    table = results.accuracy.stack(row=["tau_w", "tau_psi"]).to_pandas().T
    text = table.to_string(float_format="{:.1f}".format)
    return (
        f"{results.attrs['title']} [%] after the stream; rows: τ_W / τ and τ_ψ / τ (inf: Wᵀ sends "
        f"back), columns: when plasticity begins, as a share of the stimulus (NaN: learning was "
        f"lost, with numbers that are not finite, or a loss {LOST} times that at the start)\n{text}"
    )


if __name__ == "__main__":
    main("timescales", Config, run, summary, draw, __doc__, both_sets)
