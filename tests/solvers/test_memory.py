"""Weights are large: a coupled solve holds the solver's own copies of the state, and no more."""

import weakref
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ardyn
from ardyn import Adaptive, Fixed, Plasticity
from ardyn.dynamics import windows
from tests.oracles.problems import generator


class PeakMemory(TorchDispatchMode):
    """Bytes of all tensors made within, while they live, and the most of them at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


@pytest.fixture(scope="module")
def paper() -> tuple[ardyn.Relaxation, tuple[Tensor, ...]]:
    """The paper's MLP, and tensors of the size of its coupled state."""
    model = ardyn.mlp([784, 300, 300, 100, 10], generator=generator())
    inputs, targets = torch.rand(64, 784), torch.rand(64, 10)
    sim = ardyn.Relaxation(model, inputs, targets, plasticity=Plasticity(1e3, reduction="mean"))
    weights = [p.detach().clone() for p in model.parameters()]
    return sim, (*weights, torch.rand(64, 710))


def size_of(state: tuple[Tensor, ...]) -> int:
    return sum(x.nbytes for x in state)


@pytest.mark.parametrize("times", [1, 30])
@pytest.mark.parametrize(
    "solver", [Fixed("euler", 0.25), Fixed("rk4", 0.25), Adaptive("dopri5", 1e-4)], ids=str
)
def test_a_coupled_solve_holds_what_torchdiffeq_needs(solver, times, paper, monkeypatch):
    """Its own peak, besides what is recorded, and a few whole states on the way."""
    sim, state = paper
    monkeypatch.setattr(windows, "MAX_RECORDED", 3 * sum(x.numel() for x in state))
    options = {"step_size": 0.25} if isinstance(solver, Fixed) else {}
    with PeakMemory() as bare:
        torchdiffeq.odeint(
            lambda t, y: tuple(-x for x in y),
            state,
            torch.tensor([0.0, 1.0]),
            method=solver.method,
            options=options,
            rtol=1e-4,
        )
    with PeakMemory() as own:
        kept = sim.solve([(k + 1) / times for k in range(times)], solver)
    assert bare.peak > 5 * size_of(state)
    recorded = sum(x.nbytes for x in kept.activities.values())
    on_the_way = 1.5 if times == 1 else 1.5 + 2 * 3
    assert own.peak < bare.peak + 2 * recorded + on_the_way * size_of(state)


def test_weights_over_time_are_kept_only_where_asked_for(paper, monkeypatch):
    sim, state = paper
    monkeypatch.setattr(windows, "MAX_RECORDED", 1)
    sim.solve([0.1], Fixed("euler", 0.1))  # gradients and equilibrium are kept from the first on
    held = []
    for every in (0, 4, 1):
        with PeakMemory() as memory:
            kept = sim.solve([0.1 * k for k in range(1, 9)], Fixed("euler", 0.1), None, every)
            held.append(sum(memory.sizes.values()))
        assert kept.learned is not None
        assert len(kept.learned.times) == {0: 1, 4: 2, 1: 8}[every]
    weights = size_of(state[:-1])
    assert held[1] - held[0] == pytest.approx(weights, rel=0.1)
    assert held[2] - held[0] == pytest.approx(7 * weights, rel=0.1)
