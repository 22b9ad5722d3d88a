"""Activities, traces, weights and ψ as one ODE, against SciPy and where time scales part."""

import itertools
import math

import numpy as np
import pytest
import torch

import ardyn
from ardyn import (
    Adaptive,
    ClosedForm,
    DivergenceError,
    Fixed,
    InputError,
    Plasticity,
    Rule,
    SteadyState,
    Sweep,
)
from ardyn.dynamics import windows
from ardyn.dynamics.coupled import Coupled
from ardyn.network.activations import scale
from ardyn.solvers.integrators import ADAPTIVE_METHODS, FIXED_METHODS
from ardyn.state import State
from tests.oracles.brute_force import Chain
from tests.oracles.problems import (
    array,
    assert_same,
    backprop,
    difference,
    feedback_of,
    fill_biases,
    generator,
    problem,
    states,
)
from tests.test_relaxation import Tied, batch

TIGHT = Adaptive("dopri5", rtol=1e-11, atol=1e-13)
TIMES = [0.5, 1.5, 3.0]
RULES = [
    Rule(),
    Rule(output="clamped"),
    Rule(relaxation_derivative="current", update_derivative="current"),
    Rule(relaxation_derivative="postsynaptic", update_activity="current"),
    Rule(relaxation_derivative="dropped", update_derivative="dropped", initial="zero"),
    Rule(feedback="fixed", update_derivative="postsynaptic"),
    Rule(feedback="learned"),
    Rule(feedback="learned", relaxation_derivative="current", update_activity="current"),
    Rule(update_activity="trace"),
    Rule(
        feedback="learned", update_activity="trace", output="clamped", update_derivative="current"
    ),
]


def short(rule: Rule) -> str:
    default = Rule()
    changed = {k: v for k, v in vars(rule).items() if v != getattr(default, k)}
    return " ".join(map(str, changed.values())) or "default"


def tau_psi(rule: Rule) -> float:
    return 7.0 if rule.feedback == "learned" else math.inf


@pytest.mark.parametrize("rule", RULES, ids=short)
@pytest.mark.parametrize(
    ("reduction", "window", "decays"),
    [("sum", (0.0, math.inf), (0.0, 0.0)), ("mean", (0.7, 2.0), (0.3, 0.2))],
    ids=["plain", "mean, window, decay"],
)
def test_the_coupled_system_is_that_of_scipy(rule, reduction, window, decays):
    case = problem()
    psi = feedback_of(case, rule, 3)
    if rule.feedback != "learned":
        decays = (decays[0], 0.0)
    tau_z = 1.7 if rule.update_activity == "trace" else None
    sim = case.relaxation(
        rule=rule,
        tau=1.2,
        feedback=psi,
        tau_trace=tau_z,
        plasticity=Plasticity(5.0, tau_psi(rule), decays[0], decays[1], reduction, window),
    )
    found = sim.solve(TIMES, TIGHT, weights_every=1)
    relaxing = case.units if rule.output == "relaxed" else case.units[:-1]
    chain = Chain(case, rule, [1.2] * len(relaxing), psi, tau_z or math.inf)
    share = 1 / len(case.inputs) if reduction == "mean" else 1.0
    fast, slow = chain.coupled(TIMES, 5.0, 7.0, decays, window, share)
    assert_same({u: found[u] for u in relaxing}, {u: fast[u] for u in relaxing}, 1e-8)
    if tau_z:
        truth = {u: fast[f"z of {u}"] for u in found.traces}
        assert_same(found.traces, truth, 1e-8)
    assert found.learned is not None
    assert found.learned.times.tolist() == TIMES
    weights = {name: x for name, x in slow.items() if "ψ" not in name}
    assert_same(found.learned.weights, weights, 1e-8)
    if rule.feedback == "learned":
        truth = {u: slow[f"ψ of {u}"] for u in case.units}
        assert_same(found.learned.feedback, truth, 1e-8)
    else:
        assert not found.learned.feedback
    start = array(case.model.state_dict()["fc2.weight"])
    assert difference(found.learned.weights["fc2.weight"][-1], start) > 1e-3


def test_feedback_weights_that_are_fixed_stand_still_beside_those_that_learn():
    case = problem()
    psi = ardyn.random_feedback(case.model, std=0.5, generator=generator(3))
    rule = {"fc2": Rule(feedback="fixed"), "*": Rule(feedback="learned")}
    sim = case.relaxation(rule=rule, feedback=psi, plasticity=Plasticity(tau_feedback=5.0))
    found = sim.solve([2.0], TIGHT)
    assert found.learned is not None
    assert set(found.learned.feedback) == {"fc1", "fc3"}
    assert not found.learned.weights
    # Nothing that moves feeds back into fc3 and ψ of fc3, which follow the drive alone.
    every = case.relaxation(
        rule=Rule(feedback="learned"), feedback=psi, plasticity=Plasticity(tau_feedback=5.0)
    ).solve([2.0], TIGHT)
    assert every.learned is not None
    assert difference(found.learned.feedback["fc3"], every.learned.feedback["fc3"]) < 1e-9
    assert difference(found["fc1"], every["fc1"]) > 1e-3


def test_the_weights_of_a_layer_used_twice_move_by_the_sum_of_its_gradients():
    model = Tied().double()
    fill_biases(model, generator())
    inputs, targets = batch(3)
    sim = ardyn.Relaxation(model, inputs, targets, plasticity=Plasticity(5.0))
    assert sim.equilibrium is not None
    system = Coupled.of(sim.dynamics, Plasticity(5.0), State(sim.equilibrium))
    truth = backprop(model, lambda m: (m(inputs) - targets).square().sum())
    found = system(0.0, system.initial()).weights
    assert_same(found, {name: -g / 5.0 for name, g in truth.items()}, 1e-12)


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [
        *((Fixed(method, 0.02), 4e-2 if method == "euler" else 1e-3) for method in FIXED_METHODS),
        *((Adaptive(method, 1e-5, 1e-7), 1e-3) for method in ADAPTIVE_METHODS),
        (Sweep(0.01), 2e-2),
    ],
    ids=str,
)
def test_every_solver_integrates_the_weights(solver, tolerance):
    sim = problem().relaxation(plasticity=Plasticity(5.0))
    truth, found = (sim.solve(TIMES, each).learned for each in (TIGHT, solver))
    assert truth is not None
    assert found is not None
    assert_same(found.weights, truth.weights, tolerance)


@pytest.mark.parametrize("rule", RULES, ids=short)
def test_sweeps_and_steps_of_the_weights_take_turns(rule):
    case, steps, h = problem(), 30, 0.1
    psi = feedback_of(case, rule, 3)
    tau_z = 1.7 if rule.update_activity == "trace" else None
    sim = case.relaxation(
        rule=rule,
        feedback=psi,
        tau_trace=tau_z,
        plasticity=Plasticity(5.0, tau_psi(rule), reduction="mean"),
    )
    found = sim.solve([steps * h], Sweep(h))
    chain = Chain(case, rule, 1.0, psi, tau_z or math.inf)
    x, slow = chain.coupled_sweeps(steps, h, 5.0, 7.0, 1 / len(case.inputs))
    assert_same({u: x[-1] for u, x in states(found).items()}, chain.named(x), 1e-9)
    assert found.learned is not None
    learned = found.learned.weights | found.learned.feedback
    assert_same({name: W[-1] for name, W in learned.items()}, {n: slow[n] for n in learned}, 1e-9)
    assert bool(found.learned.feedback) == (rule.feedback == "learned")
    assert found.evaluations == steps


def test_infinite_time_constants_are_the_core_exactly():
    case = problem()
    plain = case.relaxation().solve(TIMES, Adaptive("dopri5"))
    still = case.relaxation(plasticity=Plasticity()).solve(TIMES, Adaptive("dopri5"))
    assert_same(states(still), states(plain), 0.0)
    assert still.learned is None
    exact = case.relaxation(plasticity=Plasticity()).solve(TIMES)
    assert_same(states(exact), states(case.relaxation().solve(TIMES)), 0.0)


def test_weights_alone_or_feedback_alone_may_move():
    case, rule = problem(), Rule(feedback="learned")
    psi = feedback_of(case, rule, 3)
    for plasticity in (Plasticity(5.0), Plasticity(tau_feedback=5.0)):
        sim = case.relaxation(rule=rule, feedback=psi, plasticity=plasticity)
        learned = sim.solve([3.0], TIGHT).learned
        assert learned is not None
        assert bool(learned.weights) == (plasticity.tau_weights == 5.0)
        assert bool(learned.feedback) == (plasticity.tau_feedback == 5.0)


def test_the_change_of_slow_weights_is_the_quasi_static_integral():
    case, rule, window = problem(), Rule(initial="feedforward"), (1.0, 4.0)
    slow, errors = [1e2, 1e3, 1e4, 1e5], []
    sim = case.relaxation(rule=rule)
    truth = sim.quasi_static_change(*window)
    for tau in slow:
        moving = case.relaxation(rule=rule, plasticity=Plasticity(tau, window=window))
        learned = moving.solve([5.0], TIGHT).learned
        assert learned is not None
        start = case.model.state_dict()
        change = {n: tau * (W[-1] - start[n]) for n, W in learned.weights.items()}
        far = torch.cat([(change[n] - truth[n]).flatten() for n in truth]).norm()
        errors.append(float(far / torch.cat([x.flatten() for x in truth.values()]).norm()))
    assert errors[-1] < 1e-4
    slopes = [math.log10(b / a) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([-1, -1, -1], abs=0.1)


@pytest.mark.parametrize("output", ["relaxed", "clamped"])
def test_the_quasi_static_change_is_the_integral_of_a_dense_trajectory(output):
    case, rule = problem(), Rule(output=output)
    tau = [0.8, 1.0, 1.3] if output == "relaxed" else [0.8, 1.0]
    sim = case.relaxation(rule=rule, tau=tau)
    times = torch.linspace(1.0, 4.0, 4001, dtype=torch.float64)
    trajectory = sim.solve(times)
    x = {u: torch.trapezoid(trajectory[u], times, dim=0) for u in trajectory.units}
    truth = Chain(case, tau=[0.8, 1.0, 1.3]).update(
        {i + 1: array(x[u]) for i, u in enumerate(case.units)}, {}
    )
    assert_same(sim.quasi_static_change(1.0, 4.0), {n: -g for n, g in truth.items()}, 1e-7)


def test_a_window_near_the_end_is_one_phasic_step():
    case, width, tau = problem(), 0.01, 20.0
    plasticity = Plasticity(tau, window=(40.0 - width, 40.0))
    learned = case.relaxation(plasticity=plasticity).solve([40.0], TIGHT).learned
    assert learned is not None
    start, rate = case.model.state_dict(), width / tau
    change = {n: (W[-1] - start[n]) / -rate for n, W in learned.weights.items()}
    assert_same(change, case.parameter_gradients(), 1e-3)


@pytest.mark.parametrize(
    ("tau_z", "activity"), [(1e6, "frozen"), (math.inf, "frozen"), (1e-3, "current")]
)
def test_a_slow_trace_is_the_frozen_activity_and_a_fast_one_the_current(tau_z, activity):
    case, start = problem(), problem().model.state_dict()
    changes = []
    for rule, tau in (
        (Rule(update_activity="trace"), tau_z),
        (Rule(update_activity=activity), None),
    ):
        sim = case.relaxation(rule=rule, tau_trace=tau, plasticity=Plasticity(50.0))
        learned = sim.solve([10.0], Adaptive("dopri5", rtol=1e-7, atol=1e-9)).learned
        assert learned is not None
        changes.append({n: W[-1] - start[n] for n, W in learned.weights.items()})
    assert_same(changes[0], changes[1], 1e-3)


def test_the_moving_gradient_is_that_of_a_new_pass_with_the_weights_of_the_moment():
    case = problem()
    sim = case.relaxation(plasticity=Plasticity(5.0))
    trajectory = sim.solve(TIMES, TIGHT, weights_every=1)
    found = sim.moving_gradients(trajectory)
    assert trajectory.learned is not None
    for i in range(len(TIMES)):
        x, own = case.inputs, problem().model
        own.load_state_dict({n: W[i] for n, W in trajectory.learned.weights.items()})
        layers = []
        for layer in own:
            x = layer(x)
            x.retain_grad()
            layers.append(x)
        (x - case.targets).square().sum().backward()
        truth = {f"fc{k + 1}": layers[min(2 * k + 1, len(layers) - 1)].grad for k in range(3)}
        assert_same({unit: g[i] for unit, g in found.items()}, truth, 1e-12)
    assert difference(found["fc1"][-1], found["fc1"][0]) > 0.1
    with pytest.raises(InputError, match="the weights of this trajectory are constant"):
        case.relaxation().moving_gradients(trajectory)


def test_weights_of_convolutions_move_too():
    model = ardyn.cnn("digits", "code", std=0.3, generator=generator()).double()
    x = torch.rand(3, 1, 8, 8, generator=generator(1)).double()
    t = torch.rand(3, 10, generator=generator(2)).double()
    tau, window = 1e5, (50.0, 51.0)
    sim = ardyn.Relaxation(model, x, t, plasticity=Plasticity(tau, window=window))
    learned = sim.solve([51.0], Adaptive("dopri5", rtol=1e-9, atol=1e-12)).learned
    assert learned is not None
    (model(x) - t).square().sum().backward()
    start = model.state_dict()
    change = {n: -tau * (W[-1] - start[n]) for n, W in learned.weights.items()}
    assert_same(change, {n: p.grad for n, p in model.named_parameters()}, 1e-3)


def test_what_is_recorded_at_once_does_not_change_what_is_found(monkeypatch):
    sim = problem().relaxation(plasticity=Plasticity(5.0, window=(0.7, 2.2)))
    times = [0.0, 0.3, 0.9, 1.1, 2.2, 2.7, 3.0]
    whole = sim.solve(times, TIGHT, weights_every=2)
    monkeypatch.setattr(windows, "MAX_RECORDED", 1)
    pieces = sim.solve(times, TIGHT, weights_every=2)
    assert_same(states(pieces), states(whole), 1e-9)
    assert whole.learned is not None
    assert pieces.learned is not None
    assert whole.learned.times.tolist() == pieces.learned.times.tolist() == [0.3, 1.1, 2.7, 3.0]
    assert_same(pieces.learned.weights, whole.learned.weights, 1e-9)


def test_where_activities_would_settle_follows_learned_feedback_weights():
    case, rule = problem(), Rule(feedback="learned")
    sim = case.relaxation(
        rule=rule, feedback=feedback_of(case, rule, 3), plasticity=Plasticity(5.0, 2.0)
    )
    trajectory = sim.solve(TIMES, TIGHT, weights_every=1)
    found = sim.equilibria(trajectory)
    trace = sim.dynamics.forward_pass
    assert trajectory.learned is not None
    for i in range(len(TIMES)):
        g = sim.dynamics.drive["fc3"]
        truth = {"fc3": g}
        for below, block in (("fc2", "fc3"), ("fc1", "fc2")):
            g = scale(g, trace.derivative.get(block)) @ trajectory.learned.feedback[block][i].T
            truth[below] = g
        assert_same({unit: x[i] for unit, x in found.items()}, truth, 1e-12)
    assert difference(found["fc1"][-1], found["fc1"][0]) > 0.1


def test_moving_weights_have_no_exact_convergence_time():
    with pytest.raises(InputError, match="with plastic weights there is no exact convergence time"):
        problem().relaxation(plasticity=Plasticity(5.0)).exact_convergence_time()


def test_a_trajectory_is_compared_and_stored_after_the_model_took_its_weights(tmp_path):
    case = problem()
    trajectory = case.relaxation(plasticity=Plasticity(5.0)).solve([3.0], TIGHT)
    truth = problem().unit_gradients()
    assert trajectory.learned is not None
    assert repr(trajectory.learned).startswith("<Learned, 1 record to 3: fc1.weight [5, 6]")
    case.model.load_state_dict({n: W[-1] for n, W in trajectory.learned.weights.items()})
    assert_same(trajectory.reference("gradients"), truth, 1e-13)
    trajectory.save(tmp_path / "moved.nc")


def test_moving_gradients_are_those_of_this_relaxation_alone():
    case = problem()
    sim = case.relaxation(plasticity=Plasticity(5.0))
    trajectory = sim.solve(TIMES, TIGHT)
    other = problem((4, 6, 3)).relaxation(plasticity=Plasticity(5.0)).solve(TIMES, TIGHT)
    for read in (sim.moving_gradients, sim.equilibria):
        with pytest.raises(InputError, match=r"holds fc1.weight of shape \[6, 4\], which this net"):
            read(other)
    with torch.no_grad():
        case.model.get_parameter("fc2.weight").add_(1.0)
    for read in (sim.moving_gradients, sim.equilibria):
        with pytest.raises(InputError, match="changed after this Relaxation was made"):
            read(trajectory)


@pytest.mark.parametrize("solver", [Fixed("rk4", 0.1), Fixed("euler", 0.1), TIGHT], ids=str)
def test_a_window_may_end_a_rounding_error_from_the_end(solver):
    end = 0.1 * 3
    assert end > 0.3
    found = []
    for stop in (0.3, end, end * (1 + 1e-12), math.inf):
        sim = problem().relaxation(plasticity=Plasticity(5.0, window=(0.1, stop)))
        learned = sim.solve([end], solver).learned
        assert learned is not None
        found.append(learned.weights)
    for each in found[1:]:
        assert_same(each, found[0], 1e-12)


def test_numbers_of_numpy_are_numbers():
    three, half, window = np.int64(3), np.float32(0.5), (np.float32(1), np.int64(2))
    plasticity = Plasticity(three, weight_decay=half, window=window)  # type: ignore[arg-type]
    assert plasticity == Plasticity(3.0, weight_decay=0.5, window=(1.0, 2.0))
    found, truth = (
        problem().relaxation(plasticity=each).solve([3.0], Fixed("rk4", 0.1)).learned
        for each in (plasticity, Plasticity(3.0, weight_decay=0.5, window=(1.0, 2.0)))
    )
    assert found is not None
    assert truth is not None
    assert_same(found.weights, truth.weights, 1e-12)


def test_the_model_is_left_as_it_is():
    case = problem()
    before = {n: p.clone() for n, p in case.model.state_dict().items()}
    case.relaxation(plasticity=Plasticity(5.0)).solve([3.0], TIGHT)
    assert_same(case.model.state_dict(), before, 0.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tau_weights": 0.0}, "tau_weights must be positive, or infinite, got 0.0"),
        ({"tau_feedback": -1.0}, "tau_feedback must be positive"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not below zero, got -0.1"),
        ({"feedback_decay": math.nan}, "feedback_decay must be finite and not below zero"),
        (
            {"window": (2.0, 1.0)},
            r"window of plasticity must begin at 0 or later.*got \(2.0, 1.0\)",
        ),
        ({"window": (-1.0, 1.0)}, "window of plasticity must begin at 0"),
        ({"reduction": "average"}, "unknown reduction 'average'"),
        ({"tau_weights": math.nan}, "tau_weights must be positive, or infinite, got nan"),
        ({"tau_weights": True}, "tau_weights must be positive, or infinite, got True"),
        ({"weight_decay": None}, "weight_decay must be finite and not below zero, got None"),
        ({"window": 5.0}, "window of plasticity must begin at 0 or later.*got 5.0"),
        ({"window": ("a", "b")}, "window of plasticity must begin at 0"),
    ],
)
def test_bad_plasticity_is_refused(settings, words):
    with pytest.raises(InputError, match=words):
        Plasticity(**settings)


@pytest.mark.parametrize(
    ("plasticity", "solver", "words"),
    [
        (Plasticity(5.0), ClosedForm(), "ClosedForm.*constant weights.*not linear.*dopri5"),
        (Plasticity(0.05), Fixed("euler", 0.1), "step of 0.1 is longer than the weights' time"),
        (Plasticity(5.0, tau_feedback=9.0), TIGHT, "tau_feedback = 9 has no effect where no feed"),
        (Plasticity(weight_decay=0.1), TIGHT, "weight_decay = 0.1 has no effect on weights"),
        (Plasticity(5.0, feedback_decay=0.1), TIGHT, "feedback_decay = 0.1 has no effect on feed"),
        (5.0, TIGHT, "plasticity must be a Plasticity, got 5.0"),
        (Plasticity(5.0, window=(3.0, math.inf)), TIGHT, r"window of plasticity 3 … inf must lie"),
        (Plasticity(5.0, window=(3.0, 9.0)), TIGHT, r"window of plasticity 3 … 9 must lie in .* 3"),
        (Plasticity(5.0), Adaptive("dopri5", per_sample=True), "drop per_sample"),
    ],
)
def test_plasticity_that_a_solver_cannot_integrate_is_refused(plasticity, solver, words):
    with pytest.raises(InputError, match=words):
        problem().relaxation(plasticity=plasticity).solve([3.0], solver)


def test_where_activities_would_settle_needs_a_linear_rule():
    sim = problem().relaxation(
        rule=Rule(relaxation_derivative="current"), plasticity=Plasticity(5.0)
    )
    with pytest.raises(InputError, match="needs a frozen or dropped relaxation derivative"):
        sim.equilibria(sim.solve([3.0], TIGHT))


def test_parameters_of_other_operations_do_not_move():
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.LayerNorm(5), torch.nn.Tanh())
    sim = ardyn.Relaxation(model, torch.rand(3, 4), torch.rand(3, 5), plasticity=Plasticity(1e3))
    with pytest.raises(InputError, match=r"block '1' has parameters of its own.*ardyn\.backward"):
        sim.solve([1.0], Adaptive("dopri5"))


def test_one_tensor_under_two_names_is_refused():
    model = ardyn.mlp([5, 5, 5, 5], generator=generator()).double()
    model.get_submodule("fc3").weight = model.get_parameter("fc2.weight")
    x = torch.rand(3, 5).double()
    sim = ardyn.Relaxation(model, x, x, plasticity=Plasticity(1e3))
    with pytest.raises(InputError, match="'fc2.weight' and 'fc3.weight' are one tensor"):
        sim.solve([1.0], TIGHT)


def test_what_requires_no_gradient_does_not_move():
    case = problem()
    case.model.get_parameter("fc2.weight").requires_grad_(False)
    learned = case.relaxation(plasticity=Plasticity(5.0)).solve([3.0], TIGHT).learned
    assert learned is not None
    assert set(learned.weights) == {n for n, p in case.model.named_parameters() if p.requires_grad}


def test_what_is_recorded_changes_no_step(monkeypatch):
    sim = problem().relaxation(plasticity=Plasticity(5.0, window=(0.55, 3.0)))
    monkeypatch.setattr(windows, "MAX_RECORDED", 1)
    solver = Fixed("euler", 0.1)
    often = sim.solve([0.03 * k for k in range(1, 101)], solver)
    once = sim.solve([3.0], solver)
    assert_same({u: often[u][-1] for u in often.units}, {u: once[u][-1] for u in once.units}, 1e-9)
    assert often.evaluations == once.evaluations


def test_a_loss_of_numbers_is_told_in_the_time_of_the_relaxation():
    sim = problem().relaxation(plasticity=Plasticity(0.02, weight_decay=5.0, window=(30.0, 99.0)))
    with pytest.raises(DivergenceError, match=r"by t = 3\d\.\d"):
        sim.solve([99.0], Fixed("euler", 0.02))


def test_a_solve_counts_the_evaluations_of_all_its_pieces():
    sim = problem().relaxation(plasticity=Plasticity(5.0, window=(1.0, 2.0)))
    assert sim.solve([3.0], Fixed("euler", 0.1)).evaluations == 30


def test_a_step_longer_than_feedback_weights_allow_is_refused():
    case, rule = problem(), Rule(feedback="learned")
    sim = case.relaxation(
        rule=rule,
        feedback=feedback_of(case, rule, 3),
        plasticity=Plasticity(5.0, tau_feedback=0.05),
    )
    with pytest.raises(InputError, match="step of 0.1 is longer than the weights' time constant"):
        sim.solve([3.0], Fixed("euler", 0.1))


@pytest.mark.parametrize(
    "window", [(4.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), ("a", 1), (0, math.inf)]
)
def test_a_window_that_is_none_has_no_quasi_static_change(window):
    with pytest.raises(InputError, match="window"):
        problem().relaxation().quasi_static_change(*window)


@pytest.mark.parametrize("every", [-1, 0.5, "a"])
def test_weights_are_recorded_at_whole_numbers_of_times(every):
    with pytest.raises(InputError, match="weights_every must be a whole number"):
        problem().relaxation(plasticity=Plasticity(5.0)).solve([1.0], TIGHT, weights_every=every)


def test_weights_that_stand_still_are_not_recorded():
    with pytest.raises(InputError, match="weights_every = 1 needs plastic weights"):
        problem().relaxation(plasticity=Plasticity()).solve([1.0], weights_every=1)


def test_weights_that_move_come_to_no_rest():
    with pytest.raises(InputError, match="has no steady state; drop stop"):
        problem().relaxation(plasticity=Plasticity(5.0)).solve(
            [3.0], Adaptive("dopri5"), stop=SteadyState()
        )
