"""Training over conditions, seeds and epochs, for all studies that train."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import ardyn
from ardyn import ArdynError, DivergenceError, Learner, Rule
from ardyn.dynamics.rule import Output
from studies.problems import images
from studies.running.checkpoints import Checkpoints
from studies.running.run_folder import check_device
from studies.running.variables import stacked
from studies.training.settings import Condition, Rules, Training, rule_of_each_pattern

if TYPE_CHECKING:
    import xarray as xr

Make = Callable[[torch.Generator], nn.Module]
Probe = Callable[[Learner], Mapping[str, "xr.DataArray"]]


def make_learner(config: Training, condition: Condition, make: Make) -> Learner:
    """An ensemble of one network per seed, each with its own ψ if the condition has any.

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
        loss=config.loss,
        rule=rule,
        duration=config.duration,
        solver=config.solver(rule, condition.scheme or config.usual_scheme),
        feedback=psi,
        tau_trace=condition.tau_trace,
    )


def _with_output(rule: Rules, output: Output) -> Rules:
    """A condition's rule with the output of the configuration, which belongs to every layer."""
    rules = {
        pattern: replace(each, output=output)
        for pattern, each in rule_of_each_pattern(rule).items()
    }
    rules.setdefault("*", Rule(output=output))
    return rules["*"] if len(rules) == 1 else rules


def train_conditions(
    config: Training,
    conditions: Mapping[str, Condition],
    make: Make,
    sets: images.Sets,
    checkpoints: Checkpoints,
    probe: Probe | None = None,
) -> xr.Dataset:
    """Train in every condition; test before the first epoch and after each.

    Args:
        conditions: by name.
        make: makes a network, its weights drawn with the generator.
        probe: further measures of a learner, computed with each test.

    Returns:
        "accuracy" [%] and "test_loss", [condition, seed, epoch], and the measures of ``probe``.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: training diverged.
    """
    device = check_device(config.device)
    sets = sets.to(device)
    for each in conditions.values():
        _check_first_batch(config, make_learner(config, each, make), sets.train)
    saved = {name: checkpoints.load(name) for name in conditions}
    remaining = sum(config.epochs - (each["epoch"] if each else 0) for each in saved.values())
    samples = len(sets.train.inputs) * len(config.seeds)
    histories = {}
    with tqdm(total=remaining * samples, unit="sample", unit_scale=True, smoothing=0.1) as progress:

        def after_batch(count: int, status: str) -> None:
            progress.set_postfix_str(status, refresh=False)
            progress.update(count)

        for name, each in conditions.items():  # in sequence, as each ensemble takes memory
            learner = make_learner(config, each, make)
            loop = _Loop(config, name, learner, sets, checkpoints, probe, after_batch)
            histories[name] = loop.run(saved[name])
    labels = [each.label for each in conditions.values()]
    return stacked(histories, "condition").assign_coords(label=("condition", labels))


def _check_first_batch(config: Training, learner: Learner, train: images.Data) -> None:
    """Raise InputError for a batch size, rule or solver that cannot be used."""
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
    sets: images.Sets
    checkpoints: Checkpoints
    probe: Probe | None
    after_batch: Callable[[int, str], None]
    """Called after each update with the number of samples and a status text, for display."""

    def run(self, saved: dict[str, Any] | None) -> xr.Dataset:
        """Train from the start, or from a checkpoint."""
        import xarray as xr

        if saved is None:
            rows = [self._test(0)]
        else:
            self.learner.restore(saved["learner"])
            rows = [xr.Dataset.from_dict(each) for each in saved["history"]]
        for epoch in range(len(rows), self.config.epochs + 1):
            try:
                self._epoch(epoch)
                rows.append(self._test(epoch))
            except ArdynError as error:
                raise self._diverged(epoch, str(error)) from error
            if not np.isfinite(rows[-1].test_loss).all():
                raise self._diverged(epoch, "the test loss is not finite")
            history = [row.to_dict() for row in rows]
            state = {"epoch": epoch, "learner": self.learner.state(), "history": history}
            self.checkpoints.save(self.name, state)
        return xr.concat(rows, "epoch")

    def _epoch(self, epoch: int) -> None:
        """Update the weights once per batch."""
        train, config = self.sets.train, self.config
        for batch in ardyn.batches(len(train.inputs), config.batch_size, config.seeds, epoch):
            rows = batch.to(train.inputs.device)
            self.learner.step(train.inputs[rows], train.targets[rows])
            self.after_batch(len(batch), f"{self.name}, epoch {epoch}")
        self.learner.check_finite()

    def _diverged(self, epoch: int, why: str) -> DivergenceError:
        kept = f" (the checkpoint of epoch {epoch - 1} is kept)" if epoch > 1 else ""
        return DivergenceError(
            f"condition '{self.name}' diverged in epoch {epoch}{kept}: {why}; use a learning rate "
            f"below {self.config.learning_rate:g}"
        )

    def _test(self, epoch: int) -> xr.Dataset:
        """Accuracy and loss on the test set, and the measures of ``probe``."""
        import xarray as xr

        test = self.sets.test
        loss, accuracy = ardyn.evaluate(
            self.learner.model, test.inputs, test.targets, self.config.loss
        )
        tqdm.write(
            f"{self.name}, epoch {epoch}: test accuracy {100 * accuracy.mean():.2f} %",
            file=sys.stderr,
        )
        measured = {
            "accuracy": ("seed", 100 * accuracy.numpy()),
            "test_loss": ("seed", loss.numpy()),
        }
        more = self.probe(self.learner) if self.probe else {}
        return xr.Dataset({**measured, **more}, {"seed": list(self.config.seeds), "epoch": epoch})
