"""Speed of relaxing the paper's MLP at batch 64 in float32, as ratios of times in one process.

The reference is the minimal arithmetic of backprop through the hidden layers: three products
(v ⊙ f′) W.
"""

import itertools

import torch
from torch.nn import functional

import ardyn
from ardyn.network.activations import scale
from ardyn.solvers.system import Solver
from benchmarks.timing import Cases, Row, main

ROWS = (
    Row("closed form, final state", "BP pull-backs", at_most=2.5),
    Row("closed form, final state, duration not in the cache", "closed form, final state"),
    Row("closed form, 200 times", "closed form, final state", at_most=4),
    # 36 MB are written, so that memory sets the time, whatever the final state alone takes.
    Row(
        "closed form, 200 times, all states computed",
        "allocating and filling a tensor of that size",
        at_most=2,
    ),
    Row("100 Euler steps", "closed form, final state", at_least=30),
    Row("100 sweeps", "closed form, final state"),
    Row("dopri5 at rtol 1e-6", "closed form, final state", at_least=100),
    Row("ardyn.backward", "autograd forward and backward"),
)


def _cases(device: str) -> Cases:
    generator = torch.Generator().manual_seed(0)
    model = ardyn.mlp([784, 300, 300, 100, 10], generator=generator).to(device)
    inputs = torch.rand(64, 784, generator=generator).to(device)
    labels = torch.randint(10, (64,), generator=generator)
    targets = functional.one_hot(labels, 10).float().to(device)
    sim = ardyn.Relaxation(model, inputs, targets)
    passed = sim.dynamics.forward_pass
    hidden = [
        (passed.derivative.get(f"fc{i}"), passed.parameters[f"fc{i}.weight"]) for i in (4, 3, 2)
    ]
    times = torch.linspace(0.05, 10, 200)
    euler, sweep = ardyn.Fixed("euler", step=0.1), ardyn.Sweep(step=0.1)

    def pull_backs() -> None:
        v = sim.dynamics.drive["fc4"]
        for slope, W in hidden:
            v = scale(v, slope) @ W

    def states(times: object, solver: Solver) -> list[torch.Tensor]:
        trajectory = sim.solve(times, solver)  # type: ignore[arg-type]
        return [trajectory[unit] for unit in trajectory.units]

    durations = itertools.count(1)

    def unseen() -> list[torch.Tensor]:
        return states([10 + 1e-6 * next(durations)], ardyn.ClosedForm())

    def autograd() -> None:
        model.zero_grad()
        (model(inputs) - targets).square().sum().backward()

    def relaxed() -> None:
        model.zero_grad()
        ardyn.backward(model, inputs, targets)

    return {
        "BP pull-backs": pull_backs,
        "closed form, final state": lambda: states([10.0], ardyn.ClosedForm()),
        "closed form, final state, duration not in the cache": unseen,
        "allocating and filling a tensor of that size": lambda: torch.ones(
            200, 64, 710, device=device
        ),
        "closed form, 200 times": lambda: sim.solve(times, ardyn.ClosedForm()),
        "closed form, 200 times, all states computed": lambda: states(times, ardyn.ClosedForm()),
        "100 Euler steps": lambda: states([10.0], euler),
        "100 sweeps": lambda: states([10.0], sweep),
        "dopri5 at rtol 1e-6": lambda: states([10.0], ardyn.Adaptive("dopri5", rtol=1e-6)),
        "autograd forward and backward": autograd,
        "ardyn.backward": relaxed,
    }


if __name__ == "__main__":
    main("relaxation", "Relaxation of 784-300-300-100-10, batch 64, float32", ROWS, _cases)
