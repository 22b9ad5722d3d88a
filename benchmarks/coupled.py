"""Speed of the coupled ODE of activities and weights in the paper's MLP, batch 64, float32.

The references are the minimal arithmetic, three products (v ⊙ f′) W of the feedback and four
products (v ⊙ f′)ᵀ x̄ of the weight update; and torchdiffeq's own steps for a state of the same
size.
"""

import torch

import ardyn
from ardyn.dynamics.coupled import Coupled
from benchmarks.timing import Cases, Row, main

ROWS = (
    Row("coupled right-hand side", "minimal arithmetic", at_most=2),
    Row("coupled right-hand side", "right-hand side of the activities"),
    Row("30 coupled steps, euler", "torchdiffeq, 30 steps of y′ = −y, euler"),
    Row("30 coupled steps, rk4", "torchdiffeq, 30 steps of y′ = −y, rk4"),
)


def _cases(device: str) -> Cases:
    import torchdiffeq

    generator = torch.Generator().manual_seed(0)
    model = ardyn.mlp([784, 300, 300, 100, 10], generator=generator).to(device)
    inputs = torch.rand(64, 784, generator=generator).to(device)
    targets = torch.rand(64, 10, generator=generator).to(device)
    plasticity = ardyn.Plasticity(1e3, reduction="mean")
    sim = ardyn.Relaxation(model, inputs, targets, plasticity=plasticity)
    dynamics = sim.dynamics
    coupled = Coupled.of(dynamics, plasticity, dynamics.initial())
    state, fast = coupled.initial(), dynamics.initial()
    passed = dynamics.forward_pass
    weights = [passed.parameters[f"fc{i}.weight"].clone() for i in (1, 2, 3, 4)]
    slopes = [passed.derivative[f"fc{i}"].value() for i in (1, 2, 3)]
    below = [inputs, *(passed.activity[f"fc{i}"] for i in (1, 2, 3))]

    def minimal() -> None:
        x = [state.activity[f"fc{i}"] for i in (1, 2, 3, 4)]
        local = [v * f for v, f in zip(x, slopes, strict=False)] + [x[3]]
        for v, W in zip(local[1:], weights[1:], strict=True):
            v @ W
        for v, x_below in zip(local, below, strict=True):
            v.T @ x_below

    def leaks(method: str) -> object:
        """30 steps of y′ = −y, for a state of the same size."""
        return torchdiffeq.odeint(
            lambda t, y: tuple(-x for x in y),
            state.tensors(),
            torch.tensor([0.0, 3.0]),
            method=method,
            options={"step_size": 0.1},
        )

    @torch.no_grad()
    def without_grad(system: object, at: object) -> object:
        return system(0.0, at)  # type: ignore[operator]

    return {
        "minimal arithmetic": minimal,
        "coupled right-hand side": lambda: without_grad(coupled, state),
        "right-hand side of the activities": lambda: without_grad(dynamics, fast),
        "30 coupled steps, euler": lambda: sim.solve([3.0], ardyn.Fixed("euler", 0.1)),
        "torchdiffeq, 30 steps of y′ = −y, euler": lambda: leaks("euler"),
        "30 coupled steps, rk4": lambda: sim.solve([3.0], ardyn.Fixed("rk4", 0.1)),
        "torchdiffeq, 30 steps of y′ = −y, rk4": lambda: leaks("rk4"),
    }


if __name__ == "__main__":
    main(
        "coupled",
        "Activities and plastic weights of 784-300-300-100-10, batch 64, float32",
        ROWS,
        _cases,
    )
