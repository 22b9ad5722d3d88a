"""Steps that are recorded and repeated do what the same steps do in Python."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ardyn
from ardyn import ClosedForm, DivergenceError, Fixed, InputError, Learner, Rule, recording
from tests.oracles.problems import assert_same, generator


def batches(count: int, *shape: int, classes: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    """The last is smaller."""
    g = generator(5)
    for number in range(count):
        size = 6 if number < count - 1 else 4
        x = torch.rand(size, *shape, generator=g).double()
        yield x, torch.eye(classes)[torch.randint(classes, (size,), generator=g)].double()


def mlp(activation: str = "tanh") -> nn.Module:
    return ardyn.mlp([6, 7, 5, 4], activation, std=0.5, generator=generator(1)).double()


def cnn() -> nn.Module:
    return ardyn.cnn("digits", "code", std=0.3, generator=generator(1), dtype=torch.float64)


def two() -> nn.Module:
    sizes = [6, 7, 5, 4]
    one = [ardyn.mlp(sizes, std=0.5, generator=generator(i)).double() for i in range(2)]
    return ardyn.ensemble(one)


class Own(nn.Module):
    """Layers of one's own class, with a counter, batch normalisation and dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 4)
        self.norm, self.drop = nn.BatchNorm1d(7), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.drop(self.norm(self.a(x)).tanh()))
        return y


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "tanh": (mlp, (6,), {}),
    "relu": (lambda: mlp("relu"), (6,), {}),
    "gelu": (lambda: mlp("gelu"), (6,), {}),
    "cross entropy": (mlp, (6,), {"loss": "cross_entropy"}),
    "dropped": (mlp, (6,), {"rule": Rule(relaxation_derivative="dropped")}),
    "zero, clamped": (mlp, (6,), {"rule": Rule(initial="zero", output="clamped")}),
    "traces": (mlp, (6,), {"rule": Rule(update_activity="trace"), "tau_trace": 3.0}),
    "unequal time constants": (mlp, (6,), {"tau": [1.0, 2.0, 0.5]}),
    "Euler": (mlp, (6,), {"solver": ClosedForm(Fixed("euler", 0.1))}),
    "backprop": (mlp, (6,), {"method": "bp"}),
    "learned feedback": (mlp, (6,), {"rule": Rule(feedback="learned")}),
    "fixed feedback": (mlp, (6,), {"rule": Rule(feedback="fixed")}),
    "convolutions": (cnn, (1, 8, 8), {}),
    "ensemble": (two, (6,), {}),
    "own module": (lambda: Own().double(), (6,), {}),
}


def trained(
    make: Callable[[], nn.Module], shape: tuple[int, ...], capture: bool | None, **settings: Any
) -> tuple[dict[str, Tensor], list[Tensor], Learner]:
    """Everything that training changes, and the loss of every step."""
    model = make()
    rule = settings.get("rule", Rule())
    psi = (
        ardyn.random_feedback(model, generator=generator(3)) if rule.feedback != "transpose" else {}
    )
    learned = [*model.parameters(), *(psi.values() if rule.feedback == "learned" else [])]
    optimiser = torch.optim.SGD(learned, lr=0.02, momentum=0.9)
    learner = Learner(model, optimiser, feedback=psi or None, capture=capture, **settings)
    torch.manual_seed(1)
    classes = 10 if len(shape) == 3 else 4
    losses = [learner.step(x, t) for x, t in batches(9, *shape, classes=classes)]
    learner.check_finite()
    found = dict(model.state_dict()) | {f"psi {name}": each for name, each in psi.items()}
    return found, losses, learner


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Counts repeated steps."""
    spy = Mock(wraps=recording._Repeat.__call__)
    monkeypatch.setattr(recording._Repeat, "__call__", lambda self, *args: spy(self, *args))
    return spy


@pytest.mark.parametrize("case", CASES)
def test_repeated_steps_learn_what_the_same_steps_learn_in_python(case, repeats):
    make, shape, settings = CASES[case]
    truth, losses, _ = trained(make, shape, False, **settings)
    assert not repeats.called
    found, repeated, _ = trained(make, shape, True, **settings)
    assert (
        repeats.call_count == 4
    )  # one to compare, three to repeat; the last batch is another kind
    assert_same(found, truth, 1e-12)
    torch.testing.assert_close(torch.stack(repeated), torch.stack(losses), rtol=1e-12, atol=0)


def test_layers_of_torch_are_recorded_by_themselves_and_own_modules_only_if_asked(
    repeats, monkeypatch
):
    monkeypatch.setattr(recording, "SEEN", 2)
    for name, count in (("tanh", 5), ("ensemble", 5), ("own module", 0), ("backprop", 0)):
        make, shape, settings = CASES[name]
        repeats.reset_mock()
        found, _, _ = trained(make, shape, None, **settings)
        assert repeats.call_count == count
        assert_same(found, trained(make, shape, False, **settings)[0], 1e-12)


class Branching(nn.Module):
    """Takes operations that depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.a if self.count % 2 else self.b)(x)
        self.count += 1
        return y

    count = 0


def test_a_step_that_is_another_one_each_time_is_refused():
    with pytest.raises(InputError, match=r"Branching cannot be recorded \(.*\); drop capture=True"):
        trained(lambda: Branching().double(), (6,), True)


def test_capture_needs_the_closed_form():
    with pytest.raises(InputError, match=r"needs the closed form, got Fixed"):
        trained(mlp, (6,), True, solver=Fixed("euler", 0.1))


def test_capture_is_a_choice():
    with pytest.raises(InputError, match="capture must be True, False or None, got 'yes'"):
        trained(mlp, (6,), "yes")  # type: ignore[arg-type]


def hooked(m: nn.Sequential) -> None:
    m[2].register_forward_hook(lambda module, args, value: 2 * value)


def frozen(m: nn.Sequential) -> None:
    m[0].weight.requires_grad_(False)


def another_layer(m: nn.Sequential) -> None:
    m[1] = nn.Sigmoid()


def other_setting(m: Any) -> None:
    m[3].inplace = True
    m[3].negative_slope = 0.5


def with_hook_on_weights(m: Any) -> None:
    m[0].weight.register_hook(lambda g: 3 * g)


def tied(m: Any) -> None:
    m[4].weight = m[2].weight


def used_twice(m: Any) -> None:
    m.append(m[1])


def kept_list(m: Any) -> None:
    m.history = [[1.0], torch.ones(2)]


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        frozen,
        another_layer,
        other_setting,
        with_hook_on_weights,
        tied,
        used_twice,
        kept_list,
    ],
)
def test_what_changes_after_a_recording_takes_part(change, monkeypatch):
    monkeypatch.setattr(recording, "SEEN", 2)
    weights = []
    for capture in (None, False):
        model: Any = ardyn.mlp([6, 5, 5, 5, 4], std=0.5, generator=generator(1)).double()
        model[3] = nn.LeakyReLU(0.1)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
        learner = Learner(model, optimiser, capture=capture)
        for number, (x, t) in enumerate(batches(12, 6)):
            learner.step(x, t)
            if number == 6:
                change(model)
        weights.append(dict(model.state_dict()))
    assert_same(weights[0], weights[1], 1e-12)


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("loss", ["sse", "cross_entropy"])
@pytest.mark.parametrize("make", [mlp, lambda: Own().double()], ids=["mlp", "own module"])
def test_a_step_reads_no_number(capture, loss, make):
    model = make()
    learner = Learner(
        model, torch.optim.SGD(model.parameters(), lr=0.02), loss=loss, capture=capture
    )
    for x, t in list(batches(8, 6))[:7]:
        learner.step(x, t)
    if loss == "cross_entropy":
        t = t.argmax(1) if not capture else t
        learner.step(x, t)
    with reads() as count:
        learner.step(x, t)
        assert count == []
        learner.check_finite()
        assert count != []


@contextlib.contextmanager
def reads() -> Iterator[list[str]]:
    """Names of the calls that wait for a number."""
    found: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = func.overloadpacket.__name__
            if name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"):
                found.append(name)
            return func(*args, **(kwargs or {}))

    with pytest.MonkeyPatch.context() as patch, Count():
        tolist = Tensor.tolist

        def listed(x: Tensor) -> Any:
            if x.shape != (1,):  # the times at which activities are asked for are on the CPU
                found.append("tolist")
            return tolist(x)

        patch.setattr(Tensor, "tolist", listed)
        yield found


@pytest.mark.parametrize("method", ["ar", "bp"])
@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("number", [0, 3, 7])
def test_the_batch_in_which_something_became_nan_is_named(method, capture, number):
    model = mlp()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    learner = Learner(model, optimiser, method=method, capture=capture)
    for x, t in list(batches(8, 6))[:7]:
        learner.step(x, t)
    learner.check_finite()
    for k, (x, t) in enumerate(list(batches(9, 6))[:8]):
        if k == number:
            x[2, 1] = torch.nan
        learner.step(x, t)
    with pytest.raises(DivergenceError, match=f"first seen at batch {number + 1} of 8; lower"):
        learner.check_finite()


def test_many_steps_keep_what_began_first(monkeypatch):
    monkeypatch.setattr("ardyn.errors._MOST_SUMS", 5)
    test_the_batch_in_which_something_became_nan_is_named("ar", False, 3)


def test_infinite_weights_are_named_with_the_last_batch():
    model = mlp()
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.02))
    for x, t in batches(3, 6):
        learner.step(x, t)
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.inf
    with pytest.raises(DivergenceError, match="at batch 3 of 3"):
        learner.check_finite()


@pytest.mark.parametrize("case", ["tanh", "cross entropy", "convolutions", "learned feedback"])
def test_every_tensor_of_a_step_is_on_the_device_of_the_model(case, monkeypatch):
    """On the device "meta": tensors of two devices may not meet, and no number can be read there.

    A build of torch for the CPU cannot compute on a fake GPU.
    """
    make, shape, settings = CASES[case]
    _, _, learner = trained(make, shape, False, **settings)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    for module in learner.model.modules():
        for name, p in module._parameters.items():
            assert p is not None
            module._parameters[name] = nn.Parameter(p.to("meta"))
    psi = {name: p.to("meta") for name, p in learner.psi.items()}
    object.__setattr__(learner, "feedback", psi or None)
    learner._recorder.feedback = psi
    x = torch.empty(6, *shape, dtype=torch.float64, device="meta")
    t = torch.empty(6, 10 if len(shape) == 3 else 4, dtype=torch.float64, device="meta")
    tensors = [*learner.model.parameters(), *psi.values()]
    for found in (learner._fill_without_waiting(x, t), recorded(learner, tensors, x, t)):
        assert {each.device.type for each in found} == {"meta"}
        gradients = [p.grad for p in tensors]
        assert {g.device.type for g in gradients if g is not None} == {"meta"}
        assert None not in gradients[: len(tensors) - len(psi)]


def recorded(learner: Learner, tensors: list[Tensor], x: Tensor, t: Tensor) -> Any:
    """What a step returns that is repeated."""
    kind = recording._Kind()
    learner._recorder._record(learner._fill_without_waiting, kind, tensors, x, t)
    assert kind.recorded is not None
    return kind.recorded(tensors, x, t)


class Graph:
    """Stands for a CUDA graph."""

    def __init__(self) -> None:
        self.replayed = 0

    def replay(self) -> None:
        self.replayed += 1


def test_a_captured_step_copies_the_batch_into_its_memory_and_the_results_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    weight = torch.ones(3, requires_grad=True)
    made = []

    def again(tensors: Any, x: Tensor, t: Tensor) -> list[Tensor]:
        made.append((x, t))
        tensors[0].grad = torch.full((3,), 7.0)
        return [x.sum()]

    x, t = torch.rand(4, 3), torch.rand(4, 2)
    captured = recording._Captured(again, [weight], x, t)  # type: ignore[arg-type]
    static = weight.grad
    weight.grad = None
    found = captured([weight], 2 * x, 3 * t)
    assert torch.equal(made[0][0], 2 * x)
    assert torch.equal(made[0][1], 3 * t)
    assert weight.grad is static
    assert captured._graph.replayed == 1  # type: ignore[attr-defined]
    assert found[0] is not captured._found[0]


@pytest.mark.parametrize("change", ["eval", "p", "norm"])
def test_settings_of_modules_within_ones_own_take_part(change):
    weights = []
    for capture in (True, False):
        model = Own().double()
        learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.02), capture=capture)
        torch.manual_seed(1)
        for number, (x, t) in enumerate(batches(12, 6)):
            if number == 7 and change == "eval":
                model.drop.eval()
            elif number == 7 and change == "norm":
                model.norm.eval()
            elif number == 7:
                model.drop.p = 0.1
            learner.step(x, t)
        weights.append(dict(model.state_dict()))
    assert_same(weights[0], weights[1], 1e-12)


def test_what_an_ensemble_is_made_of_takes_part(monkeypatch):
    monkeypatch.setattr(recording, "SEEN", 2)
    weights = []
    for capture in (None, False):
        one = [nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4)) for _ in range(2)]
        for each in one:
            for p in each.parameters():
                nn.init.normal_(p, generator=generator(4))
        model: Any = ardyn.ensemble(one).double()
        learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.01), capture=capture)
        for number, (x, t) in enumerate(batches(9, 6)):
            learner.step(x, t)
            if number == 6:
                model[1].one.eps = 0.5
        weights.append(dict(model.state_dict()))
    assert_same(weights[0], weights[1], 1e-12)


def test_an_input_that_is_its_own_target_is_another_kind(monkeypatch):
    monkeypatch.setattr(recording, "SEEN", 2)
    weights = []
    for capture in (None, False):
        model = ardyn.mlp([4, 5, 4], std=0.5, generator=generator(1)).double()
        learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.02), capture=capture)
        for number, (x, t) in enumerate(batches(12, 4)):
            learner.step(x, x if number < 7 else t)
        weights.append(dict(model.state_dict()))
    assert_same(weights[0], weights[1], 1e-12)


def test_feedback_weights_that_are_replaced_take_part():
    weights = []
    for capture in (True, False):
        model = mlp()
        psi = dict(ardyn.random_feedback(model, generator=generator(3)))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
        rule = Rule(feedback="fixed")
        learner = Learner(model, optimiser, rule=rule, feedback=psi, capture=capture)
        for number, (x, t) in enumerate(batches(12, 6)):
            learner.step(x, t)
            if number == 6:
                psi.update({name: -each for name, each in psi.items()})
        weights.append(dict(model.state_dict()))
    assert_same(weights[0], weights[1], 1e-12)


def test_several_inputs_are_not_captured():
    model = mlp()
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), capture=True)
    with pytest.raises(InputError, match="needs inputs and targets that are one tensor each"):
        learner.step((torch.rand(3, 6).double(),), torch.rand(3, 4).double())


def test_small_batches_before_do_not_end_recording(repeats, monkeypatch):
    monkeypatch.setattr(recording, "SEEN", 2)
    monkeypatch.setattr(recording, "_MOST_KINDS", 4)
    model = mlp()
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.01))
    for size in [*range(1, 10), *[12] * 6]:
        learner.step(torch.rand(size, 6).double(), torch.rand(size, 4).double())
    assert repeats.call_count == 3


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("wrong", [17, -100])
def test_classes_out_of_range_are_told(capture, wrong):
    model = mlp()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    learner = Learner(model, optimiser, loss="cross_entropy", capture=capture)
    for x, t in list(batches(8, 6))[:7]:
        learner.step(x, t.argmax(1))
    with pytest.raises(ardyn.ArdynError, match=r"out of bounds|first seen at batch 8 of 8"):  # noqa: PT012
        learner.step(x, torch.full((6,), wrong))
        learner.check_finite()


def test_learned_feedback_that_is_nan_is_told():
    _, _, learner = trained(mlp, (6,), None, rule=Rule(feedback="learned"))
    with torch.no_grad():
        next(iter(learner.psi.values())).fill_(torch.nan)
    with pytest.raises(DivergenceError, match="first seen"):
        learner.check_finite()
