from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ardyn
from ardyn import Adaptive, ClosedForm, Fixed, InputError, Relaxation, Rule, SteadyState, Sweep
from tests.dynamics.test_rule import CHOICES
from tests.oracles.brute_force import Chain
from tests.oracles.problems import (
    ACTIVATIONS,
    CHAINS,
    LOSSES,
    Problem,
    assert_same,
    chain,
    difference,
    feedback_of,
    fill_biases,
    generator,
    problem,
    states,
)

VARIANTS = [
    (name, value)
    for name, values in CHOICES.items()
    for value in values
    if value != getattr(Rule(), name)
]


class Custom(nn.Module):
    """Functional calls, a method, and an operation in place."""

    def __init__(self, is_in_place: bool) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(5, 5) for _ in range(4))
        self.relu = nn.ReLU(inplace=is_in_place)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x))
        x = self.relu(self.b(x))
        x = functional.gelu(self.c(x))
        y: Tensor = self.d(x.sigmoid())
        return y


class Tied(nn.Module):
    """One layer, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.out = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(torch.tanh(self.shared(torch.tanh(self.shared(x)))))
        return y


def settled(sim: Relaxation) -> dict[str, Tensor]:
    return {unit: x[-1] for unit, x in states(sim.solve([60.0])).items()}


def module_gradients(
    model: nn.Module, calls: list[Any], inputs: Tensor, targets: Tensor
) -> list[Tensor]:
    """∂ sse/∂ the result of each call, by autograd through these calls."""
    x, values = inputs, []
    for call in calls:
        x = call(x)
        values.append(x)
    assert difference(x.detach(), model(inputs).detach()) == 0
    return list(torch.autograd.grad((x - targets).square().sum(), values))


def batch(outputs: int) -> tuple[Tensor, Tensor]:
    g = generator(4)
    return torch.randn(6, 5, generator=g).double(), torch.randn(6, outputs, generator=g).double()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", ["relaxed", "clamped"])
def test_equilibrium_is_the_backprop_gradient(output, activation, loss):
    case = problem(activation=activation, loss=loss)
    sim = case.relaxation(rule=Rule(output=output))
    assert_same(settled(sim), case.unit_gradients(), 1e-12)
    assert sim.equilibrium is not None
    assert_same(sim.equilibrium, case.unit_gradients(), 1e-13)
    assert_same(sim.gradients, case.unit_gradients(), 1e-13)


@pytest.mark.parametrize("layers", CHAINS)
def test_equilibrium_is_the_backprop_gradient_at_any_depth(layers):
    case = chain(layers)
    found = case.relaxation().solve([60.0 if layers < 64 else 250.0])
    assert_same({u: x[-1] for u, x in states(found).items()}, case.unit_gradients(), 1e-12)


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [
        (Fixed("euler", 0.2), 1e-12),
        (Fixed("rk4", 0.2), 1e-12),
        (Sweep(0.2), 1e-12),
        (ClosedForm(Sweep(0.2)), 1e-12),
        (ClosedForm(Fixed("heun3", 0.2)), 1e-12),
        (Adaptive("dopri5", rtol=1e-8, atol=1e-10), 1e-6),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "rule",
    [Rule(), Rule(relaxation_derivative="current"), Rule(output="clamped", initial="zero")],
    ids=["default", "current", "clamped"],
)
def test_every_solver_settles_on_its_equilibrium(rule, solver, tolerance):
    if not rule.is_linear and isinstance(solver, ClosedForm):
        return
    case = problem()
    x = {u: v[-1] for u, v in states(case.relaxation(rule=rule).solve([60.0], solver)).items()}
    by_hand = Chain(case, rule)
    rate = by_hand.rate({i: x[case.units[i - 1]].cpu().numpy() for i in by_hand.relaxing})
    assert max(abs(each).max() for each in rate.values()) < 10 * tolerance
    if rule.is_linear:
        assert_same(x, case.unit_gradients(), tolerance)


def test_float32_settles_on_the_gradient_to_its_precision():
    for case in (problem(dtype=torch.float32), chain(4, dtype=torch.float32)):
        found = settled(case.relaxation())
        assert {x.dtype for x in found.values()} == {torch.float32}
        assert_same(found, case.unit_gradients(), 1e-5)


@pytest.mark.parametrize("is_in_place", [False, True])
def test_a_module_of_ones_own_settles_on_the_gradient(is_in_place):
    model = Custom(is_in_place).double()
    fill_biases(model, generator())
    inputs, targets = batch(5)
    truth = module_gradients(
        model,
        [
            lambda x: torch.tanh(model.a(x)),
            lambda x: torch.relu(model.b(x)),
            lambda x: functional.gelu(model.c(x)),
            torch.sigmoid,
            model.d,
        ],
        inputs,
        targets,
    )
    sim = Relaxation(model, inputs, targets)
    names = ("a", "b", "c", "sigmoid", "d")
    assert_same(settled(sim), dict(zip(names, truth, strict=True)), 1e-12)
    assert_same(sim.gradients, dict(zip(names, truth, strict=True)), 1e-14)


def test_a_layer_used_twice_has_two_units():
    model = Tied().double()
    fill_biases(model, generator())
    inputs, targets = batch(3)
    call = nn.Sequential(model.shared, nn.Tanh())
    truth = module_gradients(model, [call, call, model.out], inputs, targets)
    names = ("shared", "shared_1", "out")
    assert_same(
        settled(Relaxation(model, inputs, targets)), dict(zip(names, truth, strict=True)), 1e-12
    )


def with_rule(case: Problem, **choice: Any) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Activities over time, and the parameter gradients at the end."""
    rule = Rule(**choice)
    psi = feedback_of(case, rule, seed=3)
    settings: dict[str, Any] = {
        "rule": rule,
        "feedback": psi,
        "tau_trace": 2.0 if rule.update_activity == "trace" else None,
    }
    solver = Fixed("rk4", 0.1)
    case.model.zero_grad()
    ardyn.backward(**case.batch, **settings, duration=2.0, solver=solver)
    gradients = {n: p.grad.clone() for n, p in case.model.named_parameters() if p.grad is not None}
    case.model.zero_grad()
    return states(case.relaxation(**settings).solve([0.5, 2.0], solver)), gradients


@pytest.mark.parametrize(("name", "value"), VARIANTS)
def test_every_choice_of_a_rule_changes_the_result(name, value):
    case = problem((6, 5, 4, 3, 2), "sigmoid" if "derivative" in name else "tanh")
    plain_x, plain_gradients = with_rule(case)
    x, gradients = with_rule(case, **{name: value})
    moves = max(difference(x[u], plain_x[u]) for u in x)
    learns = max(difference(gradients[n], plain_gradients[n]) for n in gradients)
    assert learns > 1e-2
    if name.startswith("update"):
        assert moves == 0
    else:
        assert moves > 1e-2


def test_the_loss_is_summed_over_the_batch():
    for loss in LOSSES:
        case = problem(loss=loss)
        truth = LOSSES[loss](case.model(case.inputs), case.targets).detach()
        assert difference(case.relaxation().loss_value, truth) < 1e-14


@pytest.mark.parametrize("solver", [ClosedForm(), Fixed("rk4", 0.1), Sweep(0.1), Adaptive()])
def test_a_clamped_output_stands_on_the_drive(solver):
    case = problem()
    x = case.relaxation(rule=Rule(output="clamped")).solve([0.0, 1.0, 7.0], solver)["fc3"]
    assert (
        difference(x, torch.stack([2 * (case.model(case.inputs) - case.targets)] * 3).detach())
        < 1e-14
    )


@pytest.mark.parametrize("output", ["relaxed", "clamped"])
def test_each_unit_relaxes_with_its_own_tau(output):
    case = problem()
    tau = [0.3, 2.0, 0.9] if output == "relaxed" else [0.3, 2.0]
    rule = Rule(output=output)
    found = case.relaxation(rule=rule, tau=tau).solve([0.4, 3.0])
    assert_same(states(found), Chain(case, rule, tau).integrate([0.4, 3.0])[0], 1e-9)


def test_time_is_in_units_of_tau():
    case = problem()
    slow, unit = case.relaxation(tau=7.0), case.relaxation()
    assert_same(states(slow.solve([14.0])), states(unit.solve([2.0])), 1e-13)


def test_a_slow_trace_is_frozen_and_a_fast_one_current():
    case = problem()
    solver = Adaptive("scipy_solver", rtol=1e-8, atol=1e-10)
    rule = Rule(update_activity="trace")
    slow = case.relaxation(rule=rule, tau_trace=1e6).solve([5.0], solver)
    fast = case.relaxation(rule=rule, tau_trace=1e-3).solve([5.0], solver)
    frozen = dict(zip(case.units, Chain(case).forward[1:], strict=True))
    for unit in ("fc1", "fc2"):
        assert difference(slow.traces[unit][-1], frozen[unit]) < 1e-3
        assert difference(fast.traces[unit][-1], fast[unit][-1]) < 1e-3
        assert difference(fast.traces[unit][-1], frozen[unit]) > 0.1


def test_the_trace_does_not_act_on_the_activities():
    case = problem()
    solver = Fixed("rk4", 0.1)
    traced = case.relaxation(rule=Rule(update_activity="trace"), tau_trace=2.0).solve([3.0], solver)
    assert_same(states(traced), states(case.relaxation().solve([3.0], solver)), 1e-14)


def test_solving_leaves_the_model_and_the_batch_alone():
    case = problem()
    kept = [p.detach().clone() for p in case.model.parameters()]
    inputs, targets = case.inputs.clone(), case.targets.clone()
    for solver in (ClosedForm(), Fixed(), Sweep(), Adaptive()):
        case.relaxation().solve([2.0], solver)
    assert all(p.grad is None for p in case.model.parameters())
    assert all(torch.equal(p, k) for p, k in zip(case.model.parameters(), kept, strict=True))
    assert torch.equal(case.inputs, inputs)
    assert torch.equal(case.targets, targets)


def test_solving_twice_gives_the_same():
    sim = problem().relaxation()
    for solver in (ClosedForm(), Fixed(), Sweep(), Adaptive()):
        assert_same(states(sim.solve([2.0], solver)), states(sim.solve([2.0], solver)), 0.0)


def test_activities_carry_no_graph():
    sim = problem().relaxation()
    for solver in (ClosedForm(), Fixed(), Sweep(), Adaptive()):
        assert not any(x.requires_grad for x in states(sim.solve([1.0], solver)).values())


def change_weight(case: Problem) -> None:
    with torch.no_grad():
        case.layers[1].weight[0, 0] += 1.0


def change_inputs(case: Problem) -> None:
    case.inputs[0, 0] += 1.0


def change_targets(case: Problem) -> None:
    case.targets[0, 0] += 1.0


@pytest.mark.parametrize("change", [change_weight, change_inputs, change_targets])
@pytest.mark.parametrize(
    "read",
    [
        lambda sim: sim.solve([1.0]),
        lambda sim: sim.solve([1.0], Sweep()),
        lambda sim: sim.check(Sweep()),
        lambda sim: sim.gradients,
        lambda sim: sim.equilibrium,
        lambda sim: sim.exact_convergence_time(),
    ],
    ids=["exact", "stepped", "check", "gradients", "equilibrium", "time"],
)
def test_a_change_after_the_feed_forward_pass_is_noticed(read, change):
    case = problem()
    sim = case.relaxation()
    read(case.relaxation())
    change(case)
    with pytest.raises(InputError, match=r"changed after this Relaxation.*make a new one"):
        read(sim)
    read(case.relaxation())


def test_gradients_that_were_read_before_a_change_stay():
    case = problem()
    sim, truth = case.relaxation(), case.unit_gradients()
    assert_same(sim.gradients, truth, 1e-14)
    change_weight(case)
    assert_same(sim.gradients, truth, 1e-14)


@pytest.mark.parametrize(
    ("rule", "solver", "stop", "words"),
    [
        (Rule(), ClosedForm(), SteadyState(), "drop stop"),
        (Rule(), Fixed("euler", 2.0), None, "unstable"),
        (Rule(), ClosedForm(Sweep(2.0)), None, "unstable"),
        (Rule(relaxation_derivative="current"), ClosedForm(), None, "'current'"),
    ],
    ids=["stop", "step", "step of the closed form", "nonlinear"],
)
def test_what_cannot_be_solved_is_known_beforehand(rule, solver, stop, words):
    sim = problem().relaxation(rule=rule)
    with pytest.raises(InputError, match=words):
        sim.check(solver, stop)
    sim.check(Sweep(0.1), SteadyState())


def test_a_closed_form_cannot_stop():
    with pytest.raises(InputError, match=r"ClosedForm takes no steps.*drop stop"):
        problem().relaxation().solve([1.0], ClosedForm(), stop=SteadyState())


def test_another_batch_has_references_of_its_own():
    case, other = problem(), problem(batch=3, seed=5)
    sim = case.relaxation()
    first = dict(sim.gradients), dict(sim.equilibrium or {})
    again, fresh = (
        Relaxation.of(sim.setup, other.inputs, other.targets),
        case.relaxation(inputs=other.inputs, targets=other.targets),
    )
    assert_same(again.gradients, fresh.gradients, 1e-15)
    assert_same(again.equilibrium or {}, fresh.gradients, 1e-13)
    assert_same(sim.gradients, first[0], 0.0)
    assert_same(sim.equilibrium or {}, first[1], 0.0)
