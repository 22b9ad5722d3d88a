"""Whole modules: where they settle, how they get there, and what they learn."""

import pytest
import torch
from torch import fx

import ardyn
from ardyn import Adaptive, ClosedForm, Fixed, Rule, Sweep
from tests.modules import CASES, Case
from tests.problems import assert_same, difference, gradients_on, states

LONG = 1000.0
"""Long after every path has been gone down."""
SETTINGS = [("block", "relaxed"), ("operation", "relaxed"), ("block", "clamped")]


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]()


def own_module(sim: ardyn.Relaxation, unit: str) -> str | None:
    """The module whose returned value is a unit's activity."""
    nodes = {node.name: node for node in sim.network.graph.nodes}
    node: fx.Node = nodes[sim.network.block[unit].node]
    return str(node.target) if node.op == "call_module" else None


@pytest.mark.parametrize(("units", "output"), SETTINGS)
def test_a_module_settles_on_its_gradients(case, units, output):
    sim = case.relaxation(units=units, rule=Rule(output=output))
    settled = {unit: x[-1] for unit, x in states(sim.solve([LONG])).items()}
    assert_same(settled, sim.gradients, 1e-10)
    assert_same(sim.equilibrium, sim.gradients, 1e-12)
    by_hooks = case.module_gradients()
    modules = {unit: own_module(sim, unit) for unit in sim.network.units}
    seen = {unit: by_hooks[name] for unit, name in modules.items() if name in by_hooks}
    assert_same({unit: settled[unit] for unit in seen}, seen, 1e-10)


@pytest.mark.parametrize(("units", "output"), SETTINGS)
def test_its_parameters_get_their_gradients(case, units, output):
    ardyn.backward(**case.batch, units=units, rule=Rule(output=output), duration=LONG)
    assert_same(gradients_on(case.model), case.parameter_gradients(), 1e-10)


@pytest.mark.parametrize("initial", ["feedforward", "zero"])
@pytest.mark.parametrize("units", ["block", "operation"])
def test_the_closed_form_is_the_tight_adaptive_solution(case, units, initial):
    sim = case.relaxation(units=units, rule=Rule(initial=initial), tau=1.3)
    times = [0.4, 3.0]
    smallest = min(float(g.abs().max()) for g in sim.gradients.values())
    stepped = sim.solve(times, Adaptive("dopri5", rtol=1e-9, atol=1e-9 * smallest))
    assert_same(states(sim.solve(times)), states(stepped), 1e-7, beside=sim.gradients)


@pytest.mark.parametrize("scheme", [Fixed("euler", 0.3), Fixed("rk4", 0.7), Sweep(0.3)], ids=str)
def test_the_closed_form_of_a_scheme_is_that_scheme(case, scheme):
    sim = case.relaxation(rule=Rule(output="clamped"))
    times = [0.3, 2.0, 4.2]
    stepped = sim.solve(times, scheme)
    for at in (times, times[-1:]):
        exact = states(sim.solve(at, ClosedForm(scheme)))
        truth = {unit: x[-len(at) :] for unit, x in states(stepped).items()}
        assert_same(exact, truth, 1e-12, beside=sim.gradients)


def test_more_leaks_on_the_way_take_longer():
    sims = {units: CASES["U-Net"]().relaxation(units=units) for units in ("block", "operation")}
    shared = set(sims["block"].network.units)
    assert shared < set(sims["operation"].network.units)
    times = {units: sim.exact_convergence_time() for units, sim in sims.items()}
    assert times["operation"]["down1"] > times["block"]["down1"] + 1.0


def test_predicted_convergence_times_are_those_of_a_dense_trajectory():
    sim = CASES["ResNet-18"]().relaxation()
    predicted = sim.exact_convergence_time(1e-2)
    measured = sim.solve(torch.linspace(0, 80, 2001), ClosedForm(Fixed("rk4", 0.04)))
    found = measured.convergence_time(1e-2)
    assert_same(found, predicted, 1e-3)


def test_a_sample_does_not_depend_on_its_companions():
    case = CASES["many to many"]()
    together = case.relaxation()
    alone = Case(
        case.model,
        tuple(x[1:2] for x in case.inputs),
        {
            "joint": case.targets["joint"][1:2],
            "rest": tuple(x[1:2] for x in case.targets["rest"]),
            "best": None,
        },
        case.loss,
    ).relaxation()
    parts = {u: x[:, 1:2] for u, x in states(together.solve([0.5, 3.0])).items()}
    assert_same(parts, states(alone.solve([0.5, 3.0])), 1e-12)
    per_sample = together.solve([3.0], Adaptive("dopri5", rtol=1e-9, atol=1e-12, per_sample=True))
    assert_same(states(per_sample), states(together.solve([3.0])), 1e-7)


def test_unequal_time_constants_need_a_solver():
    sim = CASES["many to many"]().relaxation(tau=[1.0, 2.0, 1.0, 0.5, 1.0, 1.0])
    with pytest.raises(ardyn.InputError, match=r"one tau where paths.*got 0.5 to 2; use an adapt"):
        sim.solve([1.0])
    settled = sim.solve([60.0], Adaptive("dopri5", rtol=1e-9, atol=1e-11))
    assert_same({u: x[-1] for u, x in states(settled).items()}, sim.gradients, 1e-7)


def test_a_current_derivative_is_taken_at_the_current_activities():
    case = CASES["U-Net"]()
    rule = Rule(relaxation_derivative="current")
    sim = case.relaxation(rule=rule)
    state = sim.dynamics.initial()
    x = {unit: 0.5 * value for unit, value in state.activity.items()}
    rate = sim.dynamics(0.0, type(state)(x)).activity
    model = case.model
    # What sends back to "bottom" is up2, which is linear; to "down2" it is bottom's silu.
    a = model.get_submodule("bottom")(x["down2"]).detach().requires_grad_()
    (slope,) = torch.autograd.grad(torch.nn.functional.silu(a).sum(), a)
    _, (drive,) = torch.autograd.functional.vjp(
        lambda below: model.get_submodule("bottom")(below), (x["down2"],), x["bottom"] * slope
    )
    assert difference(rate["down2"], drive - x["down2"]) < 1e-12


def test_a_network_is_traced_once():
    case = CASES["U-Net"]()
    assert case.relaxation().network is case.relaxation().network
