"""Training: the phasic scheme against loops written out, alone and side by side."""

import gc
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ardyn
from ardyn import Adaptive, ClosedForm, InputError, Learner, Plasticity, Rule, Sweep
from studies.problems import images as data
from tests.oracles.problems import assert_same, difference, generator

SIZES = [6, 7, 5, 4]
STEP, SWEEPS, RATE = 0.1, 30, 0.05


def images(samples: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    inputs = torch.rand(samples, SIZES[0], generator=g).double()
    classes = torch.randint(SIZES[-1], (samples,), generator=g)
    return inputs, torch.eye(SIZES[-1])[classes].double()


def network(seed: int) -> torch.nn.Module:
    return ardyn.mlp(SIZES, std=0.5, generator=generator(seed)).double()


def learner(model: torch.nn.Module, rate: float = RATE, **settings: Any) -> Learner:
    return Learner(model, torch.optim.SGD(model.parameters(), lr=rate), **settings)


def written_out(W, b, x0, targets):
    """One batch of the authors' scheme, by loops: sweeps from the top, the output error clamped.

    f′ is taken at the true pre-activation, and biases have no batch dimension.
    """
    x, a = [x0], []
    for layer, (weight, bias) in enumerate(zip(W, b, strict=True)):
        a.append(x[-1] @ weight.T + bias)
        x.append(np.tanh(a[-1]) if layer < len(W) - 1 else a[-1])
    slope = [1 - np.tanh(each) ** 2 for each in a[:-1]] + [np.ones_like(a[-1])]
    frozen = [each.copy() for each in x]
    x[-1] = 2 * (x[-1] - targets)
    for _ in range(SWEEPS):
        for layer in reversed(range(1, len(W))):
            x[layer] = x[layer] + STEP * (-x[layer] + (x[layer + 1] * slope[layer]) @ W[layer])
    for layer in range(len(W)):
        e = x[layer + 1] * slope[layer]
        W[layer] = W[layer] - RATE * e.T @ frozen[layer]
        b[layer] = b[layer] - RATE * e.sum(0)


@pytest.mark.parametrize("solver", [Sweep(STEP), ClosedForm(Sweep(STEP))], ids=str)
def test_fifty_batches_of_the_authors_scheme_are_those_of_loops(solver):
    model = network(3)
    W = [p.detach().numpy().copy() for n, p in model.named_parameters() if n.endswith("weight")]
    b = [p.detach().numpy().copy() for n, p in model.named_parameters() if n.endswith("bias")]
    inputs, targets = images()
    student = learner(model, rule=Rule(output="clamped"), solver=solver, duration=SWEEPS * STEP)
    rows = [r for epoch in range(1, 11) for r in ardyn.batches(40, 8, [3], epoch)]
    assert len(rows) == 50
    for batch in rows:
        student.step(inputs[batch], targets[batch])
        written_out(W, b, inputs[batch].numpy(), targets[batch].numpy())
    found = [p.detach().numpy() for p in model.parameters()]
    truth = [each for pair in zip(W, b, strict=True) for each in pair]
    for mine, theirs in zip(found, truth, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["ar", "bp"])
def test_a_seed_learns_the_same_alone_as_beside_others(method):
    seeds, (inputs, targets) = [0, 5, 2], images()

    def train(chosen: list[int]) -> torch.nn.Module:
        model = ardyn.ensemble([network(seed) for seed in chosen])
        student = learner(model, method=method)
        for epoch in (1, 2):
            for batch in ardyn.batches(40, 16, chosen, epoch):
                student.step(inputs[batch], targets[batch])
        return model

    together = train(seeds)
    for number, seed in enumerate(seeds):
        alone = ardyn.member(train([seed]), 0).state_dict()
        assert_same(ardyn.member(together, number).state_dict(), alone, 1e-12)
    assert (
        difference(
            ardyn.member(together, 0).state_dict()["fc1.weight"],
            network(0).state_dict()["fc1.weight"],
        )
        > 1e-2
    )


def test_backprop_in_the_same_loop_is_backprop():
    inputs, targets = images()
    model, twin = network(1), network(1)
    student = learner(model, method="bp")
    value = student.step(inputs, targets)
    loss = (twin(inputs) - targets).square().sum()
    loss.backward()
    with torch.no_grad():
        for p in twin.parameters():
            assert p.grad is not None
            p.sub_(RATE * p.grad)
    assert difference(value, loss.detach()) < 1e-15
    assert_same(model.state_dict(), twin.state_dict(), 1e-14)
    relaxed = network(1)
    learner(relaxed, duration=100.0).step(inputs, targets)
    assert_same(relaxed.state_dict(), twin.state_dict(), 1e-12)


def test_learned_feedback_takes_the_transpose_of_what_the_weights_take():
    inputs, targets = images()
    model = network(1)
    psi = ardyn.random_feedback(model, std=0.5, generator=generator(4))
    before = {n: x.clone() for n, x in {**model.state_dict(), **psi}.items()}
    student = Learner(
        model,
        torch.optim.SGD([*model.parameters(), *psi.values()], lr=RATE),
        rule=Rule(feedback="learned"),
        feedback=psi,
    )
    student.step(inputs, targets)
    for name, x in psi.items():
        weights = f"{name}.weight"
        change = model.state_dict()[weights] - before[weights]
        assert difference(x - before[name], change.T) < 1e-12
        assert change.abs().max() > 1e-4


def test_what_is_restored_goes_on_as_what_was_saved():
    inputs, targets = images()

    def make() -> Learner:
        model = network(1)
        psi = ardyn.random_feedback(model, generator=generator(4))
        optimiser = torch.optim.SGD([*model.parameters(), *psi.values()], lr=0.01, momentum=0.9)
        return Learner(model, optimiser, rule=Rule(feedback="learned"), feedback=psi)

    one = make()
    for _ in range(3):
        one.step(inputs, targets)
    file = io.BytesIO()
    torch.save(one.state(), file)
    file.seek(0)
    other = make()
    other.restore(torch.load(file, weights_only=True))
    for each in (one, other):
        each.step(inputs, targets)
    assert_same(other.model.state_dict(), one.model.state_dict(), 0.0)
    assert_same(dict(other.feedback or {}), dict(one.feedback or {}), 0.0)


def test_every_epoch_shows_every_sample_once_to_every_seed():
    for epoch in (1, 2):
        rows = [r.view(2, -1) for r in ardyn.batches(10, 4, [0, 1], epoch)]
        assert [each.shape[1] for each in rows] == [4, 4, 2]
        for order in torch.cat(rows, dim=1):
            assert sorted(order.tolist()) == list(range(10))


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seeds: list[int], epoch: int) -> Tensor:
        return torch.cat([r.view(len(seeds), -1) for r in ardyn.batches(30, 7, seeds, epoch)], 1)

    both = order([4, 9], 1)
    assert torch.equal(both[1:], order([9], 1))
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, order([4, 9], 2))


@pytest.mark.parametrize("size", [0, 41])
def test_a_batch_larger_than_the_set_is_refused(size):
    with pytest.raises(InputError, match=f"batch size {size} must lie in 1 … 40"):
        next(ardyn.batches(40, size, [0], 1))


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="unknown method 'pb': choose one of ar, bp"):
        learner(network(0), method="pb")


@pytest.mark.parametrize("chunk", [7, 1000])
def test_evaluation_is_that_of_each_member(chunk):
    inputs, targets = images()
    models = [network(seed) for seed in (0, 1, 2)]
    loss, accuracy = ardyn.evaluate(ardyn.ensemble(models), inputs, targets, chunk=chunk)
    for i, model in enumerate(models):
        y = model(inputs).detach()
        assert difference(loss[i], (y - targets).square().sum() / 40) < 1e-12
        assert float(accuracy[i]) == float((y.argmax(1) == targets.argmax(1)).double().mean())
    assert len(set(accuracy.tolist())) > 1


def test_class_indices_are_classes_too():
    inputs, targets = images()
    model, classes = network(0), targets.argmax(1)
    accuracy = ardyn.evaluate(model, inputs, classes, "cross_entropy")[1]
    assert torch.equal(accuracy, ardyn.evaluate(model, inputs, targets)[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunk": 0}, "chunk must be positive"),
        ({"targets": torch.zeros(3, 4)}, "40 inputs and 3 targets cannot be evaluated"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, words):
    inputs, targets = images()
    with pytest.raises(InputError, match=words):
        ardyn.evaluate(**{"model": network(0), "inputs": inputs, "targets": targets} | change)


@pytest.mark.parametrize("seeds", [[], [-1], [0.5]])
def test_seeds_that_are_none_are_refused(seeds):
    with pytest.raises(InputError, match="seeds must be whole numbers from 0 on"):
        next(ardyn.batches(40, 8, seeds, 1))


def test_feedback_has_a_gradient_of_its_own():
    inputs, targets = images()
    model = network(1)
    psi = ardyn.random_feedback(model, generator=generator(4))
    ardyn.backward(model, inputs, targets, rule=Rule(feedback="learned"), feedback=psi)
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    for x in psi.values():
        assert x.grad is not None
        x.grad.zero_()
    assert_same({n: p.grad for n, p in model.named_parameters()}, before, 0.0)


def test_an_optimiser_of_something_else_is_refused():
    model, psi = network(1), ardyn.random_feedback(network(1))
    with pytest.raises(InputError, match=r"optimiser does not hold fc1.weight, which is learned"):
        Learner(model, torch.optim.SGD(network(1).parameters(), lr=RATE))
    with pytest.raises(InputError, match=r"does not hold feedback of 'fc1', which is learned"):
        learner(model, rule=Rule(feedback="learned"), feedback=psi)
    learner(model, rule=Rule(feedback="fixed"), feedback=psi)


def test_weights_that_were_put_in_another_place_are_found():
    inputs, targets = images()
    model = network(1)
    student = learner(model, rate=0.0)
    student.step(inputs, targets)
    model.load_state_dict(network(2).state_dict(), assign=True)
    assert student.optimiser is not None
    student.optimiser.param_groups[0]["params"] = list(model.parameters())
    truth = (network(2)(inputs) - targets).square().sum().detach()
    assert difference(student.step(inputs, targets), truth) < 1e-12


def test_a_step_leaves_nothing_behind():
    model = ardyn.cnn("digits", "code", generator=generator())
    student = learner(model)
    x, t = torch.rand(4, 1, 8, 8), torch.zeros(4, 10)
    student.step(x, t)
    gc.collect()
    gc.disable()
    try:
        counts = []
        for _ in range(3):
            student.step(x, t)
            student.check_finite()
            counts.append(sum(issubclass(type(each), Tensor) for each in gc.get_objects()))
    finally:
        gc.enable()
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("feedback", ["transpose", "learned"])
def test_a_stimulus_leaves_the_weights_where_its_plasticity_took_them(feedback):
    inputs, targets = images()
    model = network(1)
    rule = Rule(feedback=feedback)
    psi = None
    if feedback == "learned":
        psi = ardyn.random_feedback(model, std=0.5, generator=generator(4))
    plasticity = Plasticity(1e3, 2e3 if psi else math.inf, window=(1.0, 3.0))
    sim = ardyn.Relaxation(
        network(1),
        inputs,
        targets,
        rule=rule,
        plasticity=plasticity,
        feedback=psi and {n: x.clone() for n, x in psi.items()},
    )
    solver = ardyn.Adaptive("dopri5", 1e-8, 1e-10)
    learned = sim.solve([4.0], solver).learned
    assert learned is not None
    student = Learner(
        model, rule=rule, plasticity=plasticity, duration=4.0, solver=solver, feedback=psi
    )
    value = student.step(inputs, targets)
    assert_same(model.state_dict(), {n: W[-1] for n, W in learned.weights.items()}, 1e-12)
    if psi:
        assert_same(psi, {n: x[-1] for n, x in learned.feedback.items()}, 1e-12)
    assert float(value) == pytest.approx(float(sim.loss_value))
    assert float(student.step(inputs, targets)) < float(value)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "mse"},
        {"tau": [1.0, 2.0, 0.5]},
        {"rule": Rule(update_activity="trace"), "tau_trace": 3.0},
        {"units": "operation"},
    ],
    ids=str,
)
def test_a_stimulus_is_relaxed_with_the_settings_of_the_learner(settings):
    inputs, targets = images()
    model, plasticity = network(1), Plasticity(1e3)
    if settings.get("units"):  # Tanh and Linear apart
        assert len(ardyn.Relaxation(model, inputs, targets, **settings).network.units) == 5
    solver = ardyn.Fixed("rk4", 0.1)
    learned = (
        ardyn.Relaxation(network(1), inputs, targets, plasticity=plasticity, **settings)
        .solve([2.0], solver)
        .learned
    )
    assert learned is not None
    student = Learner(model, plasticity=plasticity, duration=2.0, solver=solver, **settings)
    student.step(inputs, targets)
    assert_same(model.state_dict(), {n: W[-1] for n, W in learned.weights.items()}, 1e-12)
    usual = network(1)
    Learner(usual, plasticity=plasticity, duration=2.0, solver=solver).step(inputs, targets)
    assert difference(usual.get_parameter("fc1.weight"), model.get_parameter("fc1.weight")) > 1e-9


def test_a_step_relaxes_the_units_of_the_learner():
    inputs, targets = images()
    model, other = network(1), network(1)
    learner(model, units="operation", duration=3.0).fill_gradients(inputs, targets)
    ardyn.backward(other, inputs, targets, units="operation", duration=3.0)
    found, truth = ({n: p.grad for n, p in each.named_parameters()} for each in (model, other))
    assert_same(found, truth, 1e-12)


def test_an_ensemble_lives_through_a_stimulus_as_its_members_do():
    inputs, targets = images()
    plasticity = Plasticity(2.0, reduction="mean")
    solver = ardyn.Fixed("rk4", 0.1)
    together = ardyn.ensemble([network(0), network(1)])
    Learner(together, plasticity=plasticity, duration=1.0, solver=solver).step(inputs, targets)
    for number in (0, 1):
        alone = network(number)
        half = slice(20 * number, 20 * number + 20)
        student = Learner(alone, plasticity=plasticity, duration=1.0, solver=solver)
        student.step(inputs[half], targets[half])
        assert_same(ardyn.member(together, number).state_dict(), alone.state_dict(), 1e-12)


def test_plasticity_near_the_end_trains_as_the_phasic_scheme_does():
    inputs, targets = images(200)
    width, duration, rate = 0.05, 20.0, 0.005
    phasic, continuous = network(0), network(0)
    one = learner(phasic, rate, duration=duration)
    other = Learner(
        continuous,
        plasticity=Plasticity(width / rate, window=(duration - width, duration)),
        duration=duration,
        solver=ardyn.Adaptive("dopri5", 1e-7, 1e-9),
    )
    for epoch in (1, 2, 3):
        for rows in ardyn.batches(200, 20, [0], epoch):
            one.step(inputs[rows], targets[rows])
            other.step(inputs[rows], targets[rows])
    found, truth = (ardyn.evaluate(m, inputs, targets) for m in (continuous, phasic))
    assert float(truth[0]) < 0.8 * float(ardyn.evaluate(network(0), inputs, targets)[0])
    assert float(found[0]) == pytest.approx(float(truth[0]), rel=0.02)


def test_plasticity_near_the_end_learns_the_digits_as_the_phasic_scheme_does():
    sets = data.Sets(*data.train_and_test("digits", torch.float32))
    x, t = sets.train.inputs, sets.train.targets
    width, duration, rate = 0.1, 10.0, 0.0005
    sizes = [64, 300, 300, 100, 10]
    phasic, continuous = (ardyn.mlp(sizes, generator=generator(0)) for _ in range(2))
    one = learner(phasic, rate, duration=duration)
    other = Learner(
        continuous,
        plasticity=Plasticity(width / rate, window=(duration - width, duration)),
        duration=duration,
        solver=ardyn.Fixed("rk4", 1.0),
    )
    for epoch in (1, 2, 3, 4, 5):
        for rows in ardyn.batches(len(x), 64, [0], epoch):
            one.step(x[rows], t[rows])
            other.step(x[rows], t[rows])
    found, truth = (
        100 * float(ardyn.evaluate(m, sets.test.inputs, sets.test.targets)[1])
        for m in (continuous, phasic)
    )
    assert truth > 85
    assert found == pytest.approx(truth, abs=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs an optimiser, or plasticity"),
        ({"plasticity": 5.0}, "plasticity must be a Plasticity, got 5.0"),
        (
            {"plasticity": Plasticity(1e3, window=(9.0, 11.0)), "solver": Adaptive()},
            "9 … 11 must lie in the relaxation",
        ),
        (
            {"plasticity": Plasticity(1e3, window=(10.0, math.inf)), "solver": Adaptive()},
            "must lie in the relaxation",
        ),
        ({"plasticity": Plasticity(1e3)}, "needs constant weights"),
        ({"plasticity": Plasticity(1.0), "method": "bp"}, "backprop has no plasticity in time"),
    ],
)
def test_a_learner_needs_one_way_to_change_its_weights(settings, words):
    with pytest.raises(InputError, match=words):
        Learner(network(0), **settings)
