"""The mean field of a stream of stimuli, and the stream that it is the limit of."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import ardyn
from ardyn import (
    Adaptive,
    ClosedForm,
    DivergenceError,
    Fixed,
    InputError,
    Learner,
    Plasticity,
    Rule,
    mean_field,
)
from ardyn.dynamics.windows import Learned
from tests.oracles.problems import assert_same, feedback_of, generator, problem

MEAN = Plasticity(60.0, weight_decay=0.3, reduction="mean", window=(0.5, 1.75))


def flat(weights: dict[str, Tensor], feedback: dict[str, Tensor]) -> Tensor:
    return torch.cat([x.detach().flatten() for x in (*weights.values(), *feedback.values())])


@pytest.mark.parametrize("feedback", ["transpose", "learned"])
def test_a_stream_of_stimuli_tends_to_its_mean_field(feedback):
    case, rule, duration = problem(), Rule(feedback=feedback), 2.0
    start = {name: W.clone() for name, W in case.model.state_dict().items()}
    psi = feedback_of(case, rule, 3) or {}
    psi_start = {block: each.clone() for block, each in psi.items()}
    errors = []
    for tau in (60.0, 240.0, 960.0):
        tau_psi = 2 * tau if feedback == "learned" else math.inf
        decay_psi = 0.1 if feedback == "learned" else 0.0
        slow = Plasticity(tau, tau_psi, 0.3, decay_psi, "mean", window=(0.5, 1.75))
        truth = mean_field(
            case.model,
            case.inputs,
            case.targets,
            [tau],
            slow,
            duration,
            Adaptive("dopri5", rtol=1e-9, atol=1e-11),
            rule=rule,
            feedback=psi,
        )
        own = {block: value.clone() for block, value in psi.items()}
        student = Learner(
            problem().model,
            rule=rule,
            duration=duration,
            solver=Fixed("rk4", 0.25),
            feedback=own,
            plasticity=slow,
        )
        stimuli = itertools.cycle(range(len(case.inputs)))
        for i in itertools.islice(stimuli, round(tau / duration)):
            student.step(case.inputs[i : i + 1], case.targets[i : i + 1])
        goal = flat({n: W[-1] for n, W in truth.weights.items()}, {})
        goal = torch.cat([goal, *(psi[-1].flatten() for psi in truth.feedback.values())])
        reached = flat(dict(student.model.named_parameters()), own)
        errors.append(float((reached - goal).norm() / (goal - flat(start, psi)).norm()))
    assert errors[-1] < 0.01
    slopes = [math.log(b / a, 4) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([-1, -1], abs=0.25)
    assert_same(case.model.state_dict(), start, 0.0)
    assert_same(psi, psi_start, 0.0)


@pytest.mark.parametrize("settings", [{"loss": "mse"}, {"tau": [0.5, 2.0, 1.0]}], ids=str)
def test_it_begins_with_what_a_stimulus_changes_under_its_settings(settings):
    case, duration, t = problem(), 2.0, 1e-4
    plasticity = Plasticity(10.0, reduction="mean", window=(0.5, 1.75))
    found = mean_field(case.model, case.inputs, case.targets, [t], plasticity, duration, **settings)
    sim = ardyn.Relaxation(case.model, case.inputs, case.targets, **settings)
    truth = sim.quasi_static_change(0.5, 1.75)
    rate = t / (10.0 * duration * len(case.inputs))
    start = case.model.state_dict()
    change = {name: (W[-1] - start[name]) / rate for name, W in found.weights.items()}
    assert_same(change, truth, 1e-3)


def test_an_ensemble_has_the_mean_field_of_each_member():
    first, second = problem(), problem(seed=5)
    both = ardyn.ensemble([first.model, second.model])
    inputs, targets = (torch.cat([x, x]) for x in (first.inputs, first.targets))
    together = mean_field(both, inputs, targets, [5.0, 60.0], MEAN, 2.0)
    for number, model in enumerate((first.model, second.model)):
        alone = mean_field(model, first.inputs, first.targets, [5.0, 60.0], MEAN, 2.0)
        assert alone.times.tolist() == [5.0, 60.0]
        found = {name: W[:, number] for name, W in together.weights.items()}
        assert_same(found, alone.weights, 1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"plasticity": None}, "plasticity must be a Plasticity, got None"),
        ({"plasticity": Plasticity(10.0)}, "plastic weights and the mean over stimuli"),
        ({"plasticity": Plasticity(reduction="mean")}, "plastic weights and the mean"),
        ({"solver": ClosedForm()}, "needs constant weights"),
        ({"solver": Fixed("rk4", 100.0)}, "a step of 100 is longer than the weights' time"),
        ({"duration": 1.0}, r"window of plasticity 0.5 … 1.75 must lie in the relaxation, 0 … 1"),
        ({"duration": 0.0}, "duration must be positive"),
        ({"rule": Rule(relaxation_derivative="current")}, "got 'current' for block"),
        ({"rule": Rule(update_derivative="current")}, "the quasi-static change needs"),
    ],
)
def test_what_has_no_mean_field_is_refused(settings, words):
    case = problem()
    usual = {"plasticity": MEAN, "duration": 2.0}
    with pytest.raises(InputError, match=words):
        mean_field(case.model, case.inputs, case.targets, [10.0], **(usual | settings))


@pytest.mark.parametrize("tau_weights", [math.inf, 1000.0])
def test_a_step_that_is_unstable_for_feedback_weights_alone_is_refused(tau_weights):
    case = problem()
    psi = ardyn.random_feedback(case.model, generator=generator(1))
    plasticity = Plasticity(tau_weights, tau_feedback=100.0, reduction="mean")

    def found(step: float) -> Learned:
        solver, rule = Fixed("explicit_adams", step), Rule(feedback="learned")
        return mean_field(
            case.model, case.inputs, case.targets, [1e3], plasticity, 2.0, solver,
            rule=rule, feedback=psi,
        )  # fmt: skip

    words = "τ = 100 of unit 'feedback weights', and 'explicit_adams' is unstable"
    with pytest.raises(InputError, match=words):
        found(50.0)
    assert found(20.0).times.tolist() == [1e3]


def test_weights_that_are_lost_are_named():
    case = problem()
    exploding = Plasticity(0.1, reduction="mean")
    with pytest.raises(DivergenceError, match=r"parameter 'fc\d.(weight|bias)' (became|changes)"):
        mean_field(
            case.model, case.inputs * 100, case.targets, [1e3], exploding, 2.0, Fixed("euler", 0.1)
        )
