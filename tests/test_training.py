import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ardyn
from ardyn import Adaptive, ClosedForm, Fixed, InputError, Rule, Sweep
from ardyn.dynamics.learning import block_gradients, parameter_gradients
from tests.oracles.brute_force import Chain
from tests.oracles.problems import (
    ACTIVATIONS,
    CHAINS,
    LOSSES,
    Problem,
    assert_same,
    backprop,
    chain,
    difference,
    feedback_of,
    fill_biases,
    generator,
    gradients_on,
    problem,
)
from tests.test_relaxation import Custom, Tied, batch

LONG: dict[str, Any] = {"duration": 60.0}
DERIVATIVES = ("frozen", "current", "postsynaptic", "dropped")
TIGHT = Adaptive("dopri5", rtol=1e-10, atol=1e-12)


def sse(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    error: Tensor = model(inputs) - targets
    return error.square().sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", ["relaxed", "clamped"])
def test_a_long_relaxation_leaves_the_gradients_of_backprop(output, activation, loss):
    case = problem(activation=activation, loss=loss)
    value = ardyn.backward(**case.batch, rule=Rule(output=output), **LONG)
    assert_same(gradients_on(case.model), case.parameter_gradients(), 1e-12)
    assert difference(value, LOSSES[loss](case.model(case.inputs), case.targets).detach()) < 1e-14


@pytest.mark.parametrize("layers", CHAINS)
def test_it_does_so_at_any_depth(layers):
    case = chain(layers)
    ardyn.backward(**case.batch, duration=60.0 if layers < 64 else 250.0)
    assert_same(gradients_on(case.model), case.parameter_gradients(), 1e-12)


@pytest.mark.parametrize("solver", [Fixed("euler", 0.2), Fixed("rk4", 0.5), Sweep(0.2)])
def test_it_does_so_with_any_solver(solver):
    case = problem()
    ardyn.backward(**case.batch, **LONG, solver=solver)
    assert_same(gradients_on(case.model), case.parameter_gradients(), 1e-12)


def test_float32_gradients_are_those_of_backprop_to_its_precision():
    case = problem(dtype=torch.float32)
    ardyn.backward(**case.batch, **LONG)
    assert_same(gradients_on(case.model), case.parameter_gradients(), 1e-5)
    assert {g.dtype for g in gradients_on(case.model).values()} == {torch.float32}


@pytest.mark.parametrize("is_in_place", [False, True])
def test_a_module_of_ones_own_learns_as_by_backprop(is_in_place):
    model = Custom(is_in_place).double()
    fill_biases(model, generator())
    inputs, targets = batch(5)
    ardyn.backward(model, inputs, targets, **LONG)
    assert_same(gradients_on(model), backprop(model, lambda m: sse(m, inputs, targets)), 1e-12)


def test_the_gradients_of_a_layer_used_twice_add_up():
    model = Tied().double()
    fill_biases(model, generator())
    inputs, targets = batch(3)
    ardyn.backward(model, inputs, targets, **LONG)
    assert_same(gradients_on(model), backprop(model, lambda m: sse(m, inputs, targets)), 1e-12)


def test_the_gradients_of_two_layers_with_one_weight_add_up():
    one, two = nn.Linear(5, 5).double(), nn.Linear(5, 5).double()
    two.weight = one.weight
    model = nn.Sequential(one, nn.Tanh(), two)
    fill_biases(model, generator())
    inputs, targets = batch(5)
    ardyn.backward(model, inputs, targets, **LONG)
    assert_same(gradients_on(model), backprop(model, lambda m: sse(m, inputs, targets)), 1e-12)


def test_gradients_accumulate_like_those_of_loss_backward():
    case = problem()
    other = case.inputs.flip(0)
    ardyn.backward(**case.batch, **LONG)
    ardyn.backward(**(case.batch | {"inputs": other}), **LONG)

    def both(model: nn.Module) -> Tensor:
        return sse(model, case.inputs, case.targets) + sse(model, other, case.targets)

    assert_same(gradients_on(case.model), backprop(case.model, both), 1e-12)


def test_gradients_of_feedback_weights_accumulate_too():
    case = problem()
    other = case.batch | {"inputs": case.inputs.flip(0)}
    rule = {"fc2": Rule(feedback="fixed"), "*": Rule(feedback="learned")}
    psi = ardyn.random_feedback(case.model, generator=generator(2))
    alone = []
    for given in (case.batch, other):
        mine = {block: each.clone() for block, each in psi.items()}
        ardyn.backward(**given, rule=rule, feedback=mine)
        ardyn.backward(**given, rule=rule, feedback=psi)
        alone.append({block: x.grad for block, x in mine.items() if x.grad is not None})
    assert psi["fc2"].grad is None
    found = {block: x.grad for block, x in psi.items() if x.grad is not None}
    assert_same(found, {block: g + alone[1][block] for block, g in alone[0].items()}, 1e-14)


def test_frozen_parameters_keep_no_gradient():
    case = problem()
    for name, p in case.model.named_parameters():
        p.requires_grad_(name not in ("fc1.weight", "fc2.bias"))
    ardyn.backward(**case.batch, **LONG)
    truth = case.parameter_gradients()
    assert set(truth) == {"fc1.bias", "fc2.weight", "fc3.weight", "fc3.bias"}
    assert_same(gradients_on(case.model), truth, 1e-12)


def test_gradients_are_the_optimisers_own():
    case = problem()
    ardyn.backward(**case.batch, **LONG)
    first = {name: g.clone() for name, g in gradients_on(case.model).items()}
    ardyn.backward(**case.batch, **LONG)
    assert_same(gradients_on(case.model), {name: 2 * g for name, g in first.items()}, 1e-14)
    for p in case.model.parameters():
        assert p.grad is not None
        assert not p.grad.requires_grad


@pytest.mark.parametrize("rule", [Rule(), Rule(output="clamped")], ids=["relaxed", "clamped"])
def test_descending_the_gradient_lowers_the_loss(rule):
    case = problem((6, 8, 3), batch=8)
    optimiser = torch.optim.SGD(case.model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        losses.append(float(ardyn.backward(**case.batch, rule=rule)))
        optimiser.step()
    assert losses[-1] < losses[0] / 3


def test_a_step_of_training_follows_the_new_weights():
    case = problem()
    for _ in range(3):
        case.model.zero_grad()
        ardyn.backward(**case.batch, **LONG)
        assert_same(gradients_on(case.model), case.parameter_gradients(), 1e-12)
        with torch.no_grad():
            for p in case.model.parameters():
                assert p.grad is not None
                p.sub_(0.01 * p.grad)


def assert_is_eq_2(case: Problem, rule: Rule, tolerance: float, tau_trace: float = 2.0) -> None:
    """``backward`` against scipy's relaxation and a loop over samples."""
    n = len(case.layers) - (rule.output == "clamped")
    tau = [0.7, 1.6, 1.1, 0.4][:n]
    psi = feedback_of(case, rule, seed=3)
    by_hand = Chain(case, rule, tau, psi, tau_trace)
    x, z = by_hand.integrate([1.5])
    at = {name: i for i, name in enumerate(by_hand.names)}
    truth = by_hand.update(
        {at[u]: each[-1] for u, each in x.items()}, {at[u]: each[-1] for u, each in z.items()}
    )
    case.model.zero_grad()
    ardyn.backward(
        **case.batch,
        rule=rule,
        tau=tau,
        duration=1.5,
        solver=TIGHT,
        feedback=psi,
        tau_trace=tau_trace if rule.update_activity == "trace" else None,
    )
    assert_same(gradients_on(case.model), truth, tolerance)


@pytest.mark.parametrize(
    ("derivative", "activity"), list(itertools.product(DERIVATIVES, ("frozen", "current", "trace")))
)
@pytest.mark.parametrize("output", ["relaxed", "clamped"])
def test_the_update_is_eq_2(output, derivative, activity):
    rule = Rule(update_derivative=derivative, update_activity=activity, output=output)
    assert_is_eq_2(problem((5, 4, 3, 2), "sigmoid", batch=3), rule, 1e-8)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_relaxation_and_update_may_take_their_derivatives_differently(derivative):
    rule = Rule("fixed", derivative, "current", "current", initial="zero")
    assert_is_eq_2(problem((5, 4, 3, 2), "gelu", batch=3), rule, 1e-8)


def test_rules_may_differ_from_layer_to_layer():
    case = problem()
    dropped, current = Rule(update_derivative="dropped"), Rule(update_activity="current")
    found = {}
    rules: dict[str, Rule | dict[str, Rule]] = {
        "mixed": {"fc1": dropped, "fc2": current},
        "dropped": dropped,
        "current": current,
        "default": Rule(),
    }
    for name, rule in rules.items():
        case.model.zero_grad()
        ardyn.backward(**case.batch, rule=rule, duration=3.0)
        found[name] = {n: g.clone() for n, g in gradients_on(case.model).items()}
    source = {"fc1": "dropped", "fc2": "current", "fc3": "default"}
    truth = {n: found[source[n.split(".")[0]]][n] for n in found["mixed"]}
    assert_same(found["mixed"], truth, 1e-15)


@pytest.mark.parametrize(("tau_trace", "activity"), [(1e6, "frozen"), (1e-3, "current")])
def test_a_slow_trace_learns_as_frozen_and_a_fast_one_as_current(tau_trace, activity):
    case, solver = problem(), Adaptive("scipy_solver", rtol=1e-8, atol=1e-10)
    ardyn.backward(**case.batch, rule=Rule(update_activity=activity), duration=5.0, solver=solver)
    truth = {n: g.clone() for n, g in gradients_on(case.model).items()}
    case.model.zero_grad()
    ardyn.backward(
        **case.batch,
        rule=Rule(update_activity="trace"),
        duration=5.0,
        solver=solver,
        tau_trace=tau_trace,
    )
    assert_same(gradients_on(case.model), truth, 1e-3)


class Joined(nn.Module):
    """Its readout reads two units and an input, joined without a leak of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.fc1(x).tanh()
        y: Tensor = self.fc3(torch.cat([first + self.fc2(first).tanh(), x], dim=1))
        return y


@pytest.mark.parametrize("solver", [ClosedForm(), TIGHT], ids=["closed form", "adaptive"])
@pytest.mark.parametrize("activity", ["current", "trace"])
def test_a_synapse_reads_units_through_what_has_no_leak(activity, solver):
    model = Joined().double()
    fill_biases(model, generator())
    inputs, targets = batch(3)
    settings: dict[str, Any] = {"rule": Rule(update_activity=activity)}
    if activity == "trace":
        settings["tau_trace"] = 2.0
    end = ardyn.Relaxation(model, inputs, targets, **settings).solve([1.5], solver)
    read = end.traces if activity == "trace" else end
    below = torch.cat([read["fc1"][-1] + read["fc2"][-1], inputs], dim=1)
    ardyn.backward(model, inputs, targets, **settings, duration=1.5, solver=solver)
    assert difference(gradients_on(model)["fc3.weight"], end["fc3"][-1].T @ below) < 1e-12
    if activity == "trace":
        assert difference(end.traces["fc1"][-1], end["fc1"][-1]) > 0.1


def test_the_duration_and_tau_decide_how_far_it_comes():
    case = problem()
    truth = case.parameter_gradients()
    errors = []
    for duration, tau in [(2.0, 1.0), (10.0, 1.0), (10.0, 5.0)]:
        case.model.zero_grad()
        ardyn.backward(**case.batch, duration=duration, tau=tau)
        errors.append(difference(gradients_on(case.model)["fc1.weight"], truth["fc1.weight"]))
    assert errors[1] < 0.02 < 0.1 < errors[0]
    assert errors[2] == pytest.approx(errors[0], rel=1e-10)


def test_the_default_is_the_exact_relaxation_for_ten_tau():
    case = problem()
    ardyn.backward(**case.batch)
    truth = {n: g.clone() for n, g in gradients_on(case.model).items()}
    case.model.zero_grad()
    ardyn.backward(**case.batch, duration=10.0, solver=ClosedForm())
    assert_same(gradients_on(case.model), truth, 0.0)
    case.model.zero_grad()
    ardyn.backward(**case.batch, duration=10.0, solver=TIGHT)
    assert_same(gradients_on(case.model), truth, 1e-8)


def test_gradients_follow_from_any_activities():
    case = problem()
    sim = case.relaxation()
    g = generator(8)
    x = {u: torch.randn(v.shape, generator=g).to(v) for u, v in sim.gradients.items()}
    found = parameter_gradients(block_gradients(sim.dynamics, x, {}))
    by_hand = {i: x[u].cpu().numpy() for i, u in enumerate(case.units, 1)}
    assert_same(found, Chain(case).update(by_hand, {}), 1e-14)


def test_a_bias_free_layer_learns_its_weight_alone():
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, targets = batch(3)
    ardyn.backward(model, inputs, targets, **LONG)
    assert_same(gradients_on(model), backprop(model, lambda m: sse(m, inputs, targets)), 1e-12)


def test_a_further_axis_is_summed_over():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, targets = (torch.stack([x, -x]) for x in batch(3))
    ardyn.backward(model, inputs, targets, **LONG)
    assert_same(gradients_on(model), backprop(model, lambda m: sse(m, inputs, targets)), 1e-12)


def test_a_frozen_model_has_nothing_to_learn():
    case = problem()
    case.model.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter of Sequential requires a gradient"):
        ardyn.backward(**case.batch)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"duration": -1.0}, "duration must be positive and finite, got -1.0"),
        ({"duration": float("nan")}, "duration must be positive and finite, got nan"),
        ({"rule": Rule(relaxation_derivative="current")}, r"'current'.*Adaptive\('dopri5'"),
        ({"rule": Rule(update_activity="trace")}, "needs tau_trace"),
        ({"rule": Rule(feedback="fixed")}, "needs feedback weights for block 'fc1'"),
        ({"solver": Fixed("euler", 2.0)}, "unstable"),
    ],
    ids=["negative", "nan", "nonlinear", "tau_trace", "feedback", "step"],
)
def test_what_it_cannot_do_is_refused_before_any_gradient(settings, words):
    case = problem()
    with pytest.raises(InputError, match=words):
        ardyn.backward(**case.batch, **settings)
    assert gradients_on(case.model) == {}
