"""Whole modules: where they settle, how they get there, and what they learn."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ardyn
from ardyn import Adaptive, ClosedForm, Fixed, Rule, Sweep
from ardyn.network.activations import identity
from tests.oracles.modules import CASES, Case
from tests.oracles.problems import assert_same, difference, generator, gradients_on, states
from tests.oracles.side_by_side import filled, randn

LONG = 1000.0
"""Long after every path has been gone down."""
SETTINGS = [("block", "relaxed"), ("operation", "relaxed"), ("block", "clamped")]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def own_module(sim: ardyn.Relaxation, unit: str) -> str:
    """The module whose returned value is a unit's activity; a name of none where there is none."""
    has_joined = sim.network.block[unit].activation is not identity
    return sim.dynamics.forward_pass.cuts[unit].place if has_joined else unit


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


def test_what_has_no_parameters_has_a_leak_only_if_every_operation_has():
    of_blocks, of_operations = (
        CASES["paper's CNN"]().relaxation(units=units).network.units
        for units in ("block", "operation")
    )
    assert of_blocks == ("conv1", "conv2", "fc1", "fc2", "fc3")
    assert of_operations == (
        *("conv1", "tanh1", "pool", "conv2", "tanh2", "flatten"),
        *("fc1", "tanh3", "fc2", "tanh4", "fc3"),
    )


def test_outputs_that_nothing_reads_are_clamped_and_others_relax():
    sim = CASES["many to many"]().relaxation(rule=Rule(output="clamped"))
    assert sim.network.outputs == ("product", "deep", "sum")
    clamped = ("deep", "sum")
    assert tuple(sim.dynamics.clamped) == clamped
    assert tuple(sim.dynamics.tau) == ("left", "right", "product", "tanh")
    for solver in (ClosedForm(), Fixed("euler", 0.1)):
        found = sim.solve([0.0, 0.5], solver)
        for unit in clamped:
            assert_same(
                {"start": found[unit][0], "later": found[unit][1]},
                {"start": sim.gradients[unit], "later": sim.gradients[unit]},
                1e-14,
            )


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


def test_equal_sequences_of_calls_have_one_network():
    case = CASES["U-Net"]()
    assert case.relaxation().network is case.relaxation().network


def test_feedback_weights_on_the_convolutions_only_are_one_line():
    case = CASES["paper's CNN"]()
    psi = ardyn.random_feedback(case.model, std=0.3, generator=generator(5))
    sim = case.relaxation(rule={"conv*": Rule(feedback="fixed")}, feedback=psi)
    model, g = case.model, CASES["paper's CNN"]().relaxation().gradients
    settled = {unit: x[-1] for unit, x in states(sim.solve([LONG])).items()}
    above = ("conv2", "fc1", "fc2", "fc3")
    assert_same({u: settled[u] for u in above}, {u: g[u] for u in above}, 1e-12)
    # conv2 sends back through ψ, by way of the pooling.
    layers: dict[str, Any] = dict(model.named_children())
    below = layers["tanh1"](layers["conv1"](case.inputs[0])).detach()
    a = layers["conv2"](layers["pool"](below))
    weight = psi["conv2"].T.reshape(layers["conv2"].weight.shape)
    _, truth = torch.autograd.functional.vjp(
        lambda x: torch.nn.functional.conv2d(layers["pool"](x), weight),
        below,
        g["conv2"] * (1 - a.tanh() ** 2).detach(),
    )
    assert difference(settled["conv1"], truth) < 1e-12
    assert difference(settled["conv1"], g["conv1"]) > 0.1


@pytest.mark.parametrize(
    "dropped", [Rule(relaxation_derivative="dropped"), Rule(update_derivative="dropped")]
)
def test_derivatives_dropped_on_some_layers_change_what_they_teach(dropped):
    case = CASES["paper's CNN"]()
    found = {}
    for pattern in ("none", "conv*", "fc*"):
        rule = {pattern: dropped} if pattern != "none" else Rule()
        case.model.zero_grad()
        ardyn.backward(**case.batch, rule=rule, duration=LONG)
        found[pattern] = gradients_on(case.model)
    name = "conv1.weight" if dropped.update_derivative == "frozen" else "conv2.weight"
    assert difference(found["conv*"][name], found["none"][name]) > 1e-3
    assert difference(found["fc*"]["fc1.weight"], found["none"]["fc1.weight"]) > 1e-3


@pytest.mark.parametrize("activity", ["current", "trace"])
def test_the_presynaptic_factor_behind_a_pooling_is_what_the_pooling_makes_of_it(activity):
    case = CASES["paper's CNN"]()
    rule = Rule(update_activity=activity)
    settings = {"rule": rule, "tau_trace": 2.0} if activity == "trace" else {"rule": rule}
    sim = case.relaxation(**settings)
    solver = Adaptive("dopri5", rtol=1e-9, atol=1e-12)
    final = sim.solve([3.0], solver)
    ardyn.backward(**case.batch, **settings, duration=3.0, solver=solver)
    below = final.traces["conv1"][-1] if activity == "trace" else final["conv1"][-1]
    layers: dict[str, Any] = dict(case.model.named_children())
    W = layers["conv2"].weight.detach().requires_grad_()
    a = torch.nn.functional.conv2d(layers["pool"](below), W)
    frozen = layers["conv2"](layers["pool"](layers["tanh1"](layers["conv1"](case.inputs[0]))))
    slope = 1 - frozen.detach().tanh() ** 2
    (truth,) = torch.autograd.grad(a, W, final["conv2"][-1] * slope)
    assert difference(layers["conv2"].weight.grad, truth) < 1e-12


def test_trajectories_of_a_graph_are_stored_and_read_back(tmp_path):
    sim = CASES["many to many"]().relaxation()
    saved = sim.solve([0.5, 2.0])
    saved.save(tmp_path / "run.nc")
    read = ardyn.Trajectory.load(tmp_path / "run.nc")
    assert_same(states(read), states(saved), 0.0)
    assert_same(read.relative_error(), saved.relative_error(), 1e-15)


class Argmax(nn.Module):
    """Gradients end at an operation that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x).argmax(1, keepdim=True).to(x.dtype) * 1.0
        return y


class OneHot(nn.Module):
    """An operation without a gradient where none flows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        largest = torch.nn.functional.one_hot(x.argmax(1), 4).to(x.dtype)
        y: Tensor = self.layer(torch.cat([x, largest], dim=1))
        return y


def double_batch() -> tuple[Tensor, Tensor]:
    g = generator(2)
    return torch.randn(3, 4, generator=g).double(), torch.randn(3, 3, generator=g).double()


def test_an_operation_without_a_gradient_passes_where_none_flows():
    inputs, targets = double_batch()
    sim = ardyn.Relaxation(OneHot().double(), inputs, targets)
    assert_same({u: x[-1] for u, x in states(sim.solve([60.0])).items()}, sim.gradients, 1e-12)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Argmax(), r"no gradient path.*gradients end at 'argmax'"),
        (
            nn.LSTM(4, 3),
            r"targets \[3, 3\] don't fit the output \(\[3, 3\], \(\[1, 3\], \[1, 3\]\)\)",
        ),
    ],
    ids=["argmax", "targets"],
)
def test_a_module_without_a_gradient_to_follow_is_refused(model, words):
    with pytest.raises(ardyn.InputError, match=words):
        ardyn.Relaxation(model.double(), *double_batch())


def test_a_pattern_that_matches_no_block_is_refused():
    with pytest.raises(ardyn.InputError, match=r"pattern 'convolution\*' matches no block; the"):
        CASES["U-Net"]().relaxation(rule={"convolution*": Rule()})


@pytest.mark.parametrize(
    ("rule", "units", "words"),
    [
        (
            {"flat*": Rule(feedback="fixed")},
            "operation",
            r"'flat\*' sets feedback weights.*\(flatten\)",
        ),
        ({"fc3": Rule(update_derivative="dropped")}, "block", r"'fc3' sets a der.*\(fc3\)"),
        ({"*": Rule(), "fc1": Rule(feedback="fixed")}, "block", r"'fc1' has no effect.*before"),
    ],
)
def test_a_rule_that_could_change_nothing_is_refused(rule, units, words):
    case = CASES["paper's CNN"]()
    with pytest.raises(ardyn.InputError, match=words):
        case.relaxation(rule=rule, units=units, feedback=ardyn.random_feedback(case.model))


def test_feedback_of_a_convolution_must_have_the_shape_of_its_flattened_kernel():
    case = CASES["paper's CNN"]()
    psi = ardyn.random_feedback(case.model) | {"conv1": torch.zeros(3, 3)}
    words = r"feedback of 'conv1' has shape \[3, 3\].*flattened kernel, \[9, 32\]"
    with pytest.raises(ardyn.InputError, match=words):
        case.relaxation(rule=Rule(feedback="fixed"), feedback=psi)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((torch.zeros(3, 4).double(),), r"ManyToMany takes the inputs x, y, shift, got 1"),
        (
            (torch.zeros(3, 4).double(), torch.zeros(2, 3).double()),
            r"cannot take activities of shape \[3, 5\].*\[2, 5\].*pass inputs that the module",
        ),
        ((torch.zeros(3, 4).double(), "y"), r"block '.*' cannot take.*must be Tensor, not str"),
    ],
)
def test_several_inputs_must_fit(inputs, words):
    case = CASES["many to many"]()
    with pytest.raises(ardyn.InputError, match=words):
        ardyn.Relaxation(case.model, inputs, case.targets)


def test_unknown_units_are_refused():
    with pytest.raises(ardyn.InputError, match="unknown units 'blocks': did you mean 'block'"):
        CASES["U-Net"]().relaxation(units="blocks")


class Views(nn.Module):
    """What is sent back is expanded by a sum, shared by two sources, or a view of what arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.d = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        h = (self.b(h) + self.c(h)).reshape(-1, 5).tanh()
        y: Tensor = self.d(h.sum(1, keepdim=True))
        return y


@pytest.mark.parametrize("units", ["block", "operation"])
def test_states_of_units_that_share_memory_with_others_are_their_own(units):
    model = filled(Views())
    sim = ardyn.Relaxation(model, randn(6, 4), randn(6, 3), units=units)
    tight = Adaptive("dopri5", rtol=1e-10, atol=1e-12)
    for times in ([0.7], [0.2, 0.7, 1.9]):
        assert_same(states(sim.solve(times)), states(sim.solve(times, tight)), 1e-7)
