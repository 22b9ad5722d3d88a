"""Modules as users write them: weights that are tied, shared, complex, or computed."""

# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,misc,override"

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.catalogue.entries import Group, normal, positive, tokens

WEIGHTS = Group("written: weights tied, complex or computed")


@WEIGHTS(normal((3, 6)))
class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.bias = nn.Linear(6, 4), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.encode(x))
        return functional.linear(h, self.encode.weight.T, self.bias)


@WEIGHTS(tokens(9, 3, 4))
class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(9, 5), nn.Linear(5, 5), nn.Linear(5, 9)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(ids).cumsum(1))))


@WEIGHTS(normal((3, 5)))
class SharedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.act = nn.Linear(5, 5), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = self.act(self.layer(x)) + 0.5 * x
        return x


@WEIGHTS(normal((3, 4), (3, 4)))
class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.encode(x) - self.encode(y)).abs().sum(-1)


@WEIGHTS(normal((3, 4)))
class WeightNormByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.rand(5, 1))
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        W = self.g * self.v / self.v.norm(dim=1, keepdim=True)
        return self.out(torch.tanh(x @ W.T))


@WEIGHTS(normal((3, 4)))
class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.U, self.V = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 4))
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.linear(x, self.U @ self.V).relu())


@WEIGHTS(normal((3, 4)))
class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 5)
        self.base.requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.zeros(5, 2))
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.base(x) + 0.5 * (x @ self.A.T) @ self.B.T))


@WEIGHTS(normal((3, 4), (3, 2)))
class HyperNetwork(nn.Module):
    """Another network computes the weights of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper, self.out = nn.Linear(2, 5 * 4 + 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        W, b = self.hyper(context).split([20, 5], -1)
        h = torch.bmm(W.view(-1, 5, 4), x.unsqueeze(-1)).squeeze(-1) + b
        return self.out(h.relu())


@WEIGHTS(normal((3, 4)))
class WeightsFromANetwork(nn.Module):
    """The weights of a layer are what a network makes of learned codes, without the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(5, 3))
        self.make, self.out = (
            nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)),
            nn.Linear(5, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.linear(x, self.make(self.codes)).sigmoid())


@WEIGHTS(normal((3, 4)))
class PositiveWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.raw, self.out = nn.Parameter(torch.randn(5, 4)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.linear(x, functional.softplus(self.raw)).tanh())


@WEIGHTS(normal((3, 4)))
class MaskedWeights(nn.Module):
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.linear(x, self.a.weight * self.mask, self.a.bias).relu()
        return functional.linear(h, self.b.weight * self.mask.T)


@WEIGHTS(normal((3, 2, 5, 5)))
class StandardisedConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        W = self.conv.weight
        W = (W - W.mean((1, 2, 3), keepdim=True)) / W.std((1, 2, 3), keepdim=True)
        return self.out(functional.conv2d(x, W, self.conv.bias, padding=1).relu())


@WEIGHTS(normal((2, 4, 5, 5)))
class DynamicConvolution(nn.Module):
    """Kernels mixed anew for each sample, by a convolution of groups."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(3, 6, 4, 3, 3) / 4)
        self.route = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        mix = self.route(x.mean((2, 3))).softmax(-1)
        W = torch.einsum("nk,kocij->nocij", mix, self.kernels).flatten(0, 1)
        y = functional.conv2d(x.reshape(1, -1, 5, 5), W, groups=n)
        return y.view(n, 6, 3, 3).relu()


@WEIGHTS(normal((3, 6)))
class Quantised(nn.Module):
    """Weights of one bit, gradients straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        W = self.a.weight
        binary = W.sign() * W.abs().mean()
        h = functional.linear(x, W + (binary - W).detach(), self.a.bias)
        return self.b(functional.hardtanh(h))


@WEIGHTS(lambda: torch.randn(3, 4, dtype=torch.complex128))
class ComplexWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5, dtype=torch.complex128)
        self.b = nn.Linear(5, 2, dtype=torch.complex128)

    def forward(self, z: Tensor) -> Tensor:
        h = self.a(z)
        return self.b(torch.complex(h.real.relu(), h.imag.relu()))


@WEIGHTS(normal((3, 4)))
class ComplexWithin(nn.Module):
    """Real inputs, complex weights, the output a modulus."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(5, 4, dtype=torch.complex128))
        self.V = nn.Parameter(torch.randn(3, 5, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(self.W.dtype) @ self.W.T
        h = h * torch.sigmoid(h.abs())
        return (h @ self.V.mH.conj()).abs()


@WEIGHTS(normal((2, 3, 8)))
class SpectralConvolution(nn.Module):
    """The layer of a Fourier neural operator."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.skip, self.out = nn.Conv1d(3, 4, 1), nn.Conv1d(4, 4, 1), nn.Conv1d(4, 2, 1)
        self.W = nn.Parameter(0.3 * torch.randn(4, 4, 3, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        spectrum = torch.fft.rfft(h)
        out = torch.zeros_like(spectrum)
        out[..., :3] = torch.einsum("bim,iom->bom", spectrum[..., :3], self.W)
        return self.out(functional.gelu(torch.fft.irfft(out, n=8) + self.skip(h)))


@WEIGHTS(normal((2, 5, 4)))
class FourierMixing(nn.Module):
    """FNet: the Fourier transform in place of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.up(x) @ self.down.weight.T)
        x = x + torch.fft.fft2(x, norm="ortho").real
        return x + self.down(functional.gelu(self.up(x)))


@WEIGHTS(normal((2, 2, 6, 6)))
class GlobalFilter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.filter = nn.Parameter(torch.randn(3, 6, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.conv(x), norm="ortho")
        return torch.fft.irfft2(spectrum * torch.view_as_complex(self.filter), (6, 6), norm="ortho")


@WEIGHTS(normal((2, 16)))
class LearnedSpectrogram(nn.Module):
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.out = nn.Parameter(torch.randn(16)), nn.Linear(5, 2)
        self.register_buffer("window", torch.hann_window(8))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.stft(x * self.gain, 8, 4, window=self.window, return_complex=True)
        return self.out(spectrum.abs().clamp(min=1e-3).log().mT)


@WEIGHTS(normal((4, 2)))
class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(5.0 * layer(x))
        return self.layers[-1](x)


@WEIGHTS(normal((4, 2)))
class FourierFeatures(nn.Module):
    B: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("B", torch.randn(2, 4))
        self.net = nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 3), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x @ self.B
        return self.net(torch.cat([angle.sin(), angle.cos()], -1))


@WEIGHTS(normal((4, 2)))
class LearnedFourierFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frequency, self.out = nn.Linear(2, 5, bias=False), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        angle = self.frequency(x)
        return self.out(torch.cat([angle.sin(), angle.cos()], -1))


@WEIGHTS(positive((4, 3)))
class KolmogorovArnold(nn.Module):
    """Learned functions on the edges: radial bases, and a plain path."""

    centres: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-1, 1, 5))
        self.coefficients = nn.ParameterList(
            [nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(4, 2, 5))]
        )
        self.plain = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)])

    def forward(self, x: Tensor) -> Tensor:
        for c, plain in zip(self.coefficients, self.plain, strict=True):
            bases = torch.exp(-((2 * (x[..., None] - self.centres)) ** 2))
            x = torch.einsum("bik,iok->bo", bases, c) + plain(functional.silu(x))
        return x


@WEIGHTS(normal((4, 3)))
class RadialBasis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres, self.log_width = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.zeros(5))
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        distance = (x[:, None] - self.centres).square().sum(-1)
        return self.out(torch.exp(-distance * self.log_width.exp()))


@WEIGHTS(normal((4, 3)))
class LearnedActivation(nn.Module):
    """Rational functions, and a Swish whose slope is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)
        self.top, self.bottom = nn.Parameter(torch.randn(4)), nn.Parameter(torch.rand(2))
        self.beta = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        powers = torch.stack([h**k for k in range(4)], -1)
        h = (powers @ self.top) / (1 + (powers[..., 1:3] @ self.bottom).abs())
        return self.b(h * torch.sigmoid(self.beta * h))


@WEIGHTS(normal((3, 4)))
class OrthogonalByExponential(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.raw, self.out = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        W = torch.linalg.matrix_exp(self.raw - self.raw.T)
        return self.out(torch.tanh(x @ W))


@WEIGHTS(normal((3, 4)))
class StackedWeights(nn.Module):
    """All layers in one parameter, each a slice of it."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.randn(3, 4, 4) / 2), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        for W, b in zip(self.W, self.b, strict=True):
            x = torch.tanh(torch.baddbmm(b[None, None], x[None], W[None])[0])
        return x


@WEIGHTS(normal((3, 4)))
class OneFlatParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Parameter(torch.randn(4 * 5 + 5 + 5 * 2))

    def forward(self, x: Tensor) -> Tensor:
        W1, b1, W2 = self.flat.split([20, 5, 10])
        h = functional.linear(x, W1.view(5, 4), b1).relu()
        return functional.linear(h, W2.view(2, 5))


@WEIGHTS(normal((3, 4)))
class ComputedInAProperty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.log_gain = nn.Linear(4, 3), nn.Parameter(torch.randn(3))

    @property
    def gain(self) -> Tensor:
        return self.log_gain.exp()

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * torch.tanh(self.a(x))
