"""What is kept between batches holds for the next one, or is found again."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ardyn
from ardyn import Adaptive, Rule
from ardyn.network.layers import Linear
from tests.oracles.problems import assert_same, difference, generator, gradients_on
from tests.oracles.side_by_side import NO_TARGET, filled, total

LONG = 1000.0


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed)).double()


class Switched(nn.Module):
    """Layers, and something between them that a switch turns on."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 3)
        self.is_on = False
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(torch.tanh(self.first(x))))
        if self.is_on:
            h = self.between(h)
        y: Tensor = self.b(h)
        return y


def hooked(h: Tensor) -> Tensor:
    h.register_hook(lambda g: 3 * g)
    return h


def hooked_at_its_node(h: Tensor) -> Tensor:
    assert h.grad_fn is not None
    h.grad_fn.register_prehook(lambda gradients: tuple(3 * g for g in gradients))
    return h


@pytest.mark.parametrize("between", [hooked, hooked_at_its_node])
def test_a_hook_added_after_a_batch_acts(between):
    model, x = filled(Switched(between)), randn(6, 4)
    for is_on in (False, True, False):
        model.is_on = is_on
        model.zero_grad()
        total(model(x)).backward()
        truth = {name: g.clone() for name, g in gradients_on(model).items()}
        model.zero_grad()
        ardyn.backward(model, x, NO_TARGET, total, duration=LONG)
        assert_same(gradients_on(model), truth, 1e-10)


class Guided(torch.autograd.Function):
    """The identity, sending back what is positive alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp(min=0)


def clipped_at_zero(h: Tensor) -> Tensor:
    h.register_hook(lambda g: g.clamp(min=0))
    return h


@pytest.mark.parametrize("between", [Guided.apply, clipped_at_zero])
def test_pull_backs_that_are_not_linear_have_no_closed_form(between):
    model, x = filled(Switched(between)), randn(6, 4)
    model.is_on = True
    sim = ardyn.Relaxation(model, x, NO_TARGET, total)
    with pytest.raises(ardyn.InputError, match="needs linear pull-backs"):
        sim.solve([0.5, 2.0])
    settled = sim.solve([60.0], Adaptive("dopri5", rtol=1e-9, atol=1e-11))
    found = {unit: settled[unit][-1] for unit in settled.units}
    assert_same(found, {u: x[-1] for u, x in dict(sim.solve([LONG]).activities).items()}, 1e-6)


def test_a_gradient_of_zero_proves_nothing_for_the_next_batch():
    class ReZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.share = nn.Linear(4, 4), nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = x + self.share * self.a(x).tanh()
            return y

    model, x = filled(ReZero()), randn(6, 4)
    model.share.data.zero_()
    first = ardyn.Relaxation(model, x, NO_TARGET, total)
    again = ardyn.Relaxation(model, x, NO_TARGET, total)
    assert again.network is not first.network
    model.share.data.fill_(0.5)
    kept = ardyn.Relaxation(model, x, NO_TARGET, total)
    assert ardyn.Relaxation(model, x, NO_TARGET, total).network is kept.network


def test_parts_never_have_a_name_that_is_taken():
    class Chunked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chunk = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
            self.last = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.chunk(x).chunk(2, 1)
            y: Tensor = self.last(left * right)
            return y

    sim = ardyn.Relaxation(filled(Chunked()), randn(6, 4), NO_TARGET, total, units="operation")
    assert len(set(sim.network.block)) == len(sim.network.blocks)
    assert_same(sim.equilibrium or {}, sim.gradients, 1e-12)


def test_gradients_are_added_in_place_and_belong_to_one_parameter_each():
    model, x = filled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))), randn(6, 4)
    flat = torch.zeros(20, dtype=torch.float64)
    model[0].weight.grad = flat.view(5, 4)
    ardyn.backward(model, x, NO_TARGET, total, duration=LONG)
    assert difference(flat.view(5, 4), ardyn_gradient(x)) < 1e-12

    def penalised(output: Tensor, target: Tensor) -> Tensor:
        penalty: Tensor = (model[0].bias + model[0].weight.sum(1)).sum()
        return total(output) + penalty

    model.zero_grad()
    ardyn.backward(model, x, NO_TARGET, penalised, duration=LONG)
    for p in model.parameters():
        assert p.grad is not None
        p.grad.mul_(2.0)  # neither expanded nor shared


def ardyn_gradient(x: Tensor) -> Tensor:
    model = filled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    total(model(x)).backward()
    truth: Tensor = gradients_on(model)["0.weight"]
    return truth


def test_a_rule_for_layers_that_nobody_sees_is_refused():
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.vmap(lambda row: self.a(row).tanh())(x)
            return y

    model, x = filled(Mapped()), randn(6, 4)
    ardyn.Relaxation(model, x, NO_TARGET, total)
    with pytest.raises(ardyn.InputError, match=r"needs layers with a local rule.*torch\.vmap"):
        ardyn.Relaxation(model, x, NO_TARGET, total, rule=Rule(update_derivative="dropped"))


def test_what_plain_python_holds_changes_once():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)
            self.state: dict[str, list[int]] = {"calls": [0]}

        def forward(self, x: Tensor) -> Tensor:
            self.state["calls"][0] += 1
            y: Tensor = self.a(x)
            return y

    model = filled(Counting())
    for number in (1, 2):
        ardyn.backward(model, randn(6, 4), NO_TARGET, total, duration=LONG)
        assert model.state["calls"] == [number]


@pytest.mark.parametrize("off", [1e-2, 1e-6])
def test_a_local_rule_that_differs_from_autograd_is_not_used(off, monkeypatch):
    def wrong(self: Any, parameters: Any, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {self.weight: (1 + off) * (v.mT @ x), self.bias: v.sum(0)}

    monkeypatch.setattr(Linear, "update", wrong)
    model, x = filled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))), randn(6, 4)
    ardyn.backward(model, x, NO_TARGET, total, duration=LONG)
    assert difference(gradients_on(model)["0.weight"], ardyn_gradient(x)) < 1e-12


def test_a_layer_that_is_returned_beside_its_activation_is_a_unit_of_its_own():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.a(x)
            return h.tanh(), h

    def product(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return (output[0] * output[1]).sum()

    sim = ardyn.Relaxation(filled(Both()), randn(6, 4), NO_TARGET, product)
    assert sim.network.units == ("a", "tanh")
    assert_same(sim.equilibrium or {}, sim.gradients, 1e-12)


class Branched(nn.Module):
    """A branch that hardly adds to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.strong, self.weak = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.strong(x) + 1e-6 * self.weak(x)
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_error_behind_a_weak_branch_is_found(dtype, monkeypatch):
    update = Linear.update

    def wrong(self: Any, parameters: Any, v: Tensor, x: Tensor) -> dict[str, Tensor]:
        found = update(self, parameters, v, x)
        return {name: 2 * g for name, g in found.items()} if "weak" in self.weight else found

    monkeypatch.setattr(Linear, "update", wrong)
    model, x = filled(Branched()).to(dtype), randn(6, 4).to(dtype)
    total(model(x)).backward()
    truth = {name: g.clone() for name, g in gradients_on(model).items()}
    model.zero_grad()
    ardyn.backward(model, x, NO_TARGET, total, duration=LONG)
    assert_same(gradients_on(model), truth, 1e-4)


class Replaceable(nn.Module):
    """Something between layers that can be another; counts its runs, and keeps an activity."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.between = [lambda h: 1.5 * h]

    def forward(self, x: Tensor) -> Tensor:
        RUNS.append(1)
        self.kept = self.a(x).tanh()
        y: Tensor = self.b(self.between[0](self.kept))
        return y


RUNS: list[int] = []


def test_each_sequence_of_calls_and_each_network_is_compared_once():
    model = filled(Replaceable())

    def is_compared(loss: Any) -> bool:
        RUNS.clear()
        ardyn.Relaxation(model, randn(6, 4), NO_TARGET, loss)
        return len(RUNS) == 2

    def sparse(output: Tensor, target: Tensor) -> Tensor:
        return total(output) + total(model.kept)

    assert [is_compared(total), is_compared(total)] == [True, False]
    model.between[0] = lambda h: h - 0.5
    assert [is_compared(total), is_compared(total)] == [True, False]
    assert [is_compared(sparse), is_compared(sparse), is_compared(total)] == [True, False, False]
    sim = ardyn.Relaxation(model, randn(6, 4), NO_TARGET, sparse)
    assert sim.network.outputs == ("a", "b")
