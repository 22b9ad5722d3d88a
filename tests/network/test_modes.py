"""Training mode, drawn numbers, penalties and samples that interact."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ardyn
from tests.oracles.problems import assert_same, gradients_on
from tests.oracles.side_by_side import (
    LONG,
    NO_TARGET,
    UNITS,
    Net,
    Shared,
    assert_learns_as_backprop,
    batches,
    filled,
    randn,
    seed_everything,
    total,
)


class Regularised(nn.Module):
    """Batch norm and dropout, between and beside layers with local rules."""

    def __init__(self, momentum: float | None = 0.3) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(6, 5), nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(5, momentum=momentum)
        self.dropout = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.hidden(x)).relu()
        if self.training:
            h = 1.5 * h
        y: Tensor = self.last(self.dropout(h))
        return y


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("modes", [(True,) * 3, (False, True, True), (True, False, True)])
def test_each_mode_is_backprops_and_statistics_change_once(modes, momentum, units):
    def make() -> Any:
        return filled(Regularised(momentum))

    def switch(model: nn.Module, step: int) -> None:
        model.train(modes[step])

    truth = assert_learns_as_backprop(make, batches(6, 6), change=switch, units=units)
    assert int(truth[-1]["state norm.num_batches_tracked"]) == sum(modes)


@pytest.mark.parametrize("units", UNITS)
def test_backward_alone_changes_statistics_once(units):
    one, two = (filled(Regularised()).train() for _ in range(2))
    seed_everything(5)
    total(one(randn(6, 6))).backward()
    seed_everything(5)
    ardyn.backward(two, randn(6, 6), NO_TARGET, total, duration=LONG, units=units)
    assert_same(two.state_dict(), one.state_dict(), 1e-12)
    assert_same(gradients_on(two), gradients_on(one), 1e-8)


def drawn_by_torch() -> float:
    return float(torch.rand(()))


def drawn_by_numpy() -> float:
    return float(np.random.random())  # noqa: NPY002


class StochasticDepth(nn.Module):
    """Skips layers by a drawn number."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if not self.training or self.draw() < 0.5:
                x = x + layer(x).tanh()
        return self.layers[0](x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("draw", [drawn_by_torch, random.random, drawn_by_numpy])
def test_layers_are_skipped_as_under_backprop(draw):
    truth = assert_learns_as_backprop(lambda: filled(StochasticDepth(draw)), batches(4, 4, steps=6))
    assert len({frozenset(record) for record in truth}) > 1


@pytest.mark.parametrize(
    "source",
    [
        lambda: torch.Generator().manual_seed(3),
        lambda: np.random.default_rng(3),
        lambda: random.Random(3),
    ],
    ids=["torch", "numpy", "random"],
)
def test_a_generator_of_the_modules_own_is_followed_or_refused(source):
    def make() -> Any:
        own = source()
        is_torchs = isinstance(own, torch.Generator)
        model = StochasticDepth(
            (lambda: float(torch.rand((), generator=own))) if is_torchs else own.random
        )
        model.own = own
        return filled(model)

    one, two = make(), make()
    for x in batches(4, 4, steps=5):
        one.zero_grad()
        two.zero_grad()
        total(one(x)).backward()
        try:
            ardyn.backward(two, x, NO_TARGET, total, duration=LONG)
        except ardyn.InputError as refused:
            assert "random" in str(refused)  # noqa: PT017  (either is right)
            return
        assert_same(gradients_on(two), gradients_on(one), 1e-8)


def test_noise_is_drawn_once_per_pass():
    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.hidden(torch.normal(x[:, :4], 0.5) * torch.bernoulli(0.5 + 0 * x[:, :4]))
            return self.last(functional.gumbel_softmax(h + torch.randn_like(h)))  # type: ignore[no-any-return]

    assert_learns_as_backprop(lambda: filled(Noisy()), batches(4, 6))


@pytest.mark.parametrize("units", UNITS)
def test_a_penalty_counts_under_both_methods(units):
    def make() -> Any:
        model = filled(Shared())
        model.noise = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        models.append(model)
        return model

    models: list[Any] = []

    def penalised(output: Tensor, target: Tensor) -> Tensor:
        noise = models[-1].noise
        penalty: Tensor = sum(p.square().sum() for p in models[-1].parameters())
        return total(output) / noise.exp() + 0.1 * penalty + noise  # type: ignore[no-any-return]

    truth = assert_learns_as_backprop(make, batches(4, 4), penalised, units=units)
    assert "gradient of noise" in truth[0]
    models.clear()
    ar, bp = (make() for _ in range(2))
    for model, method in ((ar, "ar"), (bp, "bp")):
        models.append(model)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
        learner = ardyn.Learner(model, optimiser, method, loss=penalised, duration=LONG)  # type: ignore[arg-type]
        learner.step(randn(4, 4), NO_TARGET)
    assert_same(ar.state_dict(), bp.state_dict(), 1e-8)


class MeanOfBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x).tanh()
        y: Tensor = self.last(h - h.mean(0))
        return y


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Regularised, "per_sample=True.*Expected more than 1 value per channel.*drop it"),
        (MeanOfBatch, "per_sample=True.*samples that do not depend on one another.*drop it"),
    ],
    ids=["batch norm", "mean"],
)
def test_samples_that_interact_are_not_solved_alone(make, words):
    sim = ardyn.Relaxation(filled(make()).train(), randn(5, 6), NO_TARGET, total)
    alone = ardyn.Adaptive("dopri5", per_sample=True)
    with pytest.raises(ardyn.InputError, match=words):
        sim.solve([1.0], alone)
    assert sim.solve([1.0], ardyn.Adaptive("dopri5")).units


def test_samples_that_do_not_interact_are_solved_alone():
    sim = ardyn.Relaxation(filled(Regularised()).eval(), randn(3, 6), NO_TARGET, total)
    found = sim.solve([1.0], ardyn.Adaptive("dopri5", per_sample=True, rtol=1e-9, atol=1e-11))
    exact = sim.solve([1.0])
    assert_same({u: found[u] for u in found.units}, {u: exact[u] for u in exact.units}, 1e-7)
