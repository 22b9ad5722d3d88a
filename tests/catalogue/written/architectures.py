"""Modules as users write them: whole architectures, small."""

# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,misc,override"

import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.catalogue.entries import Group, normal, tokens

ARCHITECTURES = Group("written: architectures")
IMAGE = normal((2, 3, 8, 8))
SEQUENCE = normal((2, 5, 4))


@ARCHITECTURES(IMAGE, train=True)
class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn0(self.stem(x)))
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.fc(self.relu(y).mean((2, 3)))


@ARCHITECTURES(IMAGE)
class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 2 * i, 2, 3, padding=1) for i in range(3))
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)).relu())
        return self.out(torch.cat(features, 1))


@ARCHITECTURES(IMAGE)
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)])
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.up = nn.ModuleList([nn.ConvTranspose2d(6, 6, 2, 2), nn.ConvTranspose2d(12, 4, 2, 2)])
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for conv in self.down:
            x = functional.relu(conv(x))
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.middle(x).relu()
        for up in self.up:
            x = torch.cat([up(x), skips.pop()], 1)
        return self.out(x)


@ARCHITECTURES(IMAGE)
class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        gate = self.excite(self.squeeze(h.mean((2, 3))).relu()).sigmoid()
        return self.out(h * gate[..., None, None])


@ARCHITECTURES(IMAGE)
class InvertedResidual(nn.Module):
    """Depthwise and pointwise convolutions, as in MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.project = nn.Conv2d(3, 6, 1, bias=False), nn.Conv2d(6, 3, 1, bias=False)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(3)])

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu6(self.norms[0](self.expand(x)))
        h = functional.hardswish(self.norms[1](self.depth(h)))
        return x + self.norms[2](self.project(h))


@ARCHITECTURES(IMAGE)
class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 3, padding=1)
        self.five = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(True), nn.Conv2d(2, 2, 5, padding=2))
        self.pooled, self.fc = nn.Conv2d(3, 1, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(functional.max_pool2d(x, 3, 1, 1))
        h = torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1)
        return self.fc(functional.adaptive_avg_pool2d(h.relu_(), 1).flatten(1))


@ARCHITECTURES(SEQUENCE)
class GatedLinearUnits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.value = (
            nn.Conv1d(4, 12, 3, padding=1),
            nn.Linear(6, 5),
            nn.Linear(6, 5),
        )
        self.out = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.glu(self.conv(x.mT), 1).mT
        return self.out(functional.silu(self.gate(h)) * self.value(h))


@ARCHITECTURES(normal((3, 4)))
class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate in zip(self.layers, self.gates, strict=True):
            t = torch.sigmoid(gate(x))
            x = t * torch.relu(layer(x)) + (1 - t) * x
        return x


class _Residuals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.out = nn.ModuleList(nn.Linear(4, 4) for _ in range(5)), nn.Linear(4, 2)

    def draw(self) -> float:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.training and self.draw() < 0.4:
                continue
            x = x + torch.tanh(layer(x))
        return self.out(x)


@ARCHITECTURES(normal((3, 4)), train=True)
class StochasticDepthByTorch(_Residuals):
    def draw(self) -> float:
        return torch.rand(1).item()


@ARCHITECTURES(normal((3, 4)), train=True)
class StochasticDepthByPython(_Residuals):
    def draw(self) -> float:
        return random.random()


@ARCHITECTURES(normal((3, 4)), train=True)
class StochasticDepthByNumpy(_Residuals):
    def draw(self) -> float:
        return float(np.random.rand())  # noqa: NPY002


@ARCHITECTURES(normal((5, 4)), train=True)
class DropPath(nn.Module):
    """Whole samples are dropped from a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        keep = x.new_empty(x.shape[0], 1).bernoulli_(0.6)
        return self.b(x + torch.relu(self.a(x)) * keep / 0.6)


@ARCHITECTURES(normal((5, 4)), train=True)
class NoisyLayer(nn.Module):
    """Weights with learned noise, as for exploration."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.rand(3, 4))
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        W = self.mean + self.scale * torch.randn_like(self.mean)
        return self.out(functional.linear(x, W).relu())


@ARCHITECTURES(normal((6, 4)), name="SoftMixtureOfExperts")
class SoftMixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts, self.gate = nn.ModuleList(nn.Linear(4, 3) for _ in range(3)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.stack([expert(x).relu() for expert in self.experts], -1)
        return (found * self.gate(x).softmax(-1).unsqueeze(1)).sum(-1)


@ARCHITECTURES(normal((6, 4)))
class RoutedMixtureOfExperts(nn.Module):
    """Each sample goes to its best two experts; index_add_ puts them together."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.gate, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.below(x).tanh()
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows, slot = torch.where(chosen == i)
            if len(rows):
                out.index_add_(0, rows, weights[rows, slot, None] * expert(x[rows]))
        return self.out(out)


@ARCHITECTURES(normal((6, 4)))
class ExpertsByMask(nn.Module):
    """Each expert writes the rows that are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 3), nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).softmax(-1)
        best, choice = scores.max(-1)
        out = x.new_zeros(x.shape[0], 2)
        for i, expert in enumerate(self.experts):
            mask = choice == i
            out[mask] = expert(x[mask]) * best[mask].unsqueeze(-1)
        return out


@ARCHITECTURES(SEQUENCE)
class AttentionByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12, bias=False), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 2, 2).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(2)
        scores = scores.masked_fill(torch.ones(t, t).tril() == 0, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, 4))


@ARCHITECTURES(SEQUENCE)
class RotaryAttention(nn.Module):
    cosine: Tensor
    sine: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        angle = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1]))
        self.register_buffer("cosine", angle.cos())
        self.register_buffer("sine", angle.sin())

    def turn(self, x: Tensor) -> Tensor:
        a, b = x[..., ::2], x[..., 1::2]
        turned = [a * self.cosine - b * self.sine, a * self.sine + b * self.cosine]
        return torch.stack(turned, -1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(
            self.turn(q)[:, None], self.turn(k)[:, None], v[:, None], is_causal=True
        )
        return self.out(mixed[:, 0])


@ARCHITECTURES(SEQUENCE)
class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = functional.elu(self.q(x)) + 1, functional.elu(self.k(x)) + 1, self.v(x)
        state = torch.einsum("btd,bte->btde", k, v).cumsum(1)
        norm = torch.einsum("btd,btd->bt", q, k.cumsum(1)).unsqueeze(-1)
        return torch.einsum("btd,btde->bte", q, state) / norm


@ARCHITECTURES(tokens(7, 2, 5))
class TinyGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(7, 8), nn.Parameter(torch.randn(1, 5, 8))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(8),
                    "attend": nn.MultiheadAttention(8, 2, batch_first=True),
                    "norm2": nn.LayerNorm(8),
                    "mlp": nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)),
                }
            )
            for _ in range(2)
        )
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.position
        mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=x.dtype)
        for block in self.blocks:
            h = block["norm1"](x)
            x = x + block["attend"](h, h, h, attn_mask=mask, need_weights=False)[0]
            x = x + block["mlp"](block["norm2"](x))
        return self.head(x)


@ARCHITECTURES(IMAGE)
class TinyViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.encoder(x)[:, 0])


@ARCHITECTURES(SEQUENCE)
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.tokens = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 5))
        self.channels = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


@ARCHITECTURES(SEQUENCE)
class GMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(4, 4)
        self.gate_norm, self.spatial = nn.LayerNorm(4), nn.Conv1d(5, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v = functional.gelu(self.up(self.norm(x))).chunk(2, -1)
        return x + self.down(u * self.spatial(self.gate_norm(v)))


@ARCHITECTURES(normal((2, 6, 4)))
class SetTransformer(nn.Module):
    """Induced set attention, then pooling by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.seed = (
            nn.Parameter(torch.randn(1, 3, 4)),
            nn.Parameter(torch.randn(1, 1, 4)),
        )
        self.gather, self.spread = (nn.MultiheadAttention(4, 2, batch_first=True) for _ in range(2))
        self.pool, self.out = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        points = self.points.repeat(x.shape[0], 1, 1)
        h, _ = self.gather(points, x, x)
        x = x + self.spread(x, h, h)[0].relu()
        pooled, _ = self.pool(self.seed.expand(x.shape[0], -1, -1), x, x)
        return self.out(pooled.squeeze(1))


@ARCHITECTURES(normal((2, 6, 3)))
class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi, self.rho = nn.Linear(3, 5), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.phi(x).relu()
        return self.rho(torch.cat([h.sum(1), h.amax(1)], -1))


@ARCHITECTURES(SEQUENCE)
class LstmByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W, self.U, self.out = nn.Linear(4, 20), nn.Linear(5, 20, bias=False), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = c = x.new_zeros(x.shape[0], 5)
        states = []
        for x_t in x.unbind(1):
            i, f, g, o = (self.W(x_t) + self.U(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return self.out(torch.stack(states, 1)), c


@ARCHITECTURES(SEQUENCE)
class GruByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W = nn.ParameterDict({k: torch.randn(4, 5) / 2 for k in ("z", "r", "h")})
        self.U = nn.ParameterDict({k: torch.randn(5, 5) / 2 for k in ("z", "r", "h")})
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 5)
        for t in range(x.shape[1]):
            z = torch.sigmoid(x[:, t] @ self.W["z"] + h @ self.U["z"])
            r = torch.sigmoid(x[:, t] @ self.W["r"] + h @ self.U["r"])
            h = (1 - z) * h + z * torch.tanh(x[:, t] @ self.W["h"] + (r * h) @ self.U["h"])
        return self.out(h)


@ARCHITECTURES(SEQUENCE)
class StateSpaceScan(nn.Module):
    """A selective state-space model, scanned step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.log_A, self.D = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.ones(4))
        self.select, self.step = nn.Linear(4, 6), nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        B, C = self.select(x).chunk(2, -1)
        dt = functional.softplus(self.step(x))
        A = -torch.exp(self.log_A)
        state, ys = x.new_zeros(x.shape[0], 4, 3), []
        for t in range(x.shape[1]):
            decay = torch.exp(dt[:, t, :, None] * A)
            state = decay * state + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
            ys.append((state * C[:, t, None]).sum(-1))
        return self.out(torch.stack(ys, 1) + self.D * x)


@ARCHITECTURES(SEQUENCE)
class StateSpaceByConvolution(nn.Module):
    """A diagonal state-space model, complex, as a convolution by FFT."""

    def __init__(self) -> None:
        super().__init__()
        self.poles = nn.Parameter(torch.complex(-torch.rand(4, 3), torch.randn(4, 3)))
        self.C = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.arange(5, dtype=x.dtype)
        kernel = (self.C[..., None] * torch.exp(self.poles[..., None] * t)).sum(1).real
        spectrum = torch.fft.rfft(x.mT, n=10) * torch.fft.rfft(kernel, n=10)
        return self.out(functional.gelu(torch.fft.irfft(spectrum, n=10)[..., :5].mT))


@ARCHITECTURES(SEQUENCE)
class CausalConvolutions(nn.Module):
    """WaveNet's gated, dilated layers, with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=2**i) for i in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x, total = x.mT, 0.0
        for i, (layer, skip) in enumerate(zip(self.layers, self.skips, strict=True)):
            a, b = layer(functional.pad(x, (2**i, 0))).chunk(2, 1)
            z = skip(a.tanh() * b.sigmoid())
            x, total = x + z, total + z
        y: Tensor = torch.as_tensor(total)
        return y.mT


@ARCHITECTURES(normal((3, 4)))
class NeuralOde(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.out = (
            nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        dt = 0.1
        for step in range(10):
            t = torch.full_like(x[:, :1], step * dt)
            x = x + dt * self.f(torch.cat([x, t], -1))
        return self.out(x)


@ARCHITECTURES(normal((3, 4)))
class DeepEquilibrium(nn.Module):
    """A fixed number of iterations of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U, self.norm = nn.Linear(5, 5), nn.Linear(4, 5), nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        z, inject = torch.zeros(3, 5, dtype=x.dtype), self.U(x)
        for _ in range(12):
            z = self.norm(torch.tanh(0.5 * self.W(z) + inject))
        return z


@ARCHITECTURES(normal((3, 4)))
class EquilibriumWithoutMemory(nn.Module):
    """Iterates without gradients, then one step with them."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U, self.out = nn.Linear(5, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def step(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(0.5 * self.W(z) + self.U(x))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros(3, 5, dtype=x.dtype)
        with torch.no_grad():
            for _ in range(10):
                z = self.step(z, x)
        return self.out(self.step(z, x))


@ARCHITECTURES(normal((3, 6)))
class Hopfield(nn.Module):
    """Modern Hopfield retrieval from learned patterns."""

    def __init__(self) -> None:
        super().__init__()
        self.patterns, self.project = nn.Parameter(torch.randn(7, 4)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = self.project(x)
        for _ in range(3):
            state = (2.0 * state @ self.patterns.T).softmax(-1) @ self.patterns
        return state


@ARCHITECTURES(IMAGE)
class Capsules(nn.Module):
    """Routing by agreement, the coefficients of which are detached but in the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.W = nn.Parameter(torch.randn(8, 3, 5, 4) / 2)

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        size = x.square().sum(-1, keepdim=True)
        return x * size.sqrt() / (1 + size)

    def forward(self, x: Tensor) -> Tensor:
        u = self.squash(self.conv(x).flatten(2).transpose(1, 2).reshape(-1, 8, 4))
        votes = torch.einsum("bic,iodc->biod", u, self.W)
        logits = votes.new_zeros(votes.shape[:3])
        for step in range(3):
            used = votes if step == 2 else votes.detach()
            v = self.squash((logits.softmax(-1)[..., None] * used).sum(1))
            if step < 2:
                logits = logits + (used * v[:, None]).sum(-1)
        return v.norm(dim=-1)


@ARCHITECTURES(IMAGE)
class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.where, self.conv = nn.Linear(12, 6), nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        theta = self.where(pooled).view(-1, 2, 3) * 0.3 + torch.eye(2, 3)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        return self.conv(functional.grid_sample(x, grid, align_corners=False))


@ARCHITECTURES(IMAGE)
class DeformableSampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.offset, self.out = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 2, 3, padding=1),
            nn.Conv2d(4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).tanh()
        rows = torch.linspace(-1, 1, 8, dtype=x.dtype)
        base = torch.stack(torch.meshgrid(rows, rows, indexing="xy"), -1)
        grid = base + 0.1 * self.offset(h).permute(0, 2, 3, 1)
        return self.out(functional.grid_sample(h, grid, padding_mode="border", align_corners=True))


@ARCHITECTURES(normal((4, 4)))
class NormalisingFlow(nn.Module):
    """Affine couplings, with the log-determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(3)
        )
        self.W = nn.Parameter(torch.linalg.qr(torch.randn(4, 4))[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logdet = torch.linalg.slogdet(self.W)[1].expand(x.shape[0])
        x = x @ self.W
        for net in self.nets:
            a, b = x.chunk(2, -1)
            shift, scale = net(a).chunk(2, -1)
            scale = torch.tanh(scale)
            x = torch.cat([b * scale.exp() + shift, a], -1)
            logdet = logdet + scale.sum(-1)
        return x, logdet


@ARCHITECTURES(normal((4, 6)), train=True)
class VariationalAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.heads = nn.Linear(6, 8), nn.Linear(8, 6)
        self.decode = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.heads(self.encode(x).relu()).chunk(2, -1)
        z = mean
        if self.training:
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
        return {"image": torch.sigmoid(self.decode(z)), "kl": kl}


@ARCHITECTURES(normal((4, 6)), train=True)
class CategoricalAutoencoder(nn.Module):
    """Gumbel softmax, hard, with gradients straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(functional.gumbel_softmax(self.encode(x), tau=0.7, hard=True))


@ARCHITECTURES(normal((4, 6)), train=True)
class DenoisingDiffusion(nn.Module):
    """Draws times and noise, and returns what it makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.net = (
            nn.Embedding(10, 6),
            nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 6)),
        )

    def forward(self, x: Tensor) -> Tensor:
        t = torch.randint(0, 10, (x.shape[0],))
        noise = torch.randn_like(x)
        keep = torch.cos(t[:, None] / 10)
        noisy = keep.sqrt() * x + (1 - keep).sqrt() * noise
        return (self.net(noisy + self.time(t)) - noise).square().mean(-1)


@ARCHITECTURES(normal((4, 3)), train=True)
class LangevinEnergyModel(nn.Module):
    """Draws negative samples by noisy steps down its own energy."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 6), nn.SiLU(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        negative = torch.randn_like(x)
        for _ in range(3):
            negative = negative.detach().requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(self.energy(negative).sum(), negative)
            negative = negative - 0.1 * slope + 0.05 * torch.randn_like(x)
        return self.energy(x) - self.energy(negative.detach())


@ARCHITECTURES(normal((4, 3)))
class EnergyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.logsumexp(self.a(x), -1) - x @ self.b


@ARCHITECTURES(lambda: (torch.randint(9, (2, 4, 3)), torch.randint(9, (2, 3))))
class MemoryNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.store, self.read, self.ask = (nn.Embedding(9, 5) for _ in range(3))
        self.hop, self.out = nn.Linear(5, 5, bias=False), nn.Linear(5, 9)

    def forward(self, story: Tensor, question: Tensor) -> Tensor:
        u = self.ask(question).sum(1)
        for _ in range(2):
            p = (self.store(story).sum(2) @ u.unsqueeze(-1)).squeeze(-1).softmax(-1)
            u = self.hop(u) + (p.unsqueeze(-1) * self.read(story).sum(2)).sum(1)
        return self.out(u)


@ARCHITECTURES(SEQUENCE)
class NeuralTuringMachine(nn.Module):
    """A memory written on with erase and add, and read by content."""

    def __init__(self) -> None:
        super().__init__()
        self.control, self.head = nn.GRUCell(4 + 3, 5), nn.Linear(5, 3 + 3 + 3 + 1)
        self.memory, self.out = nn.Parameter(torch.randn(6, 3)), nn.Linear(5 + 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        memory, read, h = self.memory.repeat(n, 1, 1), x.new_zeros(n, 3), x.new_zeros(n, 5)
        outs = []
        for t in range(3):
            h = self.control(torch.cat([x[:, t], read], -1), h)
            key, erase, add, sharp = self.head(h).split([3, 3, 3, 1], -1)
            near = functional.cosine_similarity(memory, key[:, None], dim=-1)
            w = (functional.softplus(sharp) * near).softmax(-1)[..., None]
            memory = memory * (1 - w * erase.sigmoid()[:, None]) + w * add[:, None]
            read = (w * memory).sum(1)
            outs.append(self.out(torch.cat([h, read], -1)))
        return torch.stack(outs, 1)


@ARCHITECTURES(lambda: (torch.randint(7, (2, 4)), torch.randint(7, (2, 3))))
class SequenceToSequence(nn.Module):
    """An encoder, and a decoder that attends and is fed its own best guesses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Embedding(7, 4), nn.GRU(4, 5, batch_first=True)
        self.cell, self.out = nn.GRUCell(4 + 5, 5), nn.Linear(5, 7)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        keys, h = self.encoder(self.embed(source))
        h, token, logits = h[0], target[:, 0], []
        for _ in range(target.shape[1]):
            weights = torch.einsum("bd,btd->bt", h, keys).softmax(-1)
            context = torch.einsum("bt,btd->bd", weights, keys)
            h = self.cell(torch.cat([self.embed(token), context], -1), h)
            logits.append(self.out(h))
            token = logits[-1].argmax(-1)
        return torch.stack(logits, 1)


EDGES = torch.tensor([[0, 1, 2, 3, 3, 1, 4], [1, 2, 0, 2, 1, 4, 0]])


def _sparse_graph() -> tuple[Tensor, Tensor]:
    values = torch.rand(EDGES.shape[1])
    return torch.randn(5, 4), torch.sparse_coo_tensor(EDGES, values, (5, 5)).coalesce()


@ARCHITECTURES(_sparse_graph)
class SparseGraphConvolution(nn.Module):
    """The adjacency matrix is an input, sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = torch.sparse.mm(adjacency, self.a(x)).relu()
        return torch.sparse.mm(adjacency, self.b(h))


@ARCHITECTURES(normal((5, 4)))
class GraphOfABuffer(nn.Module):
    """The adjacency matrix is a buffer, sparse."""

    adjacency: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("adjacency", _sparse_graph()[1])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.adjacency @ self.a(x))
        return self.adjacency @ self.b(h)


@ARCHITECTURES(lambda: (torch.randn(5, 4), EDGES.clone()))
class MessagePassing(nn.Module):
    """Edges as indices; messages are summed by index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(8, 5), nn.GRUCell(5, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, sink = edges
        for _ in range(2):
            m = self.message(torch.cat([x[source], x[sink]], -1)).relu()
            x = self.update(x.new_zeros(x.shape[0], 5).index_add(0, sink, m), x)
        return x


@ARCHITECTURES(lambda: (torch.randn(5, 4), EDGES.clone(), torch.tensor([0, 0, 1, 1, 1])))
class GraphAttention(nn.Module):
    """Softmax over each node's edges by scatter_reduce, then pooled by graph."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.a, self.out = nn.Linear(4, 5), nn.Linear(10, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        h, (source, sink) = self.W(x), edges
        score = functional.leaky_relu(self.a(torch.cat([h[source], h[sink]], -1))[:, 0], 0.2)
        largest = score.new_full((5,), -1e9).scatter_reduce(0, sink, score, "amax")
        weight = (score - largest[sink]).exp()
        weight = weight / score.new_zeros(5).scatter_add(0, sink, weight)[sink]
        h = torch.zeros_like(h).index_add_(0, sink, weight[:, None] * h[source]).relu()
        pooled = h.new_zeros(2, 5).scatter_add_(0, graph[:, None].expand(-1, 5), h)
        return self.out(pooled / graph.bincount()[:, None])


@ARCHITECTURES(normal((2, 6, 3)))
class PointNet(nn.Module):
    """A learned alignment, a shared layer, a maximum over points."""

    def __init__(self) -> None:
        super().__init__()
        self.align, self.share, self.out = nn.Linear(3, 9), nn.Conv1d(3, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        T = self.align(x.mean(1)).view(-1, 3, 3) + torch.eye(3)
        h = self.share((x @ T).mT).relu()
        return self.out(h.max(-1)[0])


@ARCHITECTURES(normal((3, 8)))
class MultiTask(nn.Module):
    """Heads in a ModuleDict, weighted by learned uncertainties."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU())
        self.heads = nn.ModuleDict({"depth": nn.Linear(6, 1), "class": nn.Linear(6, 3)})
        self.log_variance = nn.ParameterDict({k: torch.zeros(()) for k in self.heads})

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.trunk(x)
        return {k: head(h) * (-self.log_variance[k]).exp() for k, head in self.heads.items()}


@ARCHITECTURES(normal((3, 4)))
class RecursiveTree(nn.Module):
    """Calls itself over pairs of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf, self.join = nn.Linear(1, 3), nn.Linear(6, 3)

    def tree(self, parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return torch.tanh(self.leaf(parts[0]))
        half = len(parts) // 2
        return torch.tanh(
            self.join(torch.cat([self.tree(parts[:half]), self.tree(parts[half:])], -1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.tree(list(x.split(1, -1)))


@ARCHITECTURES(normal((3, 4)))
class FeatureWiseModulation(nn.Module):
    """FiLM, conditioned on the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.film, self.out = nn.Linear(4, 5), nn.Linear(4, 10), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        gain, shift = self.film(x).tensor_split(2, -1)
        return self.out(torch.addcmul(shift, 1 + gain, self.body(x)).relu())


@ARCHITECTURES(normal((3, 4)))
class Reversible(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        for _ in range(3):
            a = a + torch.tanh(self.f(b))
            b = b + torch.tanh(self.g(a))
        return torch.cat([a, b], -1)


@ARCHITECTURES(normal((4, 5, 3)))
class LossOfContrast(nn.Module):
    """InfoNCE within the batch, with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.log_scale = nn.Linear(15, 4), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        a = functional.normalize(self.encode(x.flatten(1)), dim=-1)
        b = functional.normalize(self.encode(x.flip(1).flatten(1)), dim=-1)
        logits = self.log_scale.exp() * a @ b.T
        truth = torch.arange(x.shape[0])
        return (
            functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)
        ) / 2
