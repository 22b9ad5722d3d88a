"""Runs at other activities than the module's own, and in several threads at once."""

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ardyn
from ardyn import Rule
from ardyn.state import State
from tests.oracles.problems import assert_same
from tests.oracles.side_by_side import (
    NO_TARGET,
    filled,
    forward,
    randn,
    seed_everything,
    total,
)


class Residual(nn.Module):
    """Layers with pooling, dropout and a residual in between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(4, 3)
        self.drop = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        h = self.drop(h) + 0.5 * h
        h = self.b(h).tanh()
        y: Tensor = self.c(functional.max_pool1d(h[:, None], 2)[:, 0])
        return y


@pytest.mark.parametrize("derivative", ["current", "postsynaptic", "frozen", "dropped"])
def test_a_repeated_run_draws_what_the_first_one_drew(derivative):
    model = filled(Residual()).train()
    inputs = randn(5, 6)
    seed_everything(11)
    kept = torch.nn.functional.dropout(torch.ones(5, 6).double(), 0.4)
    seed_everything(11)
    sim = ardyn.Relaxation(model, inputs, randn(5, 3), rule=Rule(relaxation_derivative=derivative))
    assert sim.network.units == ("a", "b", "c")
    seed_everything(12)
    x = {"a": randn(5, 6, seed=3), "b": randn(5, 8, seed=4), "c": randn(5, 3, seed=5)}
    rate = sim.dynamics(0.0, State(x)).activity
    W = {name: p.detach() for name, p in model.named_parameters()}
    gain = kept + 0.5

    def passed(xa: Tensor) -> Tensor:
        a: Tensor = (gain * xa) @ W["b.weight"].T + W["b.bias"]
        return a

    xa = (inputs @ W["a.weight"].T + W["a.bias"]).tanh()
    xb = passed(xa).tanh()
    slope = {
        "current": 1 - passed(x["a"]).tanh() ** 2,
        "postsynaptic": 1 - x["b"].tanh() ** 2,
        "frozen": 1 - xb**2,
        "dropped": torch.ones_like(xb),
    }[derivative]
    is_larger = (xb.unflatten(1, (4, 2)) == xb.unflatten(1, (4, 2)).amax(2, keepdim=True)).double()
    pooled = functional.max_pool1d(xb[:, None], 2)[:, 0]
    output = pooled @ W["c.weight"].T + W["c.bias"]
    truth = {
        "a": ((x["b"] * slope) @ W["b.weight"]) * gain - x["a"],
        "b": ((x["c"] @ W["c.weight"])[..., None] * is_larger).flatten(1) - x["b"],
        "c": 2 * (output - randn(5, 3)) - x["c"],
    }
    assert_same(rate, truth, 1e-12)


MAKES = {
    "a product": forward(lambda m, x: m.last((m.layer(x) * m.w).tanh())),
    "tied weights": forward(lambda m, x: m.layer(x).tanh() @ m.layer.weight * m.last.bias[0]),
    "a loop": forward(
        lambda m, x: m.last(m.middle(m.middle(m.layer(x).tanh()).relu())),
        middle=lambda: nn.Linear(5, 5),
    ),
    "in place": forward(lambda m, x: m.last(m.layer(x).relu_().mul(2.0).add_(1.0))),
}


def test_threads_give_what_one_after_another_gives():
    names = list(MAKES)

    def solve(name: str) -> dict[str, Tensor]:
        sim = ardyn.Relaxation(MAKES[name](), randn(6, 4), NO_TARGET, total)
        found = sim.solve([0.5, 3.0])
        stepped = sim.solve([2.0], ardyn.Fixed("rk4", 0.1))
        return {u: found[u] for u in found.units} | {f"{u}, rk4": stepped[u] for u in stepped.units}

    alone = {name: solve(name) for name in names}
    together: dict[tuple[str, int], dict[str, Tensor]] = {}
    start = threading.Barrier(len(names))

    def work(name: str) -> None:
        start.wait()
        for i in range(5):
            together[name, i] = solve(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 5 * len(names)
    for (name, _), found in together.items():
        assert_same(found, alone[name], 1e-13)


class Forked(nn.Module):
    """Its activation depends on its activities; either has as many operations as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(10, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        between = self.b(torch.cat([h, h * h], dim=1))
        y: Tensor = self.c(between.tanh() if h.abs().max() < 2 else between.sigmoid())
        return y


def test_another_path_at_other_activities_is_refused():
    rule = Rule(relaxation_derivative="current")
    sim = ardyn.Relaxation(filled(Forked()), randn(5, 6), NO_TARGET, total, rule=rule)
    x = dict(sim.dynamics.initial().activity)
    assert sim.dynamics(0.0, State(x)).activity["a"].isfinite().all()
    with pytest.raises(ardyn.InputError, match=r"Forked takes another path at other activities"):
        sim.dynamics(0.0, State(x | {"a": 3 * x["a"].sign()}))
