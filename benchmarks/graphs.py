"""Speed on graphs and deep chains: the paper's CNN, and 50 layers of 128; batch 64, float32."""

import torch
from torch import nn

import ardyn
from ardyn.solvers.system import Solver
from benchmarks.timing import Cases, Row, main

ROWS = (
    Row("CNN: closed form", "CNN: autograd backward pass", at_most=4),
    Row("CNN: 100 Euler steps", "CNN: closed form", at_least=15),
    Row("CNN: ardyn.backward", "CNN: autograd forward and backward"),
    Row("chain: dopri5 at rtol 1e-6, t = 20", "chain: closed form, t = 20", at_least=20),
    Row("chain: 200 Euler steps", "chain: closed form of the 200 steps", at_least=20),
    Row(
        "chain: set-up of a new batch (recorded forward pass)",
        "chain: autograd forward and backward",
    ),
)


def _cases(device: str) -> Cases:
    g = torch.Generator().manual_seed(0)
    cnn = ardyn.cnn("cifar10", generator=g).to(device)
    images, labels = torch.rand(64, 3, 32, 32, generator=g), torch.randn(64, 10, generator=g)
    chain = ardyn.mlp([128] * 51, std=128**-0.5, generator=g).to(device)
    vectors, goals = torch.randn(64, 128, generator=g), torch.randn(64, 128, generator=g)
    return {
        **_cnn(cnn, images.to(device), labels.to(device)),
        **_chain(chain, vectors.to(device), goals.to(device)),
    }


def _cnn(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Cases:
    sim = ardyn.Relaxation(model, inputs, targets)
    euler = ardyn.Fixed("euler", step=0.1)
    loss = (model(inputs) - targets).square().sum()
    parameters = list(model.parameters())
    return {
        "CNN: autograd backward pass": lambda: torch.autograd.grad(
            loss, parameters, retain_graph=True
        ),
        "CNN: closed form": lambda: _states(sim, 10.0, ardyn.ClosedForm()),
        "CNN: 100 Euler steps": lambda: _states(sim, 10.0, euler),
        "CNN: autograd forward and backward": lambda: _backprop(model, inputs, targets),
        "CNN: ardyn.backward": lambda: ardyn.backward(model, inputs, targets),
    }


def _chain(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Cases:
    sim = ardyn.Relaxation(model, inputs, targets)
    euler, dopri5 = ardyn.Fixed("euler", step=0.1), ardyn.Adaptive("dopri5", rtol=1e-6)
    return {
        "chain: closed form, t = 20": lambda: _states(sim, 20.0, ardyn.ClosedForm()),
        "chain: dopri5 at rtol 1e-6, t = 20": lambda: _states(sim, 20.0, dopri5),
        "chain: closed form of the 200 steps": lambda: _states(sim, 20.0, ardyn.ClosedForm(euler)),
        "chain: 200 Euler steps": lambda: _states(sim, 20.0, euler),
        "chain: set-up of a new batch (recorded forward pass)": lambda: ardyn.Relaxation(
            model, inputs, targets
        ),
        "chain: autograd forward and backward": lambda: _backprop(model, inputs, targets),
    }


def _states(sim: ardyn.Relaxation, t: float, solver: Solver) -> list[torch.Tensor]:
    trajectory = sim.solve([t], solver)
    return [trajectory[unit] for unit in trajectory.units]


def _backprop(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    model.zero_grad()
    (model(inputs) - targets).square().sum().backward()


if __name__ == "__main__":
    main("graphs", "Relaxation of the paper's CNN, and of 50 layers of width 128", ROWS, _cases)
