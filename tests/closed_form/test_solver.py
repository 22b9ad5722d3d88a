import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ardyn
from ardyn import Adaptive, ClosedForm, Fixed, InputError, Rule, Sweep
from ardyn.dynamics.rule import Initial
from tests.oracles.brute_force import Chain, Layers
from tests.oracles.problems import (
    CHAINS,
    MULTISTEP_METHODS,
    ONE_STEP_METHODS,
    Problem,
    assert_same,
    chain,
    difference,
    feedback_of,
    generator,
    problem,
    random_chains,
    random_times,
    states,
)

SCHEMES: list[Fixed | Sweep] = [*(Fixed(method, 0.3) for method in ONE_STEP_METHODS), Sweep(0.3)]
TIMES = [0.0, 0.1, 0.3, 0.75, 0.9, 2.0]
"""On and off the grid of 0.3; the last step is shortened."""
CASES = [
    (layers, output, initial)
    for layers in CHAINS
    for output in ("relaxed", "clamped")
    for initial in ("feedforward", "zero")
    if (layers, output) != (1, "clamped")
]


def taus(case: Problem, rule: Rule, is_equal: bool) -> float | list[float]:
    if is_equal:
        return 1.3
    n = len(case.layers) - (rule.output == "clamped")
    return [0.5 + 0.37 * ((3 * i) % 7) for i in range(n)]


@pytest.mark.parametrize("is_equal", [True, False], ids=["one tau", "unequal"])
@pytest.mark.parametrize(("layers", "output", "initial"), CASES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: getattr(s, "method", "sweep"))
def test_the_closed_form_of_a_scheme_is_that_scheme(scheme, layers, output, initial, is_equal):
    case, rule = chain(layers), Rule(output=output, initial=initial)
    sim = case.relaxation(rule=rule, tau=taus(case, rule, is_equal))
    stepped, exact = sim.solve(TIMES, scheme), sim.solve(TIMES, ClosedForm(scheme))
    assert_same(states(exact), states(stepped), 1e-12, beside=sim.gradients)


@pytest.mark.parametrize("steps", [3, 40])
@pytest.mark.parametrize(("layers", "output", "initial"), CASES)
def test_the_closed_forms_of_euler_and_the_sweep_are_the_loops(layers, output, initial, steps):
    case, rule = chain(layers), Rule(output=output, initial=initial)
    tau = taus(case, rule, is_equal=False)
    sim, loops = case.relaxation(rule=rule, tau=tau), Chain(case, rule, tau)
    results: list[tuple[Fixed | Sweep, Layers]] = [
        (Fixed("euler", 0.1), loops.euler(steps, 0.1)),
        (Sweep(0.1), loops.sweep(steps, 0.1)),
    ]
    for scheme, x in results:
        found = sim.solve([0.1 * steps], ClosedForm(scheme))
        last = {unit: x[-1] for unit, x in states(found).items()}
        assert_same(last, loops.named(x), 1e-12, beside=sim.gradients)


@given(random_chains(), st.sampled_from(SCHEMES), st.floats(0.05, 0.5), random_times)
def test_any_chain_step_and_times_agree_with_stepping(drawn, scheme, step, times):
    case, tau = drawn
    scheme = replace(scheme, step=step)
    sim = case.relaxation(tau=tau)
    stepped, exact = sim.solve(times, scheme), sim.solve(times, ClosedForm(scheme))
    assert_same(states(exact), states(stepped), 1e-12)


@pytest.mark.parametrize("is_equal", [True, False], ids=["one tau", "unequal"])
@pytest.mark.parametrize(("layers", "output", "initial"), CASES)
def test_the_closed_form_of_the_ode_is_the_tight_adaptive_solution(
    layers, output, initial, is_equal
):
    case, rule = chain(layers), Rule(output=output, initial=initial)
    sim = case.relaxation(rule=rule, tau=taus(case, rule, is_equal))
    times = [0.0, 0.4, 2.0] if layers < 64 else [0.4]
    stepped = sim.solve(times, Adaptive("dopri5", rtol=1e-10, atol=1e-13))
    assert_same(states(sim.solve(times)), states(stepped), 1e-8, beside=sim.gradients)


@pytest.mark.parametrize("is_equal", [True, False], ids=["one tau", "unequal"])
@pytest.mark.parametrize(
    "rule",
    [
        Rule(),
        Rule(relaxation_derivative="dropped"),
        Rule(feedback="fixed"),
        Rule(feedback="learned", relaxation_derivative="dropped", output="clamped"),
        Rule(output="clamped", initial="zero"),
    ],
    ids=["default", "dropped", "fixed", "learned", "clamped"],
)
@pytest.mark.parametrize("layers", [2, 4])
def test_the_closed_form_of_the_ode_is_scipys_solution(layers, rule, is_equal):
    case = chain(layers)
    psi = feedback_of(case, rule, seed=9)
    tau, times = taus(case, rule, is_equal), [0.3, 1.0, 7.0]
    truth, _ = Chain(case, rule, tau, psi).integrate(times)
    found = case.relaxation(rule=rule, tau=tau, feedback=psi).solve(times)
    assert_same(states(found), truth, 1e-8)


@settings(max_examples=15)
@given(random_chains(), random_times)
def test_any_chain_and_times_agree_with_scipy(drawn, times):
    case, tau = drawn
    times = [t for t in times if t > 0] or [1.0]
    truth, _ = Chain(case, tau=tau).integrate(times)
    assert_same(states(case.relaxation(tau=tau).solve(times)), truth, 1e-8)


@pytest.mark.parametrize("scheme", [None, Fixed("euler", 0.3), Fixed("rk4", 0.7), Sweep(0.3)])
@pytest.mark.parametrize("layers", CHAINS)
def test_the_final_state_alone_is_the_last_of_many(layers, scheme):
    sim = chain(layers).relaxation()
    many = sim.solve(list(np.linspace(0, 5, 101)), ClosedForm(scheme))
    alone = sim.solve([5.0], ClosedForm(scheme))
    assert_same(states(alone), {u: x[-1:] for u, x in states(many).items()}, 1e-13)


INITIAL: tuple[Initial, ...] = ("feedforward", "zero")


@pytest.mark.parametrize("initial", INITIAL)
def test_at_time_zero_it_is_the_initial_state(initial):
    case = problem()
    sim = case.relaxation(rule=Rule(initial=initial))
    scale = 0.0 if initial == "zero" else 1.0
    forward = dict(zip(case.units, Chain(case).forward[1:], strict=True))
    truth = {unit: scale * x[None] for unit, x in forward.items()}
    for scheme in (None, Sweep(), Fixed()):
        assert_same(states(sim.solve([0.0], ClosedForm(scheme))), truth, 1e-14)


@pytest.mark.parametrize("scheme", [None, Fixed("euler", 0.1), Sweep(0.1)])
def test_a_samples_trajectory_does_not_depend_on_its_companions(scheme):
    case = problem(batch=7)
    together = case.relaxation().solve([0.5, 5.0], ClosedForm(scheme))
    alone = case.samples(slice(4, 5)).relaxation().solve([0.5, 5.0], ClosedForm(scheme))
    assert_same({u: x[:, 4:5] for u, x in states(together).items()}, states(alone), 1e-14)


def test_rules_may_differ_from_block_to_block():
    case = problem((6, 5, 4, 3))
    dropped = Rule(relaxation_derivative="dropped")
    sim = case.relaxation(rule={"fc2": dropped})
    stepped = sim.solve([2.0], Adaptive("dopri5", rtol=1e-10, atol=1e-13))
    assert_same(states(sim.solve([2.0])), states(stepped), 1e-8)
    assert_same(
        {"fc2": sim.solve([2.0])["fc2"]}, {"fc2": case.relaxation().solve([2.0])["fc2"]}, 1e-14
    )


def test_asking_again_gives_the_same_states():
    found = problem().relaxation().solve([0.5, 5.0]).activities
    first = {unit: found[unit].clone() for unit in found}
    assert_same({unit: found[unit] for unit in found}, first, 0.0)


def test_the_settings_of_one_solve_do_not_leak_into_the_next():
    case = problem()
    answers = {
        (tau, initial, t): case.relaxation(tau=tau, rule=Rule(initial=initial)).solve([t])
        for tau in (1.0, 2.0)
        for initial in INITIAL
        for t in (1.0, 2.0)
    }
    for (tau, initial, t), found in answers.items():
        truth, _ = Chain(case, Rule(initial=initial), tau).integrate([t])
        assert_same(states(found), truth, 1e-8)


def storages(tensors: list[Tensor]) -> int:
    """Bytes that these tensors keep alive; shared memory counts once."""
    kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(kept.values())


def live() -> list[Tensor]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is Tensor]


@pytest.mark.parametrize("layers", [4, 64])
@pytest.mark.parametrize("times", [[10.0], [1.0, 2.0, 5.0], list(range(100))], ids=len)
def test_a_trajectory_holds_no_more_than_its_recorded_times(times, layers):
    sim = chain(layers, batch=50).relaxation()
    before = storages(live())
    traj = sim.solve(times)
    # What it records, and one state.
    recorded = 8 * (len(times) + 1) * sum(x.numel() for x in sim.dynamics.initial().tensors())
    # The weights that stand for the times, which do not grow with the batch, are kept for reuse.
    weights = 8 * 3 * layers**2 * (len(times) + 4)
    assert storages(live()) - before <= recorded + weights
    states(traj)
    assert storages(live()) - before <= recorded + weights


def test_what_is_kept_for_reuse_stays_small():
    layers, times = 64, list(np.linspace(0.0, 10.0, 200))
    case = chain(layers)
    before = storages(live())
    case.relaxation().solve(times)
    assert storages(live()) - before <= 8 * 3 * layers**2 * len(times)


@pytest.mark.parametrize("derivative", ["current", "postsynaptic"])
@pytest.mark.parametrize("scheme", [None, Fixed("euler", 0.1), Sweep(0.1)])
def test_a_nonlinear_rule_is_refused(derivative, scheme):
    rule = {"fc2": Rule(relaxation_derivative=derivative)}
    with pytest.raises(InputError, match=f"'{derivative}' for block 'fc2'.*Adaptive\\('dopri5'"):
        problem().relaxation(rule=rule).solve([1.0], ClosedForm(scheme))


@pytest.mark.parametrize("tau_trace", [1e-3, 0.7, 1.0, 5.0, 1e6, float("inf")])
@pytest.mark.parametrize("initial", ["feedforward", "zero"])
@pytest.mark.parametrize("tau", [1.0, [0.5, 1.0, 2.0]], ids=["one tau", "several"])
def test_activity_traces_are_those_of_scipy(tau, initial, tau_trace):
    case, rule, times = problem(), Rule(update_activity="trace", initial=initial), [0.0, 0.4, 3.0]
    sim = case.relaxation(rule=rule, tau=tau, tau_trace=tau_trace)
    _, z = Chain(case, rule, tau, tau_trace=tau_trace).integrate(times)
    assert_same(sim.solve(times).traces, z, 1e-7)
    last = {unit: each[-1:] for unit, each in z.items()}
    assert_same(sim.solve(times[-1:]).traces, last, 1e-7)


def test_the_trace_of_a_scheme_is_refused():
    sim = problem().relaxation(rule=Rule(update_activity="trace"), tau_trace=1.0)
    with pytest.raises(InputError, match=r"does not include the activity trace z; step it with F"):
        sim.solve([1.0], ClosedForm(Fixed("euler", 0.1)))


@pytest.mark.parametrize("method", MULTISTEP_METHODS)
def test_a_multistep_scheme_is_refused(method):
    with pytest.raises(InputError, match=f"one-step scheme, got the multistep '{method}'.*step it"):
        ClosedForm(Fixed(method, 0.1))


@pytest.mark.parametrize("of", [Adaptive("dopri5"), "euler", 0.1, ClosedForm(), Fixed, Sweep])
def test_what_is_no_scheme_is_refused(of):
    with pytest.raises(InputError, match="takes a one-step scheme such as Fixed or Sweep"):
        ClosedForm(of)


@pytest.mark.parametrize("times", [[40.0], [20.0, 30.0, 40.0]])
def test_what_a_start_leaves_behind_counts_beside_a_small_gradient(times):
    model = ardyn.mlp([4, 5, 5, 3], std=1.0, generator=generator(0)).double()
    drawn = torch.randn(6, 7, generator=generator(1)).double()
    inputs, targets = drawn[:, :4], drawn[:, 4:]
    sim = ardyn.Relaxation(model, inputs, targets, loss=lambda x, t: 1e-14 * (x - t).square().sum())
    found = states(sim.solve(times))
    tight = Adaptive("dopri8", rtol=1e-12, atol=1e-32)
    assert_same(found, states(sim.solve(times, tight)), 1e-7)
    late = {unit: x[-1] for unit, x in found.items()}
    assert max(difference(late[unit], g) for unit, g in sim.gradients.items()) > 1e-5
