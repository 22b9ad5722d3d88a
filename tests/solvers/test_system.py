import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ardyn
from ardyn import Adaptive, Fixed, InputError, SteadyState, Sweep
from ardyn.solvers.system import as_times, grid
from ardyn.state import State
from tests.oracles.brute_force import Chain
from tests.oracles.problems import DEVICE, Problem, difference, generator, problem, states

SOLVERS = [
    Adaptive("dopri5"),
    Adaptive("bosh3"),
    Adaptive("dopri5", per_sample=True),
    Fixed("euler", 0.1),
    Fixed("rk4", 0.5),
    Sweep(0.1),
]


def relative_rates(case: Problem, x: dict[str, torch.Tensor]) -> np.ndarray:
    """‖dx/dt‖ / ‖x‖ by hand, [unit, sample]."""
    now = {i: x[unit].cpu().numpy() for i, unit in enumerate(case.units, 1)}
    rate = Chain(case).rate(now)
    norms = [np.linalg.norm(rate[i], axis=1) / np.linalg.norm(now[i], axis=1) for i in now]
    return np.stack(norms)


@given(st.floats(1e-3, 50.0), st.floats(1e-2, 7.0))
def test_the_grid_has_whole_steps_and_ends_at_the_end(end, step):
    nodes = grid(end, step)
    lengths = nodes.diff().cpu().numpy()
    assert nodes[0] == 0
    assert nodes[-1] == end
    assert np.abs(lengths[:-1] - step).max(initial=0.0) < 1e-9
    assert 0 < lengths[-1] <= step * (1 + 1e-6)
    assert len(lengths) == math.ceil(end / step * (1 - 1e-9))


@pytest.mark.parametrize("n", [1, 3, 7, 1000, 12345])
def test_rounding_adds_no_step(n):
    assert len(grid(n * 0.1, 0.1)) == n + 1
    assert len(grid(0.1 * n, 0.1 * (1 + 1e-15))) == n + 1


def test_no_time_has_no_step():
    assert grid(0.0, 0.1).tolist() == [0.0]


@pytest.mark.parametrize(
    "times", [[0.0, 1.5, 2.0], (0, 1.5, 2), torch.tensor([0.0, 1.5, 2.0]), np.array([0, 1.5, 2])]
)
def test_times_become_a_float64_vector(times):
    t = as_times(times)
    assert t.dtype == torch.float64
    assert t.tolist() == [0.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([], "empty; pass at least one"),
        ([1.0, math.nan], "must be finite, got nan"),
        ([1.0, math.inf], "must be finite, got inf"),
        ([-0.5, 1.0], "not be negative, got -0.5"),
        ([0.0, 2.0, 1.0], "must increase, but 1.0 follows 2.0; sort"),
        ([1.0, 1.0], "must increase, but 1.0 follows 1.0"),
        (10.0, r"list of numbers, got 10.0; pass \[10.0\]"),
        (None, "list of numbers, got None"),
        (["soon"], r"list of numbers, got \['soon'\]"),
        (torch.tensor(3.0), "list of numbers"),
        (torch.ones(2, 2), "list of numbers"),
    ],
    ids=str,
)
def test_times_that_are_no_times_are_refused(times, words):
    with pytest.raises(InputError, match=words):
        problem().relaxation().solve(times)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.nan, "1"])
def test_a_steady_state_needs_a_positive_tolerance(tolerance):
    with pytest.raises(InputError, match="steady-state tolerance must be"):
        SteadyState(tolerance)


def test_a_sample_is_steady_when_each_of_its_tensors_is():
    x = State({"a": torch.ones(3, 4), "b": 10 * torch.ones(3, 1)}, {"a": torch.ones(3, 2)})
    still = torch.tensor([[0.09], [0.0], [0.0]])
    slow = torch.tensor([[0.0], [1.1], [0.0]])
    rate = State({"a": still * torch.ones(3, 4), "b": slow}, {"a": torch.zeros(3, 2)})
    assert SteadyState(0.1).is_reached(x, rate).tolist() == [True, False, True]
    trace = State(rate.activity, {"a": torch.tensor([[0.2, 0.0], [0.0, 0.0], [0.0, 0.0]])})
    assert SteadyState(0.1).is_reached(x, trace).tolist() == [False, False, True]


def test_a_vanished_activity_at_rest_is_steady():
    zero = State({"a": torch.zeros(2, 3)})
    assert SteadyState(0.1).is_reached(zero, zero).tolist() == [True, True]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_held_state_is_steady_in_every_unit_of_every_sample(solver, tolerance):
    case = problem(batch=4)
    found = case.relaxation().solve([100.0], solver, stop=SteadyState(tolerance))
    assert found.stop_reason == ["steady state"] * 4
    assert found.steady_at is not None
    assert (found.steady_at < 40).all()
    last = {unit: x[-1] for unit, x in states(found).items()}
    assert relative_rates(case, last).max() <= tolerance


@pytest.mark.parametrize("solver", [s for s in SOLVERS if not isinstance(s, Adaptive)], ids=str)
def test_steady_at_is_the_first_step_at_which_the_sample_is_steady(solver):
    case = problem(batch=4)
    found = case.relaxation().solve([100.0], solver, stop=SteadyState(1e-3))
    nodes = list(np.arange(0.0, 30.0, solver.step))
    x = states(case.relaxation().solve(nodes, solver))
    rates = [relative_rates(case, {u: v[k] for u, v in x.items()}) for k in range(len(nodes))]
    is_steady = np.stack(rates).max(1) <= 1e-3
    first = [nodes[np.flatnonzero(~is_steady[:, s])[-1] + 1] for s in range(4)]
    assert difference(found.steady_at, first) < 1e-12
    assert len(set(first)) > 1


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_held_state_does_not_move(solver):
    sim = problem(batch=4).relaxation()
    found = sim.solve([60.0, 80.0, 100.0], solver, stop=SteadyState(1e-3))
    for x in states(found).values():
        assert difference(x[0], x[2]) < 1e-13


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_holding_saves_evaluations(solver):
    sim = problem(batch=4).relaxation()
    short, long = (sim.solve([t], solver, stop=SteadyState(1e-3)) for t in (40.0, 150.0))
    assert long.evaluations <= short.evaluations + 4
    if not isinstance(solver, Adaptive):
        assert long.evaluations < sim.solve([150.0], solver).evaluations / 3


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_running_out_of_time_is_told(solver):
    found = problem(batch=4).relaxation().solve([3.0], solver, stop=SteadyState(1e-6))
    assert found.steady_at is not None
    assert found.steady_at.isnan().all()
    assert found.stop_reason == ["last time"] * 4


def test_nobody_asked_for_a_steady_state():
    found = problem(batch=2).relaxation().solve([3.0], Sweep(0.1))
    assert found.steady_at is None
    assert found.stop_reason == ["last time"] * 2


def with_a_slow_sample() -> ardyn.Relaxation:
    """99 samples that start close to their gradient, and one that starts far away."""
    case = problem((6, 5, 3), "identity", batch=100)
    sim = case.relaxation()
    far = torch.ones(100, 1, dtype=torch.float64, device=DEVICE)
    far[:99] = 1e-9
    for unit, x in sim.dynamics.forward_pass.activity.items():
        if unit != "input":
            x.copy_(sim.gradients[unit] + far * (x - sim.gradients[unit]))
    return sim


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_slow_sample_is_not_hidden_by_the_others(solver):
    sim = with_a_slow_sample()
    found = sim.solve([50.0], solver, stop=SteadyState(1e-3))
    assert found.steady_at is not None
    assert found.steady_at[:99].max() == 0
    assert found.steady_at[99] > 5
    error = found.relative_error(per_sample=True)["fc1"][-1]
    assert error[99] < 5e-3
    cut = sim.solve([4.0], solver, stop=SteadyState(1e-3))
    assert cut.stop_reason == [*["steady state"] * 99, "last time"]


def test_a_sample_that_becomes_unsteady_again_is_not_called_steady():
    # x = g + (x(0) − g) exp(−t). Of the first sample it goes from 1 to −1, and its rate is large
    # beside x only on its way through 0; of the second it goes from 0 to 1.
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64, device=DEVICE)
    nn.init.ones_(model.weight)
    inputs = torch.tensor([[1.0], [1e-9]], dtype=torch.float64, device=DEVICE)
    targets = torch.tensor([[1.5], [-0.5]], dtype=torch.float64, device=DEVICE)
    sim = ardyn.Relaxation(model, inputs, targets)
    found = sim.solve([5.0], Fixed("rk4", 0.01), stop=SteadyState(2.5))
    assert found.steady_at is not None
    # 2 exp(−t) = 2.5 (1 − 2 exp(−t)), and exp(−t) = 2.5 (1 − exp(−t)).
    truth = np.log([7 / 2.5, 3.5 / 2.5])
    assert np.abs(found.steady_at.cpu().numpy() - truth - 0.005).max() < 0.0051


class Folding(nn.Module):
    """Its second layer reads two rows for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 6), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc2(self.fc1(x).tanh().reshape(-1, 3))
        return y


@pytest.mark.parametrize("solver", [Fixed("euler", 0.1), Sweep(0.1)], ids=str)
def test_units_of_several_batch_sizes_are_steady_as_one(solver):
    g = generator(3)
    inputs, targets = (torch.randn(*n, generator=g).double() for n in ((4, 5), (8, 2)))
    sim = ardyn.Relaxation(Folding().double(), inputs, targets)
    found = sim.solve([100.0], solver, stop=SteadyState(1e-4))
    assert found.stop_reason == ["steady state"]
    end = {unit: x[-1] for unit, x in states(found).items()}
    rate = sim.dynamics(0.0, State(end)).activity
    assert all(float(rate[unit].norm() / end[unit].norm()) <= 1e-4 for unit in end)


def test_a_method_that_cannot_stop_is_refused():
    with pytest.raises(InputError, match=r"'scipy_solver' delegates.*cannot stop.*'dopri5'"):
        problem().relaxation().solve([1.0], Adaptive("scipy_solver"), stop=SteadyState())
