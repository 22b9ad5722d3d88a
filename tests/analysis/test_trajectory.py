import numpy as np
import pytest
import torch
import xarray as xr

import ardyn
from ardyn import (
    Adaptive,
    ClosedForm,
    Fixed,
    InputError,
    Plasticity,
    Rule,
    SteadyState,
    Sweep,
    Trajectory,
)
from tests.oracles.brute_force import Chain
from tests.oracles.problems import assert_same, chain, difference, generator, problem, states

TIMES = [0.0, 1.0, 4.0, 30.0]
SOLVERS = [ClosedForm(), Fixed("rk4", 0.1), Sweep(0.1), Adaptive("dopri5", per_sample=True)]


def full() -> Trajectory:
    """One that holds everything a trajectory can hold."""
    sim = problem(batch=3).relaxation(rule=Rule(update_activity="trace"), tau_trace=2.0)
    return sim.solve(TIMES, Fixed("rk4", 0.1), stop=SteadyState(1e-2))


def moved() -> Trajectory:
    """One whose weights and feedback weights learned."""
    sim = problem(batch=3).relaxation(
        rule=Rule(feedback="learned"),
        feedback=ardyn.random_feedback(problem().model, generator=generator()),
        plasticity=Plasticity(10.0, 20.0),
    )
    return sim.solve([1.0, 2.0, 3.0, 4.0], Fixed("rk4", 0.1), weights_every=2)


def assert_equal(found: Trajectory, truth: Trajectory) -> None:
    assert found.units == truth.units
    assert found.solver == truth.solver
    assert found.evaluations == truth.evaluations
    assert found.stop_reason == truth.stop_reason
    assert torch.equal(found.times, truth.times)
    for a, b in [
        (states(found), states(truth)),
        (found.traces, truth.traces),
        (found.reference("gradients"), truth.reference("gradients")),
        (found.reference("equilibrium"), truth.reference("equilibrium")),
    ]:
        assert_same(a, b, 0.0)
        assert {u: x.dtype for u, x in a.items()} == {u: x.dtype for u, x in b.items()}
    assert (found.learned is None) == (truth.learned is None)
    if truth.learned is not None and found.learned is not None:
        assert torch.equal(found.learned.times, truth.learned.times)
        assert_same(found.learned.weights, truth.learned.weights, 0.0)
        assert_same(found.learned.feedback, truth.learned.feedback, 0.0)
    if truth.steady_at is None:
        assert found.steady_at is None
    else:
        assert found.steady_at is not None
        assert torch.equal(found.steady_at.nan_to_num(-1), truth.steady_at.nan_to_num(-1))


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("output", ["relaxed", "clamped"])
def test_units_come_hidden_to_output_and_are_indexed_by_name(output, solver):
    case = problem()
    found = case.relaxation(rule=Rule(output=output)).solve(TIMES, solver)
    assert found.units == ("fc1", "fc2", "fc3")
    start = Chain(case)
    truth = start.drive if output == "clamped" else start.forward[-1]
    assert difference(found["fc3"][0], truth) < 1e-14
    assert difference(found["fc1"][0], start.forward[1]) < 1e-14


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_an_unknown_unit_is_a_key_error_that_names_the_units(solver):
    found = problem().relaxation().solve([1.0], solver)
    with pytest.raises(KeyError, match="no unit 'fc9'; the units are fc1, fc2, fc3"):
        found["fc9"]


@pytest.mark.parametrize("per_sample", [False, True])
def test_measures_compare_with_backprop_or_with_the_rules_equilibrium(per_sample):
    case = problem()
    psi = ardyn.random_feedback(case.model, std=0.5, generator=torch.Generator().manual_seed(1))
    found = case.relaxation(rule=Rule(feedback="fixed"), feedback=psi).solve([80.0])
    names = ("relative_error", "cosine", "norm_ratio")
    settled = [getattr(found, name)("equilibrium", per_sample)["fc1"] for name in names]
    for value, truth in zip(settled, (0.0, 1.0, 1.0), strict=True):
        assert difference(value, np.full(value.shape, truth)) < 1e-12
    x, g = found["fc1"][0], case.unit_gradients()["fc1"]
    if not per_sample:
        x, g = x.reshape(1, -1), g.reshape(1, -1)
    error, cosine, ratio = (getattr(found, name)(per_sample=per_sample)["fc1"] for name in names)
    assert difference(error.flatten(), (x - g).norm(dim=1) / g.norm(dim=1)) < 1e-13
    assert difference(cosine.flatten(), torch.cosine_similarity(x, g)) < 1e-13
    assert difference(ratio.flatten(), x.norm(dim=1) / g.norm(dim=1)) < 1e-13


def test_an_unknown_reference_is_refused():
    with pytest.raises(InputError, match=r"unknown reference 'bp'; choose 'gradients' or"):
        problem().relaxation().solve([1.0]).relative_error("bp")


def test_a_nonlinear_rule_has_no_equilibrium_to_compare_with():
    sim = problem().relaxation(rule=Rule(relaxation_derivative="current"))
    with pytest.raises(InputError, match="no closed form; compare with 'gradients'"):
        sim.solve([1.0], Sweep()).cosine("equilibrium")


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_the_solver_is_kept_as_one_would_write_it(solver):
    found = problem().relaxation().solve([1.0], solver)
    assert eval(found.solver) == solver


def test_a_solve_holds_its_recorded_times_and_no_step_between():
    sim = chain(4, batch=50).relaxation()
    one_state = sum(x.numel() for x in sim.dynamics.initial().tensors())
    for solver in (Fixed("rk4", 0.1), Sweep(0.1), Adaptive()):
        for times in ([10.0], [1.0, 5.0, 10.0]):
            tensors = states(sim.solve(times, solver)).values()
            kept = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors}
            held = sum(storage.nbytes() for storage in kept.values())
            # torchdiffeq also keeps the initial state.
            assert held <= 8 * one_state * (len(times) + 1)


def test_a_clamped_output_takes_no_memory_over_time():
    found = problem().relaxation(rule=Rule(output="clamped")).solve(list(range(100)))
    assert found["fc3"].untyped_storage().nbytes() == 8 * found["fc3"][0].numel()


@pytest.mark.parametrize(
    "make",
    [
        full,
        moved,
        lambda: problem().relaxation().solve(TIMES),
        lambda: problem(dtype=torch.float32).relaxation().solve(TIMES, Sweep(0.1)),
        lambda: problem().relaxation(rule=Rule(output="clamped")).solve([2.0]),
        lambda: problem((4, 3)).relaxation().solve(TIMES),
    ],
    ids=["full", "moved", "exact", "float32", "clamped", "one unit"],
)
def test_a_trajectory_survives_the_dataset_and_the_file(make, tmp_path):
    truth = make()
    assert_equal(Trajectory.from_dataset(truth.to_dataset()), truth)
    truth.save(tmp_path / "traj.nc")
    assert [each.name for each in tmp_path.iterdir()] == ["traj.nc"]
    loaded = Trajectory.load(tmp_path / "traj.nc")
    assert_equal(loaded, truth)
    assert loaded.to_dataset().identical(truth.to_dataset())


def test_a_nonlinear_trajectory_survives_without_its_equilibrium(tmp_path):
    sim = problem().relaxation(rule=Rule(relaxation_derivative="current"))
    truth = sim.solve(TIMES, Sweep(0.1))
    truth.save(tmp_path / "traj.nc")
    loaded = Trajectory.load(tmp_path / "traj.nc")
    assert_same(states(loaded), states(truth), 0.0)
    with pytest.raises(InputError, match="no closed form"):
        loaded.reference("equilibrium")


def test_a_loaded_trajectory_measures_the_same(tmp_path):
    truth = problem().relaxation().solve(list(np.linspace(0, 30, 301)), Fixed("rk4", 0.1))
    truth.save(str(tmp_path / "traj.nc"))
    loaded = Trajectory.load(str(tmp_path / "traj.nc"))
    assert_same(loaded.relative_error(), truth.relative_error(), 0.0)
    assert_same(loaded.convergence_time(), truth.convergence_time(), 0.0)


def test_a_loaded_closed_form_times_by_its_records(tmp_path):
    truth = problem().relaxation().solve(list(np.linspace(0, 30, 301)))
    truth.save(tmp_path / "traj.nc")
    loaded = Trajectory.load(tmp_path / "traj.nc")
    assert_same(loaded.convergence_time(), truth.convergence_time(), 1e-3)


def test_a_loaded_trajectory_is_the_readers_own(tmp_path):
    full().save(tmp_path / "traj.nc")
    loaded = Trajectory.load(tmp_path / "traj.nc")
    loaded["fc1"].zero_()
    loaded.times.add_(1.0)
    assert_equal(Trajectory.load(tmp_path / "traj.nc"), full())


def test_every_variable_says_what_it_is():
    dataset = full().to_dataset()
    assert {f"{kind}_fc1" for kind in ("activity", "trace", "gradient", "equilibrium")} <= {
        *dataset
    }
    assert all(v.attrs["long_name"] for v in dataset.variables.values())
    assert dataset["activity_fc1"].attrs["long_name"] == "activity x of unit fc1"
    assert dataset["time"].attrs == {
        "long_name": "time since the feed-forward pass",
        "units": "unit of tau",
    }
    assert dataset["activity_fc2"].dims[:2] == ("time", "sample")
    assert dataset["gradient_fc2"].dims[:1] == ("sample",)
    assert list(dataset.attrs["unit_names"]) == ["fc1", "fc2", "fc3"]
    assert dataset.attrs["solver"] == repr(Fixed("rk4", 0.1))
    assert dataset.attrs["title"]


def test_the_dataset_holds_the_weights_that_moved():
    found = moved()
    dataset = found.to_dataset()
    assert dataset["record"].values.tolist() == [2.0, 4.0]
    assert found.learned is not None
    weight = dataset["weight_fc1.weight"].sel(record=2.0)
    assert difference(weight.values, found.learned.weights["fc1.weight"][0]) == 0
    assert len(found.learned.feedback) > 0
    for block, psi in found.learned.feedback.items():
        assert difference(dataset[f"feedback_{block}"].values, psi) == 0


def test_the_dataset_holds_the_numbers():
    found = full()
    dataset = found.to_dataset()
    assert difference(dataset["time"].values, TIMES) == 0
    assert difference(dataset["activity_fc2"].sel(time=4.0).values, found["fc2"][2]) == 0
    assert difference(dataset["trace_fc1"].values, found.traces["fc1"]) == 0
    assert (
        difference(dataset["gradient_fc1"].values, problem(batch=3).unit_gradients()["fc1"]) < 1e-14
    )


@pytest.mark.parametrize("place", ["nowhere/traj.nc", "folder"])
def test_a_failed_save_leaves_no_file(place, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"cannot write .*{place}.*choose another path"):
        full().save(tmp_path / place)
    assert [each.name for each in tmp_path.rglob("*")] == ["folder"]


def test_a_save_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    problem().relaxation().solve([1.0]).save(tmp_path / "traj.nc")
    before = (tmp_path / "traj.nc").read_bytes()

    def broken(self, path, **settings):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", broken)
    with pytest.raises(InputError, match="disk full"):
        full().save(tmp_path / "traj.nc")
    assert (tmp_path / "traj.nc").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["traj.nc"]


def test_saving_again_replaces(tmp_path):
    problem().relaxation().solve([1.0]).save(tmp_path / "traj.nc")
    full().save(tmp_path / "traj.nc")
    assert_equal(Trajectory.load(tmp_path / "traj.nc"), full())


def test_what_is_no_trajectory_is_not_loaded(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*missing\.nc"):
        Trajectory.load(tmp_path / "missing.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(InputError, match=r"cannot read .*text\.nc"):
        Trajectory.load(tmp_path / "text.nc")
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="holds no trajectory"):
        Trajectory.load(tmp_path / "other.nc")
