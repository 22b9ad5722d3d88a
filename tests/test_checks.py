"""What is refused, through the surfaces that users meet."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ardyn
from ardyn import ClosedForm, Fixed, InputError, Relaxation, Rule, Sweep
from tests.oracles.problems import DEVICE, Problem, assert_same, difference, problem, states

CLAMPED = Rule(output="clamped")


def changed(case: Problem, parameter: str, index: Any, value: float) -> Problem:
    with torch.no_grad():
        dict(case.model.named_parameters())[parameter][index] = value
    return case


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("parameter", "index", "where"),
    [("fc2.weight", (1, 2), r"\[1, 2\]"), ("fc3.bias", (0,), r"\[0\]")],
)
def test_a_weight_that_is_not_finite_is_named(parameter, index, where, value):
    with pytest.raises(InputError, match=f"parameter '{parameter}' holds {value} at {where}"):
        changed(problem(), parameter, index, value).relaxation()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_named(value):
    inputs = torch.zeros(4, 6, dtype=torch.float64, device=DEVICE)
    inputs[2, 3] = value
    with pytest.raises(InputError, match=rf"inputs holds {value} at \[2, 3\] \(1 such values\)"):
        problem().relaxation(inputs=inputs)


def test_infinities_that_cancel_are_found():
    inputs = torch.zeros(4, 6, dtype=torch.float64, device=DEVICE)
    inputs[0, 0], inputs[1, 1] = math.inf, -math.inf
    with pytest.raises(InputError, match=r"inputs holds inf at \[0, 0\] \(2 such values\)"):
        problem().relaxation(inputs=inputs)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_target_that_is_not_finite_is_refused(value):
    targets = torch.zeros(4, 3, dtype=torch.float64, device=DEVICE)
    targets[1, 1] = value
    with pytest.raises(InputError, match=r"not finite; look for NaN or infinity in the targets"):
        problem().relaxation(targets=targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_inputs_of_another_type_are_refused(dtype):
    with pytest.raises(InputError, match=rf"inputs are {dtype}.*'fc1.weight' is torch.float64.*to"):
        problem().relaxation(inputs=torch.ones(4, 6, dtype=dtype, device=DEVICE))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4, 7), r"block 'fc1' cannot take activities of shape \[4, 7\]"),
        ((), r"must be \[batch, …\].*got \[\].*inputs\[None\]"),
        ((0, 6), r"at least one sample.*got \[0, 6\]"),
    ],
)
def test_inputs_of_another_shape_are_refused(shape, words):
    with pytest.raises(InputError, match=words):
        problem().relaxation(inputs=torch.zeros(shape, dtype=torch.float64, device=DEVICE))


@pytest.mark.parametrize(
    ("loss", "targets", "words"),
    [
        ("sse", torch.zeros(4).double(), r"\[4\] don't fit.*one-hot"),
        ("mse", torch.zeros(3, 3).double(), r"\[3, 3\] don't fit an output of shape \[4, 3\]"),
        ("cross_entropy", torch.tensor([0, 1, 2, 3]), "out of bounds"),
        ("hinge", torch.zeros(4, 3).double(), "unknown loss 'hinge': choose one of sse, mse"),
        ("cross_entrpy", torch.zeros(4).long(), "did you mean 'cross_entropy'"),
        (lambda x, t: (x - t).square(), torch.zeros(4, 3).double(), r"one number.*sum over"),
    ],
)
def test_targets_and_loss_must_fit(loss, targets, words):
    with pytest.raises(InputError, match=words):
        problem().relaxation(loss=loss, targets=targets.to(DEVICE))


@pytest.mark.parametrize("name", ["inputs", "targets"])
@pytest.mark.parametrize("value", [[[1.0] * 6] * 4, np.ones((4, 6)), None])
def test_what_is_no_tensor_is_refused(value, name):
    with pytest.raises(
        InputError, match=f"{name} must be a torch.Tensor, got {type(value).__name__}"
    ):
        problem().relaxation(**{name: value})


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf, True, [1.0, 0.0, 1.0]])
def test_a_tau_that_is_not_positive_is_named_with_its_unit(tau):
    unit = "fc2" if isinstance(tau, list) else "fc1"
    with pytest.raises(InputError, match=f"tau of unit '{unit}' must be"):
        problem().relaxation(tau=tau)


@pytest.mark.parametrize(
    ("tau", "rule", "words"),
    [
        ([1.0, 2.0], Rule(), r"tau has 2 values for 3 relaxing units \(fc1, fc2, fc3\)"),
        ([1.0, 2.0, 3.0], CLAMPED, r"tau has 3 values for 2 relaxing units \(fc1, fc2\)"),
        ([], Rule(), "tau has 0 values for 3"),
    ],
)
def test_a_tau_of_another_length_is_refused(tau, rule, words):
    with pytest.raises(InputError, match=words):
        problem().relaxation(tau=tau, rule=rule)


@pytest.mark.parametrize("tau", [None, "slow", ["1", "slow", "3"], {"fc1": 1.0}])
def test_a_tau_that_is_no_number_is_refused(tau):
    with pytest.raises(InputError, match="tau"):
        problem().relaxation(tau=tau)


@pytest.mark.parametrize(
    "tau", [2, np.float64(2.0), np.float32(2.0), np.int64(2), torch.tensor(2.0)], ids=repr
)
def test_any_number_may_be_tau(tau):
    case = problem()
    found, truth = (case.relaxation(tau=each).solve([1.0]) for each in (tau, 2.0))
    assert_same(states(found), states(truth), 1e-15)


@pytest.mark.parametrize("tau", [(2, 1, 3), np.array([2.0, 1, 3]), torch.tensor([2.0, 1, 3])])
def test_any_sequence_may_be_tau(tau):
    case = problem()
    found, truth = (case.relaxation(tau=each).solve([1.0]) for each in (tau, [2.0, 1.0, 3.0]))
    assert_same(states(found), states(truth), 1e-15)


@pytest.mark.parametrize(
    ("method", "bound"),
    [("euler", 2.0), ("midpoint", 2.0), ("heun2", 2.0), ("heun3", 2.5127), ("rk4", 2.7853)],
)
@pytest.mark.parametrize("wrap", [lambda s: s, ClosedForm], ids=["stepped", "closed form"])
def test_a_step_from_the_stability_bound_on_is_refused(wrap, method, bound):
    # τ = 0.5 of fc2 is the shortest.
    sim = problem().relaxation(tau=[1.0, 0.5, 2.0])
    assert math.isfinite(float(sim.solve([50.0], wrap(Fixed(method, 0.4999 * bound)))["fc2"].sum()))
    words = rf"τ = 0.5 of unit 'fc2', and '{method}' is unstable from h/τ ≥ (\S+); .* below (\S+)"
    with pytest.raises(InputError, match=words) as caught:
        sim.solve([50.0], wrap(Fixed(method, 0.5001 * bound)))
    named = re.search(words, str(caught.value))
    assert named is not None
    assert [float(each) for each in named.groups()] == pytest.approx([bound, bound / 2], rel=1e-3)


@pytest.mark.parametrize("scheme", [Fixed("euler", 2.0), Sweep(2.0)])
@pytest.mark.parametrize("wrap", [lambda s: s, ClosedForm], ids=["stepped", "closed form"])
def test_at_the_bound_itself_it_is_refused(wrap, scheme):
    with pytest.raises(
        InputError, match="a step of 2 is 2 times τ = 1.*h/τ ≥ 2; use a step below 2"
    ):
        problem().relaxation().solve([10.0], wrap(scheme))


@pytest.mark.parametrize("step", [3.0, 50.0, 1e6])
def test_however_long_the_step_the_bound_is_named(step):
    with pytest.raises(InputError, match="the sweep is unstable from h/τ ≥ 2; use a step below 2"):
        problem().relaxation().solve([1.0], Sweep(step))
    with pytest.raises(
        InputError, match="'rk4' is unstable from h/τ ≥ 2.785; use a step below 2.78"
    ):
        problem().relaxation().solve([1.0], Fixed("rk4", step))


@pytest.mark.parametrize("scheme", [Fixed("euler", 0.1), Fixed("rk4", 0.1), Sweep(0.1)])
def test_the_trace_has_a_stability_bound_too(scheme):
    sim = problem().relaxation(rule=Rule(update_activity="trace"), tau_trace=0.01)
    with pytest.raises(InputError, match=r"0\.1.*0\.01.*trace.*unstable"):
        sim.solve([10.0], scheme)


@pytest.mark.parametrize("tau_trace", [0.0, -1.0, math.nan, -math.inf, "1"])
def test_a_tau_trace_that_is_not_positive_is_refused(tau_trace):
    with pytest.raises(InputError, match="tau_trace must be"):
        problem().relaxation(rule=Rule(update_activity="trace"), tau_trace=tau_trace)


def test_a_trace_needs_its_time_constant():
    with pytest.raises(InputError, match=r"update_activity='trace' needs tau_trace; pass one"):
        problem().relaxation(rule={"fc2": Rule(update_activity="trace")})


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_feedback_weights_must_be_given(kind):
    psi = ardyn.random_feedback(problem().model)
    del psi["fc2"]
    with pytest.raises(
        InputError, match=rf"feedback='{kind}' needs feedback weights for block 'fc2'.*random_feed"
    ):
        problem().relaxation(rule=Rule(feedback=kind), feedback=psi)


def test_feedback_weights_must_have_the_shape_of_the_transpose():
    psi = ardyn.random_feedback(problem().model)
    psi["fc2"] = psi["fc2"].T
    with pytest.raises(InputError, match=r"'fc2' has shape \[4, 5\].*Wᵀ, \[5, 4\]"):
        problem().relaxation(rule=Rule(feedback="fixed"), feedback=psi)


def test_feedback_weights_must_be_finite():
    psi = ardyn.random_feedback(problem().model)
    psi["fc3"][1, 0] = math.nan
    with pytest.raises(InputError, match=r"feedback of 'fc3' holds nan at \[1, 0\]"):
        problem().relaxation(rule=Rule(feedback="fixed"), feedback=psi)


def test_feedback_weights_take_the_networks_type():
    case = problem()
    psi = ardyn.random_feedback(case.model, generator=torch.Generator().manual_seed(1))
    single = {name: each.float() for name, each in psi.items()}
    rule = Rule(feedback="fixed")
    found = case.relaxation(rule=rule, feedback=single).solve([3.0])
    assert found["fc1"].dtype == torch.float64
    assert_same(states(found), states(case.relaxation(rule=rule, feedback=psi).solve([3.0])), 1e-6)


def test_something_must_relax():
    with pytest.raises(InputError, match="no unit relaxes: one block and a clamped output"):
        problem((4, 3)).relaxation(rule=CLAMPED)


def test_a_rule_pattern_must_match():
    with pytest.raises(InputError, match="'conv' matches no block; the blocks are fc1, fc2, fc3"):
        problem().relaxation(rule={"conv": Rule()})


def test_rules_must_agree_on_the_output():
    with pytest.raises(InputError, match=r"disagree on 'output'.*'\*' pattern"):
        problem().relaxation(rule={"fc1": CLAMPED})


@pytest.mark.parametrize("solver", ["dopri5", None, 0.1])
def test_what_is_no_solver_is_refused(solver):
    with pytest.raises(InputError, match=f"solver.*{solver!r}|{solver!r}.*solver"):
        problem().relaxation().solve([1.0], solver)


def test_feedback_weights_that_no_rule_uses_are_refused():
    case = problem()
    psi = ardyn.random_feedback(case.model)
    with pytest.raises(InputError, match=r"every Rule uses Wᵀ as feedback.*feedback='fixed'"):
        case.relaxation(feedback=psi)
    case.relaxation(rule={"fc2": Rule(feedback="fixed")}, feedback=psi)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_out_of_range_is_named(wrong):
    case = problem(loss="cross_entropy")
    case.targets[2] = wrong
    with pytest.raises(InputError, match=rf"class {wrong}, which is out of bounds.*use 0 … 2"):
        case.relaxation()


def test_inference_mode_is_refused():
    case = problem()
    with torch.inference_mode():
        made = case.inputs.clone()
        with pytest.raises(InputError, match=r"inference_mode\(\) is on.*use torch.no_grad"):
            case.relaxation()
    with pytest.raises(InputError, match="'inputs' was made under torch.inference_mode"):
        case.relaxation(inputs=made)
    with torch.no_grad():
        case.relaxation().solve([1.0])


def test_a_tolerance_finer_than_the_type_is_refused():
    sim = problem(dtype=torch.float32).relaxation()
    with pytest.raises(
        InputError, match=r"rtol = 1e-08 is finer than float32 resolves; use rtol ≥"
    ):
        sim.solve([1.0], ardyn.Adaptive("dopri5", rtol=1e-8))


def overflowing():
    return problem((6, *[6] * 30, 3), "identity", std=3.0, dtype=torch.float32).relaxation()


def test_a_closed_form_beyond_the_number_format_says_where():
    words = r"exceeds the range of float32, first seen in unit 'fc\d+'.*use float64"
    for times in ([10.0], [1.0, 2.0, 10.0]):
        with pytest.raises(ardyn.DivergenceError, match=words):
            overflowing().solve(times)
    with pytest.raises(ardyn.DivergenceError, match="nothing converges"):
        overflowing().exact_convergence_time()


@pytest.mark.parametrize("times", [[10.0], [1.0, 10.0]])
def test_infinities_that_inactive_neurons_hide_are_found(times):
    # relu pulls back exactly zero where it is inactive, whatever arrives from above.
    case = problem((3, 4, 4, 2), "relu", dtype=torch.float32)
    with torch.no_grad():
        case.model.get_parameter("fc2.bias").fill_(-1e3)
        case.model.get_parameter("fc3.weight").fill_(1e38)
    with pytest.raises(ardyn.DivergenceError, match=r"exceeds the range.*unit 'fc2'"):
        case.relaxation().solve(times)


def test_a_forward_pass_that_overflows_says_where():
    with pytest.raises(InputError, match="feed-forward pass became non-finite in unit 'fc3'"):
        problem(std=1e200, activation="identity").relaxation()


def test_a_trace_that_no_rule_reads_is_refused():
    with pytest.raises(InputError, match=r"tau_trace = 3.0 was passed, but no Rule uses activity"):
        problem().relaxation(tau_trace=3.0)


def double_in_place(model):
    model[0].weight.data.mul_(2.0)


def replace_weight(model):
    model[0].weight = nn.Parameter(2.0 * model[0].weight.detach())


def replace_activation(model):
    model[1] = nn.ReLU()


def hook(model):
    model[0].register_forward_hook(lambda module, args, value: 2.0 * value)


def test_weights_that_changed_unseen_by_autograd_leave_no_gradients():
    case = problem()
    sim = case.relaxation()
    double_in_place(case.model)
    with pytest.raises(InputError, match="changed after this Relaxation was made, or a hook"):
        sim.gradients  # noqa: B018


@pytest.mark.parametrize("change", [replace_weight, replace_activation, hook])
def test_a_relaxation_keeps_the_gradients_of_its_own_pass(change):
    case, same = problem(), problem()
    sim = case.relaxation()
    change(case.model)
    parts, hooks = dict(case.model.named_modules()), len(case.model[0]._forward_hooks)
    assert_same(sim.gradients, same.relaxation().gradients, 1e-14)
    assert dict(case.model.named_modules()) == parts
    assert len(case.model[0]._forward_hooks) == hooks
    changed = case.relaxation()
    assert_same(changed.equilibrium or {}, changed.gradients, 1e-12)
    assert difference(changed.gradients["fc1"], sim.gradients["fc1"]) > 1e-3


def test_a_lazy_module_must_be_run_first():
    model = nn.Sequential(nn.LazyLinear(3)).double()
    with pytest.raises(InputError, match="'0.weight' has no shape yet"):
        Relaxation(model, torch.zeros(2, 4).double(), torch.zeros(2, 3).double())


@pytest.mark.parametrize("stop", [1e-6, "steady", ardyn.SteadyState])
def test_a_stop_that_is_no_steady_state_is_refused(stop):
    with pytest.raises(InputError, match="stop must be a SteadyState, got"):
        problem().relaxation().solve([1.0], Fixed(), stop)


@pytest.mark.parametrize(
    ("tau", "solver", "words"),
    [
        (1e-320, Fixed(), "unstable from h/τ ≥ 2"),
        (1.0, Sweep(1e-17), r"takes 1e\+17 steps of 1e-17"),
        (1.0, Fixed("euler", 1e-9), r"takes 1e\+09 steps"),
        (1.0, ClosedForm(Fixed("euler", 1e-9)), r"takes 1e\+09 steps"),
    ],
)
def test_extreme_steps_are_refused_in_a_sentence(tau, solver, words):
    with pytest.raises(InputError, match=words):
        problem().relaxation(tau=tau).solve([1.0], solver)
