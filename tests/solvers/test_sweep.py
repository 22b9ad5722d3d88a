import pytest

from ardyn import Adaptive, InputError, Rule, SteadyState, Sweep
from tests.oracles.brute_force import Chain
from tests.oracles.problems import assert_same, chain, difference, problem, states

RULES = [
    Rule(),
    Rule(output="clamped"),
    Rule(initial="zero"),
    Rule(relaxation_derivative="current"),
    Rule(relaxation_derivative="postsynaptic", output="clamped"),
    Rule(relaxation_derivative="dropped"),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("steps", [1, 7])
def test_it_is_the_authors_loop(rule, steps):
    case = problem()
    tau = [0.7, 1.5, 1.0][: 2 + (rule.output == "relaxed")]
    loop = Chain(case, rule, tau)
    found = case.relaxation(rule=rule, tau=tau).solve([0.2 * steps], Sweep(0.2))
    truth = loop.named(loop.sweep(steps, 0.2))
    assert_same({u: x[-1] for u, x in states(found).items()}, truth, 1e-13)
    assert found.evaluations == steps


def test_a_deep_chain_is_swept_from_top_to_bottom_in_one_step():
    case = chain(64)
    loop = Chain(case)
    found = case.relaxation().solve([0.5], Sweep(0.5))
    assert_same({u: x[-1] for u, x in states(found).items()}, loop.named(loop.sweep(1, 0.5)), 1e-13)


def test_between_sweeps_the_state_is_interpolated():
    sim = problem().relaxation()
    before, between, after = sim.solve([0.4, 0.5, 0.6], Sweep(0.2))["fc1"]
    assert difference(between, (before + after) / 2) < 1e-14


def test_recorded_times_do_not_change_the_sweeps():
    sim = problem().relaxation()
    many = sim.solve([0.0, 0.13, 0.6, 1.0, 2.0], Sweep(0.2))
    assert_same(
        {u: x[-1:] for u, x in states(many).items()}, states(sim.solve([2.0], Sweep(0.2))), 1e-14
    )


def test_the_last_sweep_is_shortened():
    case = problem()
    x = case.relaxation().solve([0.2, 0.25], Sweep(0.2))
    start = Chain(case)
    start.start = lambda: {i: x[u][0].cpu().numpy() for i, u in enumerate(case.units, 1)}  # type: ignore[method-assign]
    truth = start.named(start.sweep(1, 0.05))
    assert_same({u: v[1] for u, v in states(x).items()}, truth, 1e-13)


def test_its_order_is_one():
    sim = problem().relaxation()
    exact = sim.solve([2.0])["fc1"]
    errors = [difference(sim.solve([2.0], Sweep(h))["fc1"], exact) for h in (0.02, 0.01)]
    assert 1.9 < errors[0] / errors[1] < 2.1


def test_the_trace_of_the_activity_is_swept_along():
    case = problem()
    sim = case.relaxation(rule=Rule(update_activity="trace"), tau_trace=0.8)
    fine = sim.solve([1.0], Sweep(1e-3)).traces
    exact = sim.solve([1.0], Adaptive("dopri5", rtol=1e-10, atol=1e-12)).traces
    assert_same(fine, exact, 5e-3)


def test_it_stops_at_a_steady_state():
    sim = problem(batch=3).relaxation()
    found = sim.solve([1.0, 50.0, 100.0], Sweep(0.1), stop=SteadyState(1e-4))
    assert found.evaluations < 700
    assert found.stop_reason == ["steady state"] * 3
    assert difference(found["fc1"][1], found["fc1"][2]) == 0


@pytest.mark.parametrize("growth", [(0.5, 0.5), (1.0, 0.0), (1.7, 0.7), (2.5, 1.5)])
def test_growth_is_what_one_sweep_does_to_the_leak(growth):
    ratio, truth = growth
    assert Sweep().growth(ratio) == pytest.approx(truth, abs=1e-15)


@pytest.mark.parametrize("step", [0.0, -0.1, float("nan"), float("inf"), "0.1"])
def test_a_step_that_is_not_positive_is_refused(step):
    with pytest.raises(InputError, match="the step must be"):
        Sweep(step)
