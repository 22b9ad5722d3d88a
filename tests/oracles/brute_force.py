"""The relaxation of a chain in plain numpy loops, written from the paper and not from ardyn."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.stats import norm

from ardyn import Rule
from tests.oracles.problems import Problem, array

Array = NDArray[np.float64]
Layers = dict[int, Array]
"""An array per unit, 1 … L."""

FUNCTIONS: dict[str, Any] = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "gelu": lambda a: a * norm.cdf(a),
    "identity": lambda a: a,
}
SLOPES: dict[str, Any] = {
    "tanh": lambda a: 1 / np.cosh(a) ** 2,
    "relu": lambda a: (a > 0).astype(float),
    "sigmoid": lambda a: np.exp(-a) / (1 + np.exp(-a)) ** 2,
    "gelu": lambda a: norm.cdf(a) + a * norm.pdf(a),
    "identity": np.ones_like,
}
DRIVES: dict[str, Any] = {
    "sse": lambda x, t: 2 * (x - t),
    "mse": lambda x, t: 2 * (x - t) / t.shape[1],
    "cross_entropy": lambda x, t: (
        np.exp(x) / np.exp(x).sum(1, keepdims=True) - np.eye(x.shape[1])[t]
    ),
    "log_cosh": lambda x, t: np.tanh(x - t),
}


class Chain:
    """Eq. 1 and 2 of the paper on a chain of fully connected layers, under a Rule."""

    def __init__(
        self,
        problem: Problem,
        rule: Rule | None = None,
        tau: float | Sequence[float] = 1.0,
        feedback: Mapping[str, Any] | None = None,
        tau_trace: float = np.inf,
    ) -> None:
        self.rule, self.tau_trace = rule or Rule(), tau_trace
        self.names = ["input", *problem.units]
        self.W = [layer.weight.detach().cpu().numpy() for layer in problem.layers]
        self.b = [layer.bias.detach().cpu().numpy() for layer in problem.layers]
        self.L = len(self.W)
        self.f = [problem.activation] * (self.L - 1) + ["identity"]
        self.back = [
            W if self.rule.feedback == "transpose" else array((feedback or {})[name]).T
            for W, name in zip(self.W, problem.units, strict=True)
        ]
        self.forward = [problem.inputs.cpu().numpy()]
        self.a = []
        for W, b, f in zip(self.W, self.b, self.f, strict=True):
            self.a.append(self.forward[-1] @ W.T + b)
            self.forward.append(FUNCTIONS[f](self.a[-1]))
        self.drive = DRIVES[problem.loss](self.forward[-1], problem.targets.cpu().numpy())
        self.relaxing = range(1, self.L + (self.rule.output == "relaxed"))
        given = [tau] * len(self.relaxing) if isinstance(tau, (int, float)) else tau
        self.tau = dict(zip(self.relaxing, given, strict=True))

    def start(self) -> Layers:
        """x(0)."""
        zero = self.rule.initial == "zero"
        return {
            i: np.zeros_like(self.forward[i]) if zero else self.forward[i].copy()
            for i in self.relaxing
        }

    def slope(self, choice: str, i: int, x: Layers) -> Any:
        """f′ of the block from unit i to unit i + 1."""
        if choice == "frozen":
            return SLOPES[self.f[i]](self.a[i])
        if choice == "current":
            return SLOPES[self.f[i]](x[i] @ self.W[i].T + self.b[i])
        if choice == "postsynaptic":
            return SLOPES[self.f[i]](x[i + 1])
        return 1.0

    def whole(self, x: Layers) -> Layers:
        """With the input, and the output where it is clamped."""
        return {0: self.forward[0], self.L: self.drive} | x

    def target(self, i: int, x: Layers) -> Array:
        """What unit i decays to: pull(x above), or g^L."""
        if i == self.L:
            return np.asarray(self.drive)
        slope = self.slope(self.rule.relaxation_derivative, i, x)
        return np.asarray((x[i + 1] * slope) @ self.back[i])

    def rate(self, x: Layers) -> Layers:
        """dx/dt, every unit at once."""
        full = self.whole(x)
        return {i: (self.target(i, full) - x[i]) / self.tau[i] for i in self.relaxing}

    def euler(self, steps: int, h: float) -> Layers:
        """Algorithm 1 of the paper."""
        x = self.start()
        for _ in range(steps):
            dx = self.rate(x)
            x = {i: x[i] + h * dx[i] for i in x}
        return x

    def sweep(self, steps: int, h: float) -> Layers:
        """The authors' loop: from the top, in place."""
        x = self.start()
        for _ in range(steps):
            for i in reversed(self.relaxing):
                x[i] = x[i] + h / self.tau[i] * (self.target(i, self.whole(x)) - x[i])
        return x

    def integrate(self, times: Sequence[float]) -> tuple[dict[str, Array], dict[str, Array]]:
        """x and its trace z at these times, by scipy."""
        hidden = range(1, self.L)
        shapes = [self.forward[i].shape for i in self.relaxing]
        shapes += [self.forward[i].shape for i in hidden]
        cuts = np.cumsum([np.prod(s) for s in shapes])[:-1]

        def unpack(y: Array) -> tuple[Layers, Layers]:
            parts = [p.reshape(s) for p, s in zip(np.split(y, cuts), shapes, strict=True)]
            n = len(self.relaxing)
            x = dict(zip(self.relaxing, parts[:n], strict=True))
            return x, dict(zip(hidden, parts[n:], strict=True))

        def rhs(t: float, y: Array) -> Array:
            x, z = unpack(y)
            dz = {i: (x[i] - z[i]) / self.tau_trace for i in hidden}
            return np.concatenate([d.ravel() for d in (*self.rate(x).values(), *dz.values())])

        y0 = np.concatenate(
            [v.ravel() for v in (*self.start().values(), *(self.forward[i] for i in hidden))]
        )
        method = "LSODA" if self.tau_trace < 0.1 else "DOP853"
        found = solve_ivp(rhs, (0, times[-1]), y0, method, t_eval=times, rtol=1e-11, atol=1e-13)
        at = [unpack(y) for y in found.y.T]
        x = {self.names[i]: np.stack([each[0][i] for each in at]) for i in self.relaxing}
        z = {self.names[i]: np.stack([each[1][i] for each in at]) for i in hidden}
        if self.rule.output == "clamped":
            x[self.names[self.L]] = np.stack([self.drive] * len(times))
        return x, z

    def coupled(
        self,
        times: Sequence[float],
        tau_W: float,
        tau_psi: float = np.inf,
        decays: tuple[float, float] = (0.0, 0.0),
        window: tuple[float, float] = (0.0, np.inf),
        share: float = 1.0,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """x and z by unit, and W, b and ψ by name, at these times, as one ODE, by scipy.

        ψ are named after their blocks, and weights after their parameters.
        """
        hidden, learned = range(1, self.L), self.rule.feedback == "learned"
        z = {i: self.forward[i] for i in hidden}
        y = [*self.start().values(), *z.values(), *self.W, *self.b, *self.back]
        shapes, n, m = [each.shape for each in y], len(self.relaxing), self.L - 1
        cuts = np.cumsum([each.size for each in y])[:-1]

        def unpack(flat: Array) -> tuple[Layers, Layers]:
            parts = [p.reshape(s) for p, s in zip(np.split(flat, cuts), shapes, strict=True)]
            slow = parts[n + m :]
            self.W, self.b = slow[: self.L], slow[self.L : 2 * self.L]
            self.back = self.W if self.rule.feedback == "transpose" else slow[2 * self.L :]
            x = dict(zip(self.relaxing, parts[:n], strict=True))
            return x, dict(zip(hidden, parts[n : n + m], strict=True))

        def rhs(t: float, flat: Array) -> Array:
            x, z = unpack(flat)
            dz = [(x[i] - z[i]) / self.tau_trace for i in hidden]
            slow = [np.zeros_like(each) for each in (*self.W, *self.b, *self.back)]
            if is_moving:
                g = self.update(x, z)
                for i, name in enumerate(self.names[1:]):
                    gW, gb = share * g[f"{name}.weight"], share * g[f"{name}.bias"]
                    slow[i] = -(gW + decays[0] * self.W[i]) / tau_W
                    slow[self.L + i] = -(gb + decays[0] * self.b[i]) / tau_W
                    if learned:  # ``back`` is ψᵀ
                        slow[2 * self.L + i] = -(gW + decays[1] * self.back[i]) / tau_psi
            rates = (*self.rate(x).values(), *dz, *slow)
            return np.concatenate([each.ravel() for each in rates])

        flat = np.concatenate([np.ravel(each) for each in y])
        edges = [0.0, *(e for e in window if 0 < e < times[-1]), times[-1]]
        found: dict[str, list[Array]] = {}
        for start, end in itertools.pairwise(edges):
            is_moving = window[0] <= start < window[1]
            inside = [t for t in times if start < t <= end]
            at = sorted({*inside, end})
            steps = solve_ivp(rhs, (start, end), flat, "DOP853", t_eval=at, rtol=1e-11, atol=1e-13)
            for t, column in zip(at, steps.y.T, strict=True):
                if t in inside:
                    x, z = unpack(column)
                    for i in self.relaxing:
                        found.setdefault(self.names[i], []).append(x[i])
                    for i in hidden:
                        found.setdefault(f"z of {self.names[i]}", []).append(z[i])
                    for i, name in enumerate(self.names[1:]):
                        found.setdefault(f"{name}.weight", []).append(self.W[i])
                        found.setdefault(f"{name}.bias", []).append(self.b[i])
                        found.setdefault(f"ψ of {name}", []).append(self.back[i].T)
            flat = steps.y[:, -1]
        fast = {k: np.stack(v) for k, v in found.items() if "." not in k and "ψ" not in k}
        return fast, {k: np.stack(v) for k, v in found.items() if k not in fast}

    def coupled_sweeps(
        self, steps: int, h: float, tau_W: float, tau_psi: float, share: float
    ) -> tuple[Layers, dict[str, Array]]:
        """x, and W, b and ψ by name, after sweeps, each followed by a step of the weights."""
        x, z = self.start(), {i: self.forward[i] for i in range(1, self.L)}
        transposed = self.rule.feedback == "transpose"
        for _ in range(steps):
            for i in reversed(self.relaxing):
                x[i] = x[i] + h / self.tau[i] * (self.target(i, self.whole(x)) - x[i])
            z = {i: z[i] + h / self.tau_trace * (x[i] - z[i]) for i in z}
            g = self.update(x, z)
            for i, name in enumerate(self.names[1:]):
                self.W[i] = self.W[i] - h / tau_W * share * g[f"{name}.weight"]
                self.b[i] = self.b[i] - h / tau_W * share * g[f"{name}.bias"]
                if self.rule.feedback == "learned":
                    self.back[i] = self.back[i] - h / tau_psi * share * g[f"{name}.weight"]
            if transposed:
                self.back = self.W
        slow = {f"{name}.weight": W for name, W in zip(self.names[1:], self.W, strict=True)}
        slow |= {f"{name}.bias": b for name, b in zip(self.names[1:], self.b, strict=True)}
        return x, slow | {name: p.T for name, p in zip(self.names[1:], self.back, strict=True)}

    def update(self, x: Layers, z: Layers) -> dict[str, Array]:
        """Eq. 2, one sample at a time; the gradient, so that weights descend along it."""
        x = self.whole(x)
        below = {
            "frozen": dict(enumerate(self.forward)),
            "current": x,
            "trace": {0: self.forward[0]} | z,
        }[self.rule.update_activity]
        gradients = {}
        for i in range(self.L):
            slope = np.broadcast_to(self.slope(self.rule.update_derivative, i, x), x[i + 1].shape)
            W, b = np.zeros_like(self.W[i]), np.zeros_like(self.b[i])
            for s in range(len(x[i + 1])):
                v = x[i + 1][s] * slope[s]
                W += np.outer(v, below[i][s])
                b += v
            gradients[f"{self.names[i + 1]}.weight"] = W
            gradients[f"{self.names[i + 1]}.bias"] = b
        return gradients

    def named(self, x: Layers) -> dict[str, Array]:
        """By unit name, the clamped output included."""
        full = self.whole(x)
        return {self.names[i]: full[i] for i in range(1, self.L + 1)}
