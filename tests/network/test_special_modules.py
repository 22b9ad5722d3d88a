"""Parts of torch that ardyn cannot see into, other numbers than real ones, and state."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ardyn
from ardyn.network.layers import Linear
from tests.oracles.problems import assert_same, difference, gradients_on
from tests.oracles.side_by_side import (
    LONG,
    NO_TARGET,
    UNITS,
    Forward,
    assert_learns_as_backprop,
    batches,
    filled,
    learned,
    randn,
    total,
)


class Tokens(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(9, 4, **settings), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.last(self.embed(tokens).tanh().mean(1))
        return y


def tokens(steps: int = 3) -> list[Tensor]:
    return [(randn(4, 6, seed=step).abs() * 5).long() % 9 for step in range(steps)]


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("settings", [{"max_norm": 0.6}, {"sparse": True}, {"padding_idx": 2}, {}])
def test_embeddings_learn_as_under_backprop(settings, units):
    truth = assert_learns_as_backprop(lambda: filled(Tokens(**settings)), tokens(), units=units)
    free = learned(lambda: filled(Tokens()), tokens(), total, lambda m, s: None, "bp", "block")
    changes = "max_norm" in settings
    assert (difference(truth[0]["loss"], free[0]["loss"]) > 1e-3) == changes


def test_a_sparse_gradient_stays_sparse():
    model = filled(Tokens(sparse=True))
    ardyn.backward(model, tokens()[0], NO_TARGET, total, duration=LONG)
    assert model.embed.weight.grad.is_sparse


def spectral(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> Any:
        model = filled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
        torch.manual_seed(0)
        model[0] = wrap(model[0])
        return model.train()

    return make


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.spectral_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.weight_norm,
        nn.utils.parametrizations.orthogonal,
    ],
    ids=["spectral", "spectral, old", "weight", "weight, old", "orthogonal"],
)
def test_normed_weights_learn_as_under_backprop(wrap, units):
    truth = assert_learns_as_backprop(spectral(wrap), batches(6, 4), units=units)
    assert any("original" in name or "_orig" in name or "_g" in name for name in truth[0])


def scripted(is_root: bool) -> Callable[[], nn.Module]:
    def make() -> Any:
        inner = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4)).double()
        script = torch.jit.script(filled(inner))
        return script if is_root else filled(nn.Sequential(nn.Linear(5, 5), nn.ReLU(), script))

    return make


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("is_root", [True, False], ids=["alone", "within"])
def test_the_parameters_of_a_scripted_module_learn(is_root):
    truth = assert_learns_as_backprop(scripted(is_root), batches(4, 5))
    assert sum(name.startswith("gradient of ") for name in truth[0]) == (4 if is_root else 6)


def test_data_parallel_without_a_gpu_is_the_module_itself():
    def make() -> Any:
        return nn.DataParallel(filled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))))

    assert_learns_as_backprop(make, batches(6, 4))


@pytest.mark.parametrize("is_root", [True, False])
def test_a_compiled_module_is_refused_and_what_it_was_made_of_is_not(is_root):
    inner = filled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    compiled: Any = torch.compile(inner)
    model = compiled if is_root else nn.Sequential(compiled, nn.Tanh())
    with pytest.raises(ardyn.InputError, match=r"compiled by torch.compile.*_orig_mod"):
        ardyn.backward(model, randn(6, 4), NO_TARGET, total)
    ardyn.backward(compiled._orig_mod, randn(6, 4), NO_TARGET, total, duration=LONG)
    found = gradients_on(inner)
    inner.zero_grad()
    total(inner(randn(6, 4))).backward()
    assert_same(found, gradients_on(inner), 1e-8)


def test_a_module_compiled_in_place_is_refused_with_a_cure_that_it_has():
    model = filled(nn.Sequential(nn.Linear(4, 5), nn.Tanh()))
    model.compile()
    with pytest.raises(ardyn.InputError, match=r"compiled by torch.compile") as refused:
        ardyn.backward(model, randn(6, 4), NO_TARGET, total)
    assert "_orig_mod" not in str(refused.value)


class Fourier(nn.Module):
    """A layer in Fourier space, of complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 4, dtype=torch.complex128))
        self.mix = nn.Linear(4, 4, dtype=torch.complex128)
        self.last = nn.Linear(8, 3, dtype=torch.float64)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(0.5 * torch.complex(randn(*p.shape, seed=i), randn(*p.shape, seed=9 + i)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.mix(torch.fft.rfft(x, dim=1).transpose(1, 2)[..., :4] * self.weight[:4].T)
        y: Tensor = self.last(torch.fft.irfft(h, n=8, dim=2).tanh())
        return y


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("units", UNITS)
def test_complex_activities_learn_as_under_backprop(units):
    assert_learns_as_backprop(Fourier, batches(3, 8, 4), units=units)


def test_a_complex_output_learns_as_under_backprop():
    def make() -> Any:
        kind = torch.complex128
        model = nn.Sequential(nn.Linear(4, 5, dtype=kind), nn.Linear(5, 2, dtype=kind))
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p.copy_(torch.complex(randn(*p.shape, seed=i), randn(*p.shape, seed=9 + i)))
        return model

    given = [torch.complex(randn(3, 4, seed=s), randn(3, 4, seed=s + 1)) for s in (20, 30)]
    assert_learns_as_backprop(make, given)


def test_autocast_is_what_it_is_to_backprop():
    def run(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return m.last(m.layer(x).tanh()).float()  # type: ignore[no-any-return]

    def make() -> Any:
        return filled(Forward(run)).float()

    given = [x.float() for x in batches(6, 4)]
    (truth, found) = (
        learned(make, given, total, lambda m, s: None, method, "block") for method in ("bp", "ar")
    )
    exact = learned(
        lambda: filled(Forward(lambda m, x: m.last(m.layer(x).tanh()))).float(),
        given, total, lambda m, s: None, "bp", "block",
    )  # fmt: skip
    assert_same({"loss": found[0]["loss"]}, {"loss": truth[0]["loss"]}, 1e-6)
    assert difference(exact[0]["loss"], truth[0]["loss"]) > 1e-5
    assert_same(found[0], truth[0], 2e-2)


def test_a_module_under_autocast_is_relaxed_under_it():
    model, other = (filled(Forward(lambda m, x: m.last(m.layer(x).tanh()))).float() for _ in "ab")
    with torch.autocast("cpu", torch.bfloat16):
        value = ardyn.backward(model, randn(6, 4).float(), NO_TARGET, total, duration=LONG)
        truth = total(other(randn(6, 4).float()))
    truth.backward()
    assert difference(value.float(), truth.detach().float()) < 1e-2
    assert_same(gradients_on(model), gradients_on(other), 2e-2)


class Remembering(nn.Module):
    """Keeps its state, a count and a list of what it saw."""

    def __init__(self, detaches: bool = True) -> None:
        super().__init__()
        self.layer, self.back, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.mem: Any = None
        self.count = 0
        self.seen: list[float] = []
        self.by_name: dict[str, Tensor] = {}
        self.mean = nn.Buffer(torch.zeros(5))
        self.detaches = detaches

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x) if self.mem is None else self.layer(x) + self.back(self.mem)
        h = h.tanh()
        self.mem = h.detach() if self.detaches else h
        self.count += 1
        self.seen.append(h.sum().item())
        self.by_name[f"step {self.count}"] = h.detach() * 2
        self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        y: Tensor = self.last(h + self.mean)
        return y


@pytest.mark.parametrize("units", UNITS)
def test_state_is_what_plain_runs_leave(units):
    models: list[Any] = []

    def make() -> Any:
        models.append(filled(Remembering()))
        return models[-1]

    assert_learns_as_backprop(make, batches(4, 4), units=units)
    truth, found = models
    assert found.count == truth.count == 3
    assert type(found.mem) is Tensor
    assert not found.mem.requires_grad
    assert difference(found.mem, truth.mem) < 1e-12
    assert difference(found.seen, truth.seen) < 1e-12
    assert_same(found.by_name, truth.by_name, 1e-12)


def test_state_that_keeps_its_graph_has_the_value_of_one_run():
    one, two = (filled(Remembering(detaches=False)) for _ in range(2))
    total(one(randn(4, 4))).backward()
    ardyn.backward(two, randn(4, 4), NO_TARGET, total, duration=LONG)
    assert difference(two.mem.detach(), one.mem.detach()) < 1e-12
    assert_same(gradients_on(two), gradients_on(one), 1e-8)
    for model in (one, two):
        model.zero_grad()
        model.mem = model.mem.detach()
    total(one(randn(4, 4, seed=2))).backward()
    ardyn.backward(two, randn(4, 4, seed=2), NO_TARGET, total, duration=LONG)
    assert_same(gradients_on(two), gradients_on(one), 1e-8)


def test_layers_behind_a_part_without_gradients_have_local_rules():
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 5), nn.Linear(5, 5)
            self.last = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.backbone(x).relu()
            y: Tensor = self.last(self.head(h).tanh())
            return y

    sim = ardyn.Relaxation(filled(Frozen()), randn(6, 4), randn(6, 3))
    assert sim.network.units == ("head", "last")
    assert all(isinstance(block.layer, Linear) for block in sim.network.blocks)
