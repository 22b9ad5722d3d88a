"""Steps that are recorded and repeated do what the same steps do in Python."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

import ardyn
from ardyn import ClosedForm, Fixed, Learner, Rule, recording
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


def three() -> nn.Module:
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
    "ensemble": (three, (6,), {}),
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
    assert repeats.call_count == 6  # not the first two, nor the smaller batch at the end
    assert_same(found, truth, 1e-12)
    torch.testing.assert_close(torch.stack(repeated), torch.stack(losses), rtol=1e-12, atol=0)
