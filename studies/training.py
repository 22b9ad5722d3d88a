"""What every study that trains shares: its settings, and the loop over conditions and epochs."""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn
from tqdm import tqdm

import ardyn
from ardyn import ArdynError, ClosedForm, DivergenceError, InputError, Learner, Rule
from ardyn.errors import check_choice, check_positive
from ardyn.relaxation import Solver
from ardyn.rule import Output
from ardyn.training import Method
from studies import data
from studies.checkpoints import Checkpoints
from studies.runs import check_device

Rules = Rule | Mapping[str, Rule]


@dataclass(frozen=True)
class Sets:
    """Whole sets of images, as one tensor each."""

    train: data.Data
    test: data.Data

    @property
    def checksum(self) -> str:
        """Of both."""
        both = self.train.checksum + self.test.checksum
        return hashlib.sha256(both.encode()).hexdigest()

    def to(self, device: torch.device) -> "Sets":
        """The same on a device."""
        return Sets(*(_moved(each, device) for each in (self.train, self.test)))


def _moved(images: data.Data, device: torch.device) -> data.Data:
    inputs, targets = images.inputs.to(device), images.targets.to(device)
    return replace(images, inputs=inputs, targets=targets)


@dataclass(frozen=True)
class Training:
    """What is trained, and how; times are in units of τ."""

    dataset: data.DatasetName = "digits"
    """Images and their labels: digits is bundled; the others are read from --data-dir."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One network for each, with its own weights and order of the samples; trained side by side."""
    epochs: int = 30
    """Passes through the training set."""
    batch_size: int = 64
    """Samples per update."""
    learning_rate: float = 0.0005
    """Of stochastic gradient descent on the loss summed over the batch."""
    loss: Literal["sse", "mse", "cross_entropy"] = "sse"
    """Loss: sse is Σ (x − t)², the authors' choice."""
    scheme: str = "exact"
    """How activities relax where their dynamics are linear: exact (the ODE in closed form), euler
    or another one-step method, or sweep (the authors' scheme), each in closed form; or any other
    solver by its name."""
    step: float = 0.1
    """Step h of the scheme, in units of τ (paper: 0.1)."""
    nonlinear_scheme: str = "rk4"
    """The same where f′ is taken at the current activities, so that there is no closed form."""
    nonlinear_step: float = 1.0
    """Its step h. rk4 with h = 1 costs 40 evaluations in 10 τ and is nearer to the ODE than the
    paper's 100 Euler steps."""
    duration: float = 10.0
    """Length of a relaxation, in units of τ (paper: 10)."""
    output: Output = "relaxed"
    """Whether the output relaxes onto the loss gradient, or is clamped to it as by the authors."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, …"""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(
                f"seeds must be one or more different numbers from 0 on, got {list(self.seeds)}; "
                f"pass such as 0 1 2"
            )
        for name in ("epochs", "batch_size", "learning_rate", "step", "nonlinear_step", "duration"):
            check_positive(name.replace("_", "-"), getattr(self, name), getattr(Training, name))
        for name in ("scheme", "nonlinear_scheme"):
            check_choice(name.replace("_", "-"), getattr(self, name), ardyn.SOLVER_NAMES)

    def solver(self, rule: Rules, scheme: str | None = None) -> Solver:
        """The solver of the scheme; in closed form where the rule and the scheme have one."""
        rules = [rule] if isinstance(rule, Rule) else rule.values()
        if not all(each.is_linear for each in rules):
            return ardyn.solver_named(self.nonlinear_scheme, self.nonlinear_step)
        solver = ardyn.solver_named(scheme or self.scheme, self.step)
        if isinstance(solver, ardyn.Sweep) or (
            isinstance(solver, ardyn.Fixed) and solver.is_one_step
        ):
            return ClosedForm(solver)
        return solver


@dataclass(frozen=True)
class Condition:
    """One way to learn."""

    label: str
    method: Method = "ar"
    rule: Rules = field(default_factory=Rule)
    scheme: str | None = None
    """How activities relax, where not as the configuration says."""
    tau_trace: float | None = None
    """τ_z of the activity trace, where the rule has one, in units of τ."""

    @property
    def takes_feedback(self) -> bool:
        """Whether some layer sends back through ψ."""
        rules = [self.rule] if isinstance(self.rule, Rule) else self.rule.values()
        return any(rule.feedback != "transpose" for rule in rules)


def check_conditions(names: Sequence[str], known: Mapping[str, Condition]) -> None:
    """Raise InputError unless the names are different ones of known conditions."""
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"conditions must be one or more different names, got {list(names)}; pass such as bp ar"
        )
    for name in names:
        check_choice("condition", name, known)


def check_hidden(sizes: Sequence[int]) -> None:
    """Raise InputError unless every hidden layer has neurons."""
    if min(sizes, default=1) < 1:
        raise InputError(
            f"hidden must be positive numbers, got {list(sizes)}; use such as 300 300 100"
        )


Make = Callable[[torch.Generator], nn.Module]
Probe = Callable[[Learner], Mapping[str, xr.DataArray]]


def learner(config: Training, condition: Condition, make: Make) -> Learner:
    """A network for every seed, side by side, with ψ of its own where the condition asks for it.

    A seed's weights do not depend on the other seeds.
    """
    dtype, models, psis = getattr(torch, config.dtype), [], []
    rule = _with_output(condition.rule, config.output)
    for seed in config.seeds:
        generator = torch.Generator().manual_seed(seed)
        models.append(make(generator).to(config.device, dtype))
        if condition.takes_feedback:
            psis.append(ardyn.random_feedback(models[-1], generator=generator))
    model = ardyn.ensemble(models)
    psi = {name: torch.stack([each[name] for each in psis]) for name in psis[0]} if psis else None
    return Learner(
        model,
        torch.optim.SGD([*model.parameters(), *(psi or {}).values()], lr=config.learning_rate),
        condition.method,
        config.loss,
        rule,
        duration=config.duration,
        solver=config.solver(rule, condition.scheme),
        feedback=psi,
        tau_trace=condition.tau_trace,
    )


def _with_output(rule: Rules, output: Output) -> Rules:
    """A condition's rule, the output as the configuration has it."""
    if isinstance(rule, Rule):
        return replace(rule, output=output)
    rest = {} if "*" in rule else {"*": Rule(output=output)}
    return {pattern: replace(each, output=output) for pattern, each in rule.items()} | rest


def learn(
    config: Training,
    conditions: Mapping[str, Condition],
    make: Make,
    sets: Sets,
    checkpoints: Checkpoints,
    probe: Probe | None = None,
) -> xr.Dataset:
    """Train in every condition; test before the first epoch and after each.

    Args:
        conditions: by name.
        make: makes a network, its weights drawn with the generator.
        probe: further measures of a learner, taken with each test.

    Returns:
        "accuracy" [%] and "test_loss", [condition, seed, epoch].

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: the numbers were lost in some epoch and batch.
    """
    device = check_device(config.device)
    sets = sets.to(device)
    learners = {name: learner(config, each, make) for name, each in conditions.items()}
    for each in learners.values():
        _check_first_batch(config, each, sets.train)
    saved = {name: checkpoints.load(name) for name in learners}
    left = sum(config.epochs - (each["epoch"] if each else 0) for each in saved.values())
    samples = len(sets.train.inputs) * len(config.seeds)
    histories = []
    with tqdm(total=left * samples, unit="sample", unit_scale=True, smoothing=0.1) as progress:
        for name, each in learners.items():
            loop = _Loop(config, name, each, sets, checkpoints, probe, progress)
            histories.append(loop.run(saved[name]))
    return xr.concat(histories, pd.Index(learners, name="condition"))


def _check_first_batch(config: Training, learner: Learner, train: data.Data) -> None:
    """Refuse what cannot be used before anything is computed."""
    first = next(ardyn.batches(len(train.inputs), config.batch_size, config.seeds, 1))
    if learner.method == "ar":
        sim = ardyn.Relaxation(
            learner.model,
            train.inputs[first],
            train.targets[first],
            learner.loss,
            learner.rule,
            feedback=learner.feedback,
            tau_trace=learner.tau_trace,
        )
        sim.check(learner.solver)


@dataclass(frozen=True)
class _Loop:
    """The epochs of one condition."""

    config: Training
    name: str
    learner: Learner
    sets: Sets
    checkpoints: Checkpoints
    probe: Probe | None
    progress: "tqdm[Any]"

    def run(self, saved: dict[str, Any] | None) -> xr.Dataset:
        """From the beginning, or from what was saved."""
        if saved is None:
            rows = [self._measured(0)]
        else:
            self.learner.restore(saved["learner"])
            rows = [_unpacked(each) for each in saved["history"]]
        for epoch in range(len(rows), self.config.epochs + 1):
            self._epoch(epoch)
            rows.append(self._measured(epoch))
            history = [_packed(each) for each in rows]
            state = {"epoch": epoch, "learner": self.learner.state(), "history": history}
            self.checkpoints.save(self.name, state)
        return xr.concat(rows, "epoch")

    def _epoch(self, epoch: int) -> None:
        train, config = self.sets.train, self.config
        rows = ardyn.batches(len(train.inputs), config.batch_size, config.seeds, epoch)
        for number, batch in enumerate(rows, start=1):
            batch = batch.to(train.inputs.device)
            try:
                loss = float(self.learner.step(train.inputs[batch], train.targets[batch]))
            except ArdynError as error:
                raise self._diverged(epoch, number, str(error)) from error
            if not np.isfinite(loss):
                raise self._diverged(epoch, number, f"the loss is {loss}")
            self.progress.update(len(batch))
            if number % 20 == 1:
                self.progress.set_postfix_str(
                    f"{self.name}, epoch {epoch}, loss {loss / len(batch):.3g}"
                )

    def _diverged(self, epoch: int, number: int, why: str) -> DivergenceError:
        kept = (
            f"the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else "nothing was learned"
        )
        return DivergenceError(
            f"condition '{self.name}' was lost in epoch {epoch}, batch {number} ({why}); {kept}; "
            f"use a learning rate below {self.config.learning_rate:g}"
        )

    def _measured(self, epoch: int) -> xr.Dataset:
        test = self.sets.test
        loss, accuracy = ardyn.evaluate(
            self.learner.model, test.inputs, test.targets, self.config.loss
        )
        self.progress.write(
            f"{self.name}, epoch {epoch}: test accuracy {100 * accuracy.mean():.2f} %",
            file=sys.stderr,
        )
        measured = {
            "accuracy": ("seed", 100 * accuracy.numpy()),
            "test_loss": ("seed", loss.numpy()),
        }
        more = self.probe(self.learner) if self.probe else {}
        return xr.Dataset({**measured, **more}, {"seed": list(self.config.seeds), "epoch": epoch})


def _packed(row: xr.Dataset) -> dict[str, Any]:
    """As plain values, which a checkpoint can hold."""
    plain: dict[str, Any] = row.to_dict()
    return plain


def _unpacked(row: dict[str, Any]) -> xr.Dataset:
    return xr.Dataset.from_dict(row)
