"""ardyn's own Runge–Kutta steps are torchdiffeq's: as many evaluations, the same states."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ardyn import Adaptive, DivergenceError, Fixed, Plasticity, Rule, SteadyState, random_feedback
from ardyn.solvers.integrators import ADAPTIVE_METHODS
from ardyn.solvers.system import Solution
from ardyn.solvers.tableaux import tableau_of
from ardyn.state import State
from tests.oracles.problems import ONE_STEP_METHODS, difference, generator, problem, states

EMBEDDED = [method for method in ADAPTIVE_METHODS if tableau_of(method)]


@dataclass(frozen=True)
class Oscillator:
    """ẏ = −s (y − cos ωt) − sin y: stiff where s is large, and forced in time."""

    start: Tensor
    stiffness: float
    frequency: float
    since = 0.0
    time_constants: ClassVar = {"y": 1.0}

    def initial(self) -> State:
        return State({"y": self.start})

    def __call__(self, t: Tensor | float, state: State) -> State:
        y = state.activity["y"]
        target = math.cos(self.frequency * float(t))
        return State({"y": -self.stiffness * (y - target) - y.sin()})


def solved(solver: Any, system: Any, times: list[float]) -> Solution:
    found: Solution = solver.solve(system, torch.tensor(times, dtype=torch.float64))
    return found


def assert_alike(own: Solution, theirs: Solution, tolerance: float = 1e-12) -> None:
    assert own.evaluations == theirs.evaluations
    for x, y in zip(own.record.tensors(), theirs.record.tensors(), strict=True):
        assert x.shape == y.shape
        assert difference(x, y) <= tolerance * max(1.0, float(y.abs().max()))


@pytest.mark.parametrize("method", EMBEDDED)
@settings(max_examples=12, deadline=None)
@given(
    stiffness=st.floats(0.1, 100.0),
    frequency=st.floats(0.0, 20.0),
    size=st.sampled_from([1e-6, 1.0, 10.0]),
    rtol=st.sampled_from([1e-2, 1e-4]),
    first=st.sampled_from([None, 1e-3, 1.0]),
    recorded=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5, unique=True),
)
def test_the_same_steps_are_taken(method, stiffness, frequency, size, rtol, first, recorded):
    start = size * torch.randn(3, 2, generator=generator(), dtype=torch.float64)
    system, times = Oscillator(start, stiffness, frequency), sorted(recorded)
    options = {} if first is None else {"first_step": first}
    own, theirs = (
        solved(Adaptive(method, rtol, rtol / 100, options=options, engine=engine), system, times)
        for engine in ("ardyn", "torchdiffeq")
    )
    # Between its steps dopri8 is read off a polynomial of order 4, over long steps whose lengths
    # differ by the rounding of an error estimate.
    ends = solved(Adaptive(method, rtol, rtol / 100, options=options), system, [times[-1] or 1.0])
    assert own.evaluations == theirs.evaluations
    assert_alike(own, theirs, 1e-7 if method == "dopri8" else 1e-11)
    if times[-1]:
        assert difference(ends.record.activity["y"][-1], own.record.activity["y"][-1]) == 0


@pytest.mark.parametrize("method", EMBEDDED)
@pytest.mark.parametrize("options", [{"safety": 0.5, "ifactor": 2.0}, {"max_step": 0.01}])
def test_options_mean_what_they_mean_to_torchdiffeq(method, options):
    system = Oscillator(torch.ones(2, 2, dtype=torch.float64), 5.0, 3.0)
    own, theirs = (
        solved(Adaptive(method, 1e-3, 1e-5, options=options, engine=engine), system, [0.3, 1.0])
        for engine in ("ardyn", "torchdiffeq")
    )
    assert_alike(own, theirs)
    plain = solved(Adaptive(method, 1e-3, 1e-5), system, [0.3, 1.0])
    assert plain.evaluations != own.evaluations


@pytest.mark.parametrize("method", ONE_STEP_METHODS)
@pytest.mark.parametrize("step", [0.1, 0.07, 3.0])
def test_fixed_steps_are_the_same(method, step):
    system = Oscillator(torch.ones(2, 2, dtype=torch.float64), 0.5, 1.0)
    own, theirs = (
        solved(Fixed(method, step, engine=engine), system, [0.0, 0.1, 0.25, 1.0])
        for engine in ("ardyn", "torchdiffeq")
    )
    assert_alike(own, theirs, 1e-13)


@pytest.mark.parametrize("method", EMBEDDED)
@pytest.mark.parametrize("rule", [Rule(), Rule(relaxation_derivative="current")])
def test_a_relaxation_takes_the_same_steps(method, rule):
    sim = problem(batch=5).relaxation(rule=rule, tau=[1.0, 2.0, 0.5])
    own, theirs = (
        sim.solve([0.0, 0.7, 5.0], Adaptive(method, 1e-4, 1e-6, engine=engine))
        for engine in ("ardyn", "torchdiffeq")
    )
    assert own.evaluations == theirs.evaluations
    for unit, x in states(own).items():
        # dopri8's error estimate is a small difference: its rounding shows in the lengths of steps.
        rounding = 1e-9 if method == "dopri8" else 1e-12
        assert difference(x[[0, -1]], theirs[unit][[0, -1]]) < rounding
        assert difference(x, theirs[unit]) < 100 * rounding


class Bounded(Plasticity):
    """Soft bounds keep |W| below 3."""

    def weight_rate(self, W: Tensor, gradient: Tensor, share: float, span: float = 1.0) -> Tensor:
        return (1 - (W / 3) ** 2) * super().weight_rate(W, gradient, share, span)


@pytest.mark.parametrize("solver", [Adaptive("dopri5", 1e-5, 1e-7), Fixed("rk4", 0.1)], ids=str)
@pytest.mark.parametrize("plasticity", [Plasticity, Bounded])
@pytest.mark.parametrize(
    "rule",
    [
        Rule(feedback="learned"),
        Rule(feedback="learned", relaxation_derivative="current", update_derivative="current"),
        Rule(feedback="learned", update_activity="trace"),
    ],
    ids=["frozen", "current", "trace"],
)
def test_plastic_weights_take_the_same_steps(solver, plasticity, rule):
    case = problem()
    feedback = random_feedback(case.model, generator=generator())
    plastic = plasticity(20.0, 30.0, weight_decay=0.1, feedback_decay=0.2, reduction="mean")
    tau_trace = 1.7 if rule.update_activity == "trace" else None
    sim = case.relaxation(rule=rule, feedback=feedback, plasticity=plastic, tau_trace=tau_trace)
    original = replace(solver, engine="torchdiffeq")
    own, theirs = sim.solve([1.0, 4.0], solver), sim.solve([1.0, 4.0], original)
    assert own.evaluations == theirs.evaluations
    assert own.learned is not None
    assert theirs.learned is not None
    for name, W in own.learned.weights.items():
        assert difference(W, theirs.learned.weights[name]) < 1e-12
    for block, psi in own.learned.feedback.items():
        assert difference(psi, theirs.learned.feedback[block]) < 1e-12
    for unit, z in own.traces.items():
        assert difference(z[-1], theirs.traces[unit][-1]) < 1e-12


@pytest.mark.parametrize("method", EMBEDDED)
def test_samples_take_their_own_steps(method):
    case = problem(batch=4)
    with torch.no_grad():
        case.inputs.mul_(torch.tensor([[1e-3], [1.0], [10.0], [100.0]]))
    sim = case.relaxation(tau=[1.0, 2.0, 0.5])
    own, theirs = (
        sim.solve([0.0, 0.7, 5.0], Adaptive(method, 1e-4, 1e-6, per_sample=True, engine=engine))
        for engine in ("ardyn", "torchdiffeq")
    )
    assert own.evaluations < theirs.evaluations
    together = sim.solve([0.0, 0.7, 5.0], Adaptive(method, 1e-4, 1e-6))
    for unit, x in states(own).items():
        assert difference(x[[0, -1]], theirs[unit][[0, -1]]) < 1e-12 * 100
        assert difference(x, theirs[unit]) < 1e-6
    assert difference(own["fc1"][-1], together["fc1"][-1]) > 1e-12


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_steady_state_is_held_as_it_is(per_sample):
    case = problem(batch=3)
    sim, stop = case.relaxation(), SteadyState(1e-4)
    times = torch.linspace(0, 60, 121)
    found = sim.solve(times, Adaptive("dopri5", 1e-6, 1e-9, per_sample=per_sample), stop)
    assert found.steady_at is not None
    for sample, at in enumerate(found.steady_at.tolist()):
        assert 5 < at < 40
        after = found["fc1"][times >= at, sample]
        assert torch.equal(after, after[-1:].expand_as(after))
        before = found["fc1"][times < at, sample]
        assert not torch.equal(before[-1], after[-1])
    assert float(found.relative_error()["fc1"][-1]) < 1e-3


def test_rates_are_written_in_place(monkeypatch):
    sim = problem().relaxation()
    expected = sim.solve([2.0], Fixed("rk4", 0.1))

    def fail(*_: object) -> None:
        raise AssertionError("a rate was copied")

    kinds = type(sim.dynamics)
    monkeypatch.setattr(kinds, "__call__", fail)
    found = sim.solve([2.0], Fixed("rk4", 0.1))
    assert torch.equal(found["fc1"], expected["fc1"])


@pytest.mark.parametrize("engine", ["ardyn", "torchdiffeq"])
def test_a_system_that_depends_on_time_is_solved_sample_by_sample(engine):
    @dataclass(frozen=True)
    class Forced(Oscillator):
        def samples(self, which: slice) -> "Forced":
            return Forced(self.start[which], self.stiffness, self.frequency)

    system = Forced(torch.ones(3, 2, dtype=torch.float64), 2.0, 3.0)
    times = [0.5, 2.0]
    alone = solved(Adaptive(rtol=1e-8, atol=1e-10, per_sample=True, engine=engine), system, times)
    joint = solved(Adaptive(rtol=1e-8, atol=1e-10), system, times)
    assert difference(alone.record.activity["y"], joint.record.activity["y"]) < 1e-6


@pytest.mark.parametrize("name", ["first_step", "max_step", "safety"])
def test_options_may_be_tensors(name):
    system = Oscillator(torch.ones(2, 2, dtype=torch.float64), 2.0, 3.0)
    number, tensor = (
        solved(Adaptive("dopri5", 1e-4, 1e-6, options={name: kind(0.1)}), system, [1.0])
        for kind in (float, torch.tensor)
    )
    assert_alike(tensor, number, 1e-6)


@pytest.mark.parametrize(
    "solver",
    [Fixed("rk4", 0.5), Adaptive(atol=1e-30), Adaptive(atol=1e-30, per_sample=True)],
    ids=str,
)
def test_small_activities_are_not_taken_for_steady(solver):
    case = problem((6, 5, 4), batch=3, dtype=torch.float32)
    with torch.no_grad():
        case.model.get_parameter("fc2.weight").mul_(1e-24)
    sim = case.relaxation(rule=Rule(output="clamped", initial="zero"))
    found = sim.solve(torch.linspace(0, 30, 61), solver, SteadyState(1e-4))
    assert 5 < float(sim.gradients["fc1"].abs().max()) * 1e25 < 1e3
    assert found.steady_at is not None
    assert all(5 < at < 25 for at in found.steady_at.tolist())
    time = found.convergence_time(1e-2)["fc1"]
    assert float(time) == pytest.approx(math.log(100), rel=0.05)


@pytest.mark.parametrize("engine", ["ardyn", "torchdiffeq"])
def test_a_large_sum_of_finite_numbers_is_no_overflow(engine):
    sim = problem(batch=64, dtype=torch.float32).relaxation(
        rule=Rule(output="clamped"), loss=lambda x, target: 3e37 * x.sum() + 0 * target.sum()
    )
    found = sim.solve([0.1], Fixed("euler", 0.1, engine=engine))
    assert found["fc2"].isfinite().all()


def test_a_divergence_beside_an_empty_unit_is_told():
    @dataclass(frozen=True)
    class Explosive(Oscillator):
        def initial(self) -> State:
            return State({"y": self.start, "none": self.start[:, :0]})

        def __call__(self, t: Tensor | float, state: State) -> State:
            y = state.activity["y"]
            return State({"y": y**3, "none": y[:, :0]})

    with pytest.raises(DivergenceError, match="unit 'y' changes"):
        solved(Adaptive(), Explosive(torch.ones(2, 2, dtype=torch.float64), 1.0, 1.0), [3.0])
