"""Moving weights of convolutions: the coupled ODE against SciPy and torch's own convolutions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d
from torch.nn.grad import conv2d_weight

import ardyn
from ardyn import Adaptive, Plasticity, Rule
from tests.oracles.problems import assert_same, fill_biases, generator

TAU_X, TAU_W, TAU_PSI = 1.3, 6.0, 9.0
TIMES = [1.0, 2.5]
RULES = [
    Rule(),
    Rule(feedback="learned"),
    Rule(relaxation_derivative="current", update_derivative="current"),
    Rule(feedback="learned", relaxation_derivative="current", update_activity="current"),
]
State = dict[str, Tensor]


def network() -> nn.Sequential:
    """Two convolutions and a readout: inputs [3, 2, 5, 5]."""
    g = generator(5)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(100, (), generator=g)))
        model = nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(),
            nn.Linear(18, 4),
        )  # fmt: skip
    fill_biases(model, g)
    return model.double()


def tanh_slope(a: Tensor) -> Tensor:
    return 1 - a.tanh() ** 2


def right_hand_side(
    rule: Rule, start: State, x0: Tensor, target: Tensor
) -> tuple[Callable[[State], State], State]:
    """d(x, W, b, ψ)/dt as one would write it for these three layers, and x(0)."""

    def convolved(s: State, layer: str, x: Tensor) -> Tensor:
        return conv2d(x, s[f"{layer}.weight"], s[f"{layer}.bias"])

    a1 = convolved(start, "0", x0)
    a2 = convolved(start, "2", a1.tanh())
    flat = a2.tanh().flatten(1)
    output = flat @ start["5.weight"].T + start["5.bias"]
    drive = 2 * (output - target)

    def rate(s: State) -> State:
        x1, x2, x3 = s["x1"], s["x2"], s["x3"]
        f1, f2 = tanh_slope(a1), tanh_slope(a2)
        if rule.relaxation_derivative == "current":
            f2 = tanh_slope(convolved(s, "2", x1))
        back5, back2 = s["5.weight"], s["2.weight"]
        if rule.feedback == "learned":
            back5, back2 = s["psi5"].T, s["psi2"].T.reshape(s["2.weight"].shape)
        d = {
            "x3": (drive - x3) / TAU_X,
            "x2": ((x3 @ back5).reshape(x2.shape) - x2) / TAU_X,
            "x1": (conv_transpose2d(x2 * f2, back2) - x1) / TAU_X,
        }
        if rule.update_derivative == "current":
            f1, f2 = tanh_slope(convolved(s, "0", x0)), tanh_slope(convolved(s, "2", x1))
        else:
            f1, f2 = tanh_slope(a1), tanh_slope(a2)
        below2, below5 = a1.tanh(), flat
        if rule.update_activity == "current":
            below2, below5 = x1, x2.flatten(1)
        up1, up2 = x1 * f1, x2 * f2
        gradients = {
            "0.weight": conv2d_weight(x0, s["0.weight"].shape, up1),
            "0.bias": up1.sum((0, 2, 3)),
            "2.weight": conv2d_weight(below2, s["2.weight"].shape, up2),
            "2.bias": up2.sum((0, 2, 3)),
            "5.weight": x3.T @ below5,
            "5.bias": x3.sum(0),
        }
        d |= {name: -g / TAU_W for name, g in gradients.items()}
        if rule.feedback == "learned":
            for block in ("0", "2", "5"):
                d[f"psi{block}"] = -gradients[f"{block}.weight"].flatten(1).T / TAU_PSI
        return d

    return rate, {"x1": a1.tanh(), "x2": a2.tanh(), "x3": output}


def by_scipy(rate: Callable[[State], State], start: State) -> list[State]:
    """The state at each time."""
    shapes = {name: x.shape for name, x in start.items()}

    def unpacked(y: object) -> State:
        pieces = torch.as_tensor(y).split([x.numel() for x in start.values()])
        return {n: p.reshape(shapes[n]) for n, p in zip(shapes, pieces, strict=True)}

    def packed(state: State) -> Tensor:
        return torch.cat([state[name].flatten() for name in shapes])

    solved = solve_ivp(
        lambda t, y: packed(rate(unpacked(y))),
        (0, TIMES[-1]),
        packed(start),
        method="DOP853",
        t_eval=TIMES,
        rtol=1e-11,
        atol=1e-13,
    )
    return [unpacked(np.ascontiguousarray(y)) for y in solved.y.T]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.feedback} {r.relaxation_derivative}")
@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [
        (Adaptive("dopri5", 1e-10, 1e-12), 1e-8),
        # Its steps are long, and recorded times between them interpolated to a lower order.
        (Adaptive("dopri8", 1e-10, 1e-12), 1e-6),
        (ardyn.Fixed("explicit_adams", 0.01), 1e-4),
        (Adaptive("scipy_solver", 1e-10, 1e-12), 1e-8),
    ],
    ids=["dopri5", "dopri8", "explicit_adams", "scipy_solver"],
)
def test_weights_and_feedback_weights_of_convolutions_move_as_scipy_says(rule, solver, tolerance):
    model = network()
    x, t = torch.rand(3, 2, 5, 5, generator=generator(1)), torch.rand(3, 4, generator=generator(2))
    x, t = x.double(), t.double()
    learns = rule.feedback == "learned"
    psi = ardyn.random_feedback(model, std=0.3, generator=generator(3)) if learns else None
    sim = ardyn.Relaxation(
        model, x, t, rule=rule, tau=TAU_X, feedback=psi,
        plasticity=Plasticity(TAU_W, TAU_PSI if learns else float("inf")),
    )  # fmt: skip
    found = sim.solve(TIMES, solver, weights_every=1)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    rate, x_start = right_hand_side(rule, start, x, t)
    start |= {f"psi{block}": each for block, each in (psi or {}).items()}
    truth = by_scipy(rate, x_start | start)
    learned = found.learned
    assert learned is not None
    for i, state in enumerate(truth):
        assert_same(
            {n: W[i] for n, W in learned.weights.items()},
            {n: state[n] for n in learned.weights},
            tolerance,
        )
        moved = {block: each[i] for block, each in learned.feedback.items()}
        assert_same(moved, {block: state[f"psi{block}"] for block in moved}, tolerance)
        assert_same(
            {u: found[u][i].reshape(3, -1) for u in found.units},
            {u: state[f"x{k}"].reshape(3, -1) for k, u in enumerate(found.units, 1)},
            tolerance,
        )
    assert len(learned.feedback) == (3 if learns else 0)
