"""Solvers that step, as ratios to the bare evaluations of their right-hand side, in one process.

A bare evaluation is the arithmetic of Eq. 1 alone, or of Eq. 1 and 2, written out for this network.
A record of many times is compared with the same number of evaluations and with making and filling
a tensor of as many numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

import ardyn
from ardyn.dynamics.coupled import Coupled
from ardyn.solvers.system import Solver
from benchmarks.timing import Cases, Row, main

SIZES = [300, 300, 100, 10]
ADAPTIVE = ("dopri5", "bosh3", "dopri8")
FIXED = ("euler", "midpoint", "rk4")
ROWS = (
    *(Row(name, f"its evaluations: {name}", at_most=1.4) for name in ADAPTIVE),
    *(Row(name, f"its evaluations: {name}", at_most=1.25) for name in FIXED),
    *(
        Row(f"{name}, 201 times", f"its evaluations, and 201 states: {name}", at_most=1.4)
        for name in ADAPTIVE + FIXED
    ),
    Row("making 201 states", "its evaluations: euler"),
    Row("dopri5 by torchdiffeq", "its evaluations: dopri5"),
    Row("dopri5 per sample", "dopri5", at_most=2),
    Row("collocation, postsynaptic", "dopri5, postsynaptic", at_most=0.33),
    Row("collocation, postsynaptic, 201 times", "dopri5, postsynaptic, 201 times", at_most=0.33),
    Row("rk4 with plastic weights", "its right-hand side", at_most=1.5),
    Row("rk4 with plastic weights", "its bare right-hand side", at_most=1.5),
)


def _cases(device: str) -> Cases:
    generator = torch.Generator().manual_seed(0)
    model = ardyn.mlp([784, *SIZES], generator=generator).to(device)
    inputs = torch.rand(64, 784, generator=generator).to(device)
    labels = torch.randint(10, (64,), generator=generator)
    targets = functional.one_hot(labels, 10).float().to(device)
    sim = ardyn.Relaxation(model, inputs, targets)
    passed = sim.dynamics.forward_pass
    x = [passed.activity[f"fc{i}"] for i in (1, 2, 3, 4)]
    W = [passed.parameters[f"fc{i}.weight"] for i in (2, 3, 4)]
    slopes, drive = [1 - h**2 for h in x], sim.dynamics.drive["fc4"]
    slopes[-1] = torch.ones_like(drive)
    start = torch.cat(x, 1)

    def bare(y: Tensor) -> Tensor:
        h = torch.split(y, SIZES, 1)
        pulled = [(h[i + 1] * slopes[i + 1]) @ W[i] for i in range(3)]
        return torch.cat([*(p - h[i] for i, p in enumerate(pulled)), drive - h[3]], 1)

    def bare_evaluations(count: int) -> None:
        for _ in range(count):
            bare(start)

    many = torch.linspace(0, 10, 201)
    cases: dict[str, Callable[[], object]] = {}

    def make_states() -> Tensor:
        return torch.ones(201, start.numel(), device=device)

    def evaluations_and_states(count: int) -> None:
        bare_evaluations(count)
        make_states()

    def add(name: str, solver: Solver) -> None:
        count = sim.solve([10.0], solver).evaluations
        cases[name] = lambda: sim.solve([10.0], solver)
        cases[f"its evaluations: {name}"] = lambda: bare_evaluations(count)
        cases[f"{name}, 201 times"] = lambda: sim.solve(many, solver)
        cases[f"its evaluations, and 201 states: {name}"] = lambda: evaluations_and_states(count)

    for name in ADAPTIVE + FIXED:
        add(name, ardyn.Adaptive(name) if name in ADAPTIVE else ardyn.Fixed(name, step=0.1))

    theirs = ardyn.Adaptive("dopri5", engine="torchdiffeq")
    alone = ardyn.Adaptive("dopri5", per_sample=True)
    nonlinear = ardyn.Relaxation(
        model, inputs, targets, rule=ardyn.Rule(relaxation_derivative="postsynaptic")
    )
    whole, dopri5 = ardyn.Collocation(), ardyn.Adaptive("dopri5")
    plastic = ardyn.Relaxation(
        model, inputs, targets, plasticity=ardyn.Plasticity(1e3, reduction="mean")
    )
    assert plastic.plasticity is not None
    coupled = Coupled.of(plastic.dynamics, plastic.plasticity, plastic.dynamics.initial())
    rk4 = ardyn.Fixed("rk4", step=0.1)

    state = coupled.initial()

    def right_hand_sides() -> None:
        with torch.no_grad():
            for _ in range(40):
                coupled(0.0, state)

    below, every_slope = [inputs, *x[:3]], [1 - h**2 for h in x[:3]]

    def bare_with_weights() -> list[Tensor]:
        h = list(state.activity.values())
        v = [*(h[i] * every_slope[i] for i in range(3)), h[3]]
        rates = [v[i + 1] @ W[i] - h[i] for i in range(3)] + [drive - h[3]]
        for i in range(4):
            rates += [-1e-3 / 64 * (v[i].T @ below[i]), -1e-3 / 64 * v[i].sum(0)]
        return rates

    def bare_right_hand_sides() -> None:
        for _ in range(40):
            bare_with_weights()

    return cases | {
        "making 201 states": make_states,
        "dopri5 by torchdiffeq": lambda: sim.solve([10.0], theirs),
        "dopri5 per sample": lambda: sim.solve([10.0], alone),
        "collocation, postsynaptic": lambda: nonlinear.solve([10.0], whole),
        "dopri5, postsynaptic": lambda: nonlinear.solve([10.0], dopri5),
        "collocation, postsynaptic, 201 times": lambda: nonlinear.solve(many, whole),
        "dopri5, postsynaptic, 201 times": lambda: nonlinear.solve(many, dopri5),
        "rk4 with plastic weights": lambda: plastic.solve([1.0], rk4),
        "its right-hand side": right_hand_sides,
        "its bare right-hand side": bare_right_hand_sides,
    }


if __name__ == "__main__":
    main("stepping", "Stepping of 784-300-300-100-10, batch 64, float32", ROWS, _cases)
