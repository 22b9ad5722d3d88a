"""Random directed acyclic graphs of operations: no exceptions to the rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import ardyn
from ardyn import ClosedForm, Fixed, Relaxation, Rule
from tests.oracles.problems import DEVICE, assert_same, backprop, gradients_on, states


@dataclass(frozen=True)
class Step:
    """One operation of a program: its name, the values it reads, and a number it may need."""

    name: str
    reads: tuple[int, ...]
    number: int


UNARY: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tanh": lambda x, n: torch.tanh(x),
    "sigmoid": lambda x, n: x.sigmoid(),
    "gelu": lambda x, n: functional.gelu(x),
    "softplus": lambda x, n: functional.softplus(x),
    "softmax": lambda x, n: x.softmax(-1),
    "scale": lambda x, n: 0.5 * x - n,
    "square": lambda x, n: x**2 / (1 + x**2),
    "slice": lambda x, n: x[:, : 1 + n % 3],
    "flip": lambda x, n: x.flip(1),
    "stack": lambda x, n: torch.stack([x, x.sin()], dim=1).flatten(1),
    "chunk": lambda x, n: torch.chunk(x, 2, dim=1)[0],
    "in place": lambda x, n: x.clone().mul_(0.7).add_(x),
    "conv": lambda x, n: functional.avg_pool1d(x[:, None], 3, 1, padding=1)[:, 0],
    "mean": lambda x, n: x.mean(1, keepdim=True),
    "twice": lambda x, n: torch.tanh(x) * x.cos(),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cat": lambda x, y: torch.cat([x, y.tanh()], dim=1)[:, :6],
    "outer": lambda x, y: (x.sin()[:, :, None] * y.cos()[:, None, :]).flatten(1)[:, :5],
    "gate": lambda x, y: x.tanh() * y.mean(1, keepdim=True),
    "attend": lambda x, y: (
        (x[:, :, None] @ y[:, None, :]).softmax(-1) @ torch.ones_like(y)[..., None]
    ),
}


class Program(nn.Module):
    """Runs its steps; linear layers and norms are drawn to fit."""

    def __init__(self, steps: list[Step], width: int) -> None:
        super().__init__()
        self.steps, self.layers = steps, nn.ModuleDict()
        x = [torch.zeros(2, width, dtype=torch.float64)]
        for i, step in enumerate(steps):
            last = x[step.reads[0]].shape[-1]
            if step.name == "linear":
                self.layers[str(i)] = nn.Linear(last, 1 + step.number)
            elif step.name == "norm":
                self.layers[str(i)] = nn.LayerNorm(last)
            elif step.name == "shared" and f"shared{last}" not in self.layers:
                self.layers[f"shared{last}"] = nn.Linear(last, last)
            self.double()
            x.append(self.run(i, step, x, last))
        self.read = nn.Linear(x[-1].shape[-1], 2)
        self.used = sorted({len(steps), *(len(steps) - i for i in range(1, 3))} - {0})
        self.widths = [each.shape[-1] for each in x]

    def run(self, i: int, step: Step, x: list[Tensor], last: int) -> Tensor:
        first = x[step.reads[0]]
        if step.name in UNARY:
            return UNARY[step.name](first, step.number)
        if step.name in BINARY:
            found = BINARY[step.name](first, x[step.reads[-1]])
            return found[..., 0] if step.name == "attend" else found
        name = f"shared{last}" if step.name == "shared" else str(i)
        y: Tensor = self.layers[name](first)
        return y

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = [x]
        for i, step in enumerate(self.steps):
            values.append(self.run(i, step, values, self.widths[step.reads[0]]))
        return self.read(values[-1]), torch.cat([values[i] for i in self.used], dim=1).tanh()


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, Tensor]:
    """A module of 3 to 30 operations, and a batch."""
    names = ["linear", "linear", "norm", "shared", *UNARY, *BINARY]
    count, width = draw(st.integers(3, 30)), draw(st.integers(1, 4))
    steps = []
    for i in range(count):
        # Mostly the latest values, so that paths grow long; now and then any.
        reads = draw(st.tuples(*[st.integers(max(0, i - 4), i) | st.integers(0, i)] * 2))
        name = "linear" if i == 0 else draw(st.sampled_from(names))
        steps.append(Step(name, reads, draw(st.integers(0, 4))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 10**6)))
        model = Program(steps, width).double().to(DEVICE)
        inputs = torch.randn(2, width, dtype=torch.float64).to(DEVICE)
    return model, inputs


def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return (output[0] - target).square().sum() + output[1].sin().sum()


def rounding(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Gradients that cancel, as behind a softmax of one element, are as small as their rounding."""
    largest = max(float(g.abs().max()) for g in gradients.values())
    return dict.fromkeys(gradients, 1e-4 * largest)


@settings(max_examples=500)
@given(programs(), st.sampled_from(["block", "operation"]), st.sampled_from(["relaxed", "clamped"]))
def test_any_graph_settles_on_its_gradients_and_has_a_closed_form(drawn, units, output):
    model, inputs = drawn
    target = torch.ones(2, 2, dtype=torch.float64, device=DEVICE)
    batch = {"model": model, "inputs": inputs, "targets": target, "loss": loss}
    rule = Rule(output=output)
    model.zero_grad()
    ardyn.backward(**batch, units=units, rule=rule, duration=400.0)
    truth = backprop(model, lambda m: loss(m(inputs), target))
    found = {n: gradients_on(model).get(n, torch.zeros_like(g)) for n, g in truth.items()}
    assert_same(found, truth, 1e-10, beside=rounding(truth))

    sim = Relaxation(**batch, units=units, rule=rule)
    settled = {unit: x[-1] for unit, x in states(sim.solve([400.0])).items()}
    assert_same(settled, sim.gradients, 1e-10, beside=rounding(sim.gradients))
    euler, times = Fixed("euler", 0.5), [0.5, 1.0, 2.0]
    stepped = states(sim.solve(times, euler))
    largest = {unit: x.abs().max() for unit, x in stepped.items()}
    assert_same(states(sim.solve(times, ClosedForm(euler))), stepped, 1e-11, beside=largest)
    final = states(sim.solve(times[-1:], ClosedForm(euler)))
    assert_same(final, {u: x[-1:] for u, x in stepped.items()}, 1e-11, beside=largest)
