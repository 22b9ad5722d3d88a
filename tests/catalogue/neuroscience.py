"""Modules such as computational neuroscience writes."""

# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,misc,override"

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.catalogue.entries import Group, normal, positive

NEUROSCIENCE = Group("neuroscience")
GROUPS = (NEUROSCIENCE,)
IMAGE = normal((2, 3, 8, 8))


class Surrogate(torch.autograd.Function):
    """Spikes; the derivative is that of a fast sigmoid."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return gradient / (1 + 10 * v.abs()).square()


def spike(v: Tensor) -> Tensor:
    return Surrogate.apply(v)


class RecurrentArea(nn.Module):
    """One area of CORnet-S: its bottleneck applied several times, a norm for each time."""

    def __init__(self, below: int, above: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.enter = nn.Conv2d(below, above, 1, bias=False)
        self.skip = nn.Conv2d(above, above, 1, stride=2, bias=False)
        self.conv1 = nn.Conv2d(above, 2 * above, 1, bias=False)
        self.conv2 = nn.Conv2d(2 * above, 2 * above, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(2 * above, above, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        for t in range(times):
            setattr(self, f"norm{t}", nn.BatchNorm2d(above))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for t in range(self.times):
            skip = self.skip(x) if t == 0 else x
            self.conv2.stride = (2, 2) if t == 0 else (1, 1)
            x = self.relu(self.conv1(x))
            x = getattr(self, f"norm{t}")(self.conv3(self.relu(self.conv2(x))))
            x += skip
            x = self.relu(x)
        return x


@NEUROSCIENCE(IMAGE, train=True)
class CorNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.V1 = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        )
        self.V2, self.V4 = RecurrentArea(4, 4, 2), RecurrentArea(4, 5, 3)
        self.decode = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.V4(self.V2(self.V1(x))).mean((2, 3)))


@NEUROSCIENCE(IMAGE)
class LateralAndTopDown(nn.Module):
    """All areas at once in each time step, with lateral and top-down connections."""

    def __init__(self) -> None:
        super().__init__()
        self.up1, self.up2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.lateral1, self.lateral2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.down, self.out = nn.ConvTranspose2d(5, 4, 2, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        h1, h2, outs = x.new_zeros(2, 4, 8, 8), x.new_zeros(2, 5, 4, 4), []
        for _ in range(3):
            below = functional.max_pool2d(h1, 2)
            h1, h2 = (
                torch.relu(self.up1(x) + self.lateral1(h1) + self.down(h2)),
                torch.relu(self.up2(below) + self.lateral2(h2)),
            )
            outs.append(self.out(h2.mean((2, 3))))
        return outs


@NEUROSCIENCE(normal((3, 6, 2)))
class DaleRateNetwork(nn.Module):
    """A rate network of excitatory and inhibitory neurons, with its rates over time."""

    sign: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.into = nn.Parameter(0.3 * torch.randn(6, 6)), nn.Linear(2, 6)
        self.out, self.log_tau = nn.Linear(4, 1), nn.Parameter(torch.zeros(6))
        self.register_buffer("sign", torch.tensor([1.0] * 4 + [-1.0] * 2))
        self.register_buffer("mask", 1 - torch.eye(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        W = self.raw.abs() * self.mask * self.sign
        alpha = 0.2 * torch.exp(-self.log_tau)
        v, rates = x.new_zeros(x.shape[0], 6), []
        for x_t in x.unbind(1):
            v = (1 - alpha) * v + alpha * (functional.softplus(v) @ W.T + self.into(x_t))
            rates.append(functional.softplus(v))
        r = torch.stack(rates, 1)
        return self.out(r[..., :4]), r


@NEUROSCIENCE(normal((3, 6, 2)), train=True)
class NoisyRateNetwork(nn.Module):
    """Private noise in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.rec, self.into, self.out = (
            nn.Linear(5, 5),
            nn.Linear(2, 5, bias=False),
            nn.Linear(5, 1),
        )
        self.start = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        h, outs = self.start.expand(x.shape[0], -1), []
        for t in range(x.shape[1]):
            h = 0.8 * h + 0.2 * (self.rec(h.tanh()) + self.into(x[:, t]))
            h = h + 0.05 * torch.randn_like(h)
            outs.append(self.out(h))
        return torch.stack(outs, 1)


@NEUROSCIENCE(normal((3, 6, 4)))
class LeakyIntegrateAndFire(nn.Module):
    """Two layers of spiking neurons with a surrogate gradient and a detached reset."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.rec = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 6, bias=False)
        self.beta = nn.Parameter(torch.tensor(0.8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, s, u = x.new_zeros(3, 6), x.new_zeros(3, 6), x.new_zeros(3, 2)
        spikes, potentials = [], []
        for t in range(x.shape[1]):
            v = self.beta.clamp(0, 1) * v * (1 - s.detach()) + 2 * self.a(x[:, t]) + self.rec(s)
            s = spike(v - 1)
            u = 0.9 * u + self.b(s)
            spikes.append(s)
            potentials.append(u)
        return torch.stack(potentials, 1), torch.stack(spikes, 1)


@NEUROSCIENCE(normal((3, 6, 4)))
class AdaptiveThresholdNeurons(nn.Module):
    """LSNN: a threshold that follows the neuron's own spikes; state on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.rec, self.out = (
            nn.Linear(4, 5),
            nn.Linear(5, 5, bias=False),
            nn.Linear(5, 2),
        )

    def reset(self, x: Tensor) -> None:
        self.v, self.z, self.a = (x.new_zeros(x.shape[0], 5) for _ in range(3))

    def step(self, x: Tensor) -> Tensor:
        self.a = 0.9 * self.a + self.z
        self.v = 0.8 * self.v + 2 * self.into(x) + self.rec(self.z) - self.z * (1 + 0.3 * self.a)
        self.z = spike(self.v - 1 - 0.3 * self.a)
        return self.z

    def forward(self, x: Tensor) -> Tensor:
        self.reset(x)
        return self.out(torch.stack([self.step(x_t) for x_t in x.unbind(1)], 1).mean(1))


@NEUROSCIENCE(IMAGE)
class DivisiveNormalisation(nn.Module):
    """Responses divided by a learned pool of their neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.Parameter(torch.rand(4, 4))
        self.sigma, self.n = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.tensor(2.0))
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        drive = self.conv(x).abs().pow(self.n)
        around = torch.einsum(
            "oc,bchw->bohw", self.pool.abs(), functional.avg_pool2d(drive, 3, 1, 1)
        )
        r = drive / (self.sigma.abs().pow(self.n) + around)
        return self.out(r.mean((2, 3)))


@NEUROSCIENCE(normal((3, 6)))
class DendriticUnits(nn.Module):
    """Branches saturate each alone; the soma sums what they send."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.Parameter(torch.randn(5, 3, 2))
        self.strength, self.out = nn.Parameter(torch.randn(5, 3)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        local = torch.einsum("bks,nks->bnk", x.unflatten(-1, (3, 2)), self.branches)
        soma = (torch.sigmoid(4 * local) * self.strength).sum(-1)
        return self.out(functional.softplus(soma))


@NEUROSCIENCE(normal((3, 4), (3, 4)))
class ApicalModulation(nn.Module):
    """Pyramidal cells: apical input changes the gain of basal input, through a soft threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.basal, self.apical, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)
        self.theta = nn.Parameter(torch.full((5,), 0.2))

    def forward(self, below: Tensor, context: Tensor) -> Tensor:
        plateau = torch.sigmoid(5 * (self.apical(context) - self.theta))
        return self.out(torch.relu(self.basal(below)) * (1 + plateau))


@NEUROSCIENCE(normal((4, 6)))
class WinnerTakeAll(nn.Module):
    """The two most active of each sample stay, the rest is silenced."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        threshold = h.topk(2, -1).values[:, -1:]
        return self.b(h * (h >= threshold))


@NEUROSCIENCE(normal((4, 6)))
class SoftWinnerTakeAll(nn.Module):
    """Lateral inhibition over some steps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.inhibit = nn.Linear(6, 5), nn.Parameter(torch.rand(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        drive = self.a(x)
        r = torch.zeros_like(drive)
        for _ in range(6):
            r = r + 0.3 * (-r + torch.relu(drive - r @ (self.inhibit.abs() * (1 - torch.eye(5)))))
        return r


@NEUROSCIENCE(normal((3, 6)))
class PredictiveCoding(nn.Module):
    """Each level predicts the one below; errors move the representations for some steps."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList([nn.Linear(6, 5), nn.Linear(5, 4)])
        self.down = nn.ModuleList([nn.Linear(5, 6), nn.Linear(4, 5)])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        r1 = torch.tanh(self.up[0](x))
        r2 = torch.tanh(self.up[1](r1))
        errors: list[Tensor] = []
        for _ in range(3):
            e0, e1 = x - self.down[0](r1), r1 - self.down[1](r2)
            r1 = r1 + 0.1 * (self.up[0](e0) - e1)
            r2 = r2 + 0.1 * self.up[1](e1)
            errors = [e0.square().mean(-1), e1.square().mean(-1)]
        return r2, errors


@NEUROSCIENCE(normal((3, 6)))
class PredictiveCodingByGradients(nn.Module):
    """Inference is descent on an energy, by autograd within forward."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.prior = nn.Linear(4, 6), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.prior.expand(x.shape[0], -1)
        for _ in range(3):
            energy = (x - torch.tanh(self.down(z))).square().sum() + (z - self.prior).square().sum()
            (slope,) = torch.autograd.grad(energy, z, create_graph=True)
            z = z - 0.1 * slope
        return z


@NEUROSCIENCE(normal((3, 6)))
class SparseCoding(nn.Module):
    """LISTA: unrolled shrinkage with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.D, self.threshold = (
            nn.Parameter(torch.randn(6, 8) / 3),
            nn.Parameter(torch.full((8,), 0.1)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x.new_zeros(x.shape[0], 8)
        for _ in range(4):
            z = z - 0.2 * (z @ self.D.T - x) @ self.D
            z = z.sign() * torch.relu(z.abs() - self.threshold)
        return z, z @ self.D.T


@NEUROSCIENCE(normal((3, 4)))
class LeakyOde(nn.Module):
    """τ dx/dt = −x + W φ(x) + I, by Euler's and Heun's steps, τ learned."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.I = nn.Linear(5, 5), nn.Linear(4, 5)
        self.log_tau = nn.Parameter(torch.randn(5) / 3)

    def rate(self, x: Tensor, drive: Tensor) -> Tensor:
        return (-x + self.W(torch.tanh(x)) + drive) * torch.exp(-self.log_tau)

    def forward(self, inputs: Tensor) -> Tensor:
        drive, dt = self.I(inputs), 0.2
        x = torch.zeros_like(drive)
        for _ in range(4):
            k = self.rate(x, drive)
            x = x + dt / 2 * (k + self.rate(x + dt * k, drive))
        return x


@NEUROSCIENCE(normal((3, 4)))
class EquilibriumOfRates(nn.Module):
    """A deep equilibrium model: rates iterated to their fixed point, and damped."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.I, self.read = nn.Linear(6, 6, bias=False), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        drive = self.I(x)
        r = torch.zeros_like(drive)
        for _ in range(15):
            r = 0.5 * r + 0.5 * torch.tanh(0.5 * self.W(r) + drive)
        return self.read(r)


@NEUROSCIENCE(normal((3, 5, 4)))
class FastHebbianWeights(nn.Module):
    """Fast weights that each step's activity changes, with a learned plasticity."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.slow = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4) / 3)
        self.alpha, self.eta = nn.Parameter(torch.randn(4, 4) / 3), nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor) -> Tensor:
        h, trace = x.new_zeros(3, 4), x.new_zeros(3, 4, 4)
        for t in range(5):
            W = self.slow + self.alpha * trace
            new = torch.tanh(self.into(x[:, t]) + torch.bmm(h.unsqueeze(1), W).squeeze(1))
            trace = (1 - self.eta) * trace + self.eta * torch.bmm(h.unsqueeze(2), new.unsqueeze(1))
            h = new
        return h


@NEUROSCIENCE(normal((3, 5, 4)))
class ShortTermSynapticPlasticity(nn.Module):
    """Depression and facilitation of each synapse (Tsodyks and Markram), written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.into = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        r = torch.sigmoid(self.into(x[:, 0]))
        u, d = torch.full_like(r, 0.3), torch.ones_like(r)
        for t in range(1, 5):
            u = u + 0.1 * (0.3 - u) + 0.2 * (1 - u) * r
            d = (d + 0.1 * (1 - d) - u * d * r).clamp(0, 1)
            r = torch.sigmoid(self.W(u * d * r) + self.into(x[:, t]))
        return r


@NEUROSCIENCE(positive((3, 8)))
class GridAndPlaceCells(nn.Module):
    """Place cells by Gaussian tuning, a path integrator by rotations of phases."""

    centres: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.log_width, self.frequency = (
            nn.Parameter(torch.zeros(5)),
            nn.Parameter(torch.randn(4, 2)),
        )
        self.read = nn.Linear(5 + 8, 2)
        self.register_buffer("centres", torch.rand(5, 2))

    def forward(self, moves: Tensor) -> Tensor:
        place = moves.unflatten(-1, (4, 2)).cumsum(1)[:, -1]
        distance = torch.cdist(place, self.centres).square()
        tuned = torch.exp(-distance * self.log_width.exp())
        phase = torch.polar(torch.ones(3, 4), place @ self.frequency.T)
        return self.read(torch.cat([tuned, phase.real, phase.imag], -1))
