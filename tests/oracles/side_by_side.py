"""Two copies of a module that learn from the same batches: one by backprop, one by relaxing."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ardyn
from ardyn.network.containers import tensors_in
from ardyn.network.network import Units
from tests.oracles.problems import assert_same, generator

LONG = 200.0
Make = Callable[[], nn.Module]
Change = Callable[[Any, int], object]
Record = dict[str, Tensor]
NO_TARGET = torch.zeros(())
UNITS: tuple[Units, ...] = ("block", "operation")


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def batches(*shape: int, steps: int = 3) -> list[Tensor]:
    """As many batches of that shape."""
    return [randn(*shape, seed=10 + step) for step in range(steps)]


def total(output: Any, target: Any = None) -> Tensor:
    """Σ |x|² + Re x over every tensor that the module returns."""
    found = [x for x in tensors_in(output) if x.is_floating_point() or x.is_complex()]
    return torch.stack([x.abs().square().sum() + x.real.sum() for x in found]).sum()


def filled(model: nn.Module, std: float = 0.5) -> Any:
    """In float64, with parameters and biases that matter, the same each time."""
    g = generator(4)
    with torch.no_grad():
        for p in model.double().parameters():
            p.copy_(std * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return model


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def drawn_next() -> Tensor:
    """The next number of each generator."""
    return torch.tensor([float(torch.rand(())), random.random(), np.random.random()])  # noqa: NPY002


def _nothing(model: nn.Module, step: int) -> None:
    pass


def call(model: nn.Module, inputs: Any) -> Any:
    """The module's own output."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def record_of(model: nn.Module, value: Tensor, inputs: Any) -> Record:
    """What one step leaves behind: the loss, gradients, buffers, the inputs' own gradients."""
    found = {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    found |= {f"state {name}": x for name, x in model.state_dict().items()}
    wanted = enumerate(tensors_in(inputs))
    found |= {f"gradient of input {i}": x.grad for i, x in wanted if x.grad is not None}
    found |= {"loss": value, "numbers drawn next": drawn_next()}
    return {name: x.detach().to_dense().clone() for name, x in found.items()}


def fresh(inputs: Any) -> Any:
    """Copies that are leaves, so that each copy of the module has its own."""
    return exchanged(inputs, lambda x: x.detach().clone().requires_grad_(x.requires_grad))


def exchanged(value: Any, by: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return by(value)
    if isinstance(value, dict):
        return {key: exchanged(each, by) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(exchanged(each, by) for each in value)
    return value


def learned(
    make: Make,
    given: Sequence[Any],
    loss: Callable[[Any, Any], Tensor],
    change: Change,
    method: str,
    units: Units,
) -> list[Record]:
    """What every step leaves, by plain backprop or by a Learner that relaxes."""
    model, records = make(), []
    seed_everything(7)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    learner = ardyn.Learner(model, optimiser, loss=loss, duration=LONG, units=units)
    for step, inputs in enumerate(map(fresh, given)):
        change(model, step)
        if method == "ar":
            value = learner.step(inputs, NO_TARGET)
        else:
            model.zero_grad()
            value = loss(call(model, inputs), NO_TARGET)
            value.backward()
            optimiser.step()
        records.append(record_of(model, value, inputs))
    return records


def assert_learns_as_backprop(
    make: Make,
    given: Sequence[Any],
    loss: Callable[[Any, Any], Tensor] = total,
    change: Change = _nothing,
    units: Units = "block",
    tolerance: float = 1e-8,
) -> list[Record]:
    """Every step leaves the same gradients, weights, buffers and random numbers as backprop's.

    Args:
        make: a new module, the same each time.
        given: inputs of each step.
        change: what is done to the module before each step.
    """
    truth = learned(make, given, loss, change, "bp", units)
    found = learned(make, given, loss, change, "ar", units)
    assert any(x.any() for name, x in truth[0].items() if name.startswith("gradient"))
    for one, other in zip(found, truth, strict=True):
        assert_same(one, other, tolerance)
    return truth


class Forward(nn.Module):
    """Two layers, a weight, and a forward pass that is a function of them."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.w = nn.Parameter(torch.zeros(5))
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def forward(function: Callable[..., Any], **parts: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: filled(Forward(function, **{name: make() for name, make in parts.items()}))


class Net(nn.Module):
    """A convolution, layers and an activation, each called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv1d(1, 2, 3), nn.Tanh()
        self.hidden, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.conv(x[:, None])).mean(1)
        y: Tensor = self.last(self.act(self.hidden(h)))
        return y


def net() -> Any:
    return filled(Net())


class Shared(nn.Module):
    """One layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.layer(x).tanh()
        y: Tensor = self.last(x)
        return y


def scale_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 1.5 * output
