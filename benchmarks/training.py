"""Speed of training the paper's MLP at batch 64 in float32, data and updates included.

Every step picks its samples out of 60,000, relaxes or backpropagates, and updates the weights.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

import ardyn
from benchmarks.timing import Cases, Row, main

ROWS = (
    Row("AR step, closed form", "BP step", at_most=1.2),
    Row("AR step without recording", "BP step"),
    Row("AR step, 100 sweeps", "AR step, closed form"),
    Row("AR step, 100 Euler steps", "AR step, closed form"),
    Row("AR step of 10 seeds, closed form", "AR step, closed form"),
    Row("AR step of 10 seeds, closed form", "BP step of 10 seeds", at_most=1),
)
SAMPLES = 60_000


def _cases(device: str) -> Cases:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(SAMPLES, 784, generator=generator).to(device)
    labels = torch.randint(10, (SAMPLES,), generator=generator)
    targets = functional.one_hot(labels, 10).float().to(device)

    def step(seeds: int, **settings: object) -> Callable[[], object]:
        models = [ardyn.mlp([784, 300, 300, 100, 10]).to(device) for _ in range(seeds)]
        model = ardyn.ensemble(models) if seeds > 1 else models[0]
        optimiser = torch.optim.SGD(model.parameters(), lr=0.0005)
        learner = ardyn.Learner(model, optimiser, **settings)  # type: ignore[arg-type]

        def run() -> torch.Tensor:
            rows = torch.randint(SAMPLES, (seeds * 64,), generator=generator).to(device)
            return learner.step(inputs[rows], targets[rows])

        return run

    return {
        "BP step": step(1, method="bp"),
        "AR step, closed form": step(1),
        "AR step without recording": step(1, capture=False),
        "AR step, 100 sweeps": step(1, solver=ardyn.Sweep(0.1)),
        "AR step, 100 Euler steps": step(1, solver=ardyn.Fixed("euler", 0.1)),
        "BP step of 10 seeds": step(10, method="bp"),
        "AR step of 10 seeds, closed form": step(10),
    }


if __name__ == "__main__":
    main("training", "Training 784-300-300-100-10, batch 64, float32", ROWS, _cases)
