"""The networks that the convergence study relaxes, each a map from flat pixels to classes."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

import ardyn
from ardyn import InputError
from ardyn.models import IMAGES, Variant

WIDTH = 32
"""Features of a token, a cell or a channel."""
HEADS = 4
CHAIN_WIDTH = 64
"""Neurons per hidden layer of the chains whose depth is varied."""
TOKENS = 8
"""Pieces that an image is cut into."""


class Chain(nn.Sequential):
    """A deep tanh network, through which gradients neither vanish nor explode at once."""

    def __init__(self, pixels: int, depth: int, classes: int) -> None:
        sizes = [pixels, *[CHAIN_WIDTH] * (depth - 1), classes]
        super().__init__(*ardyn.mlp(sizes))


class DeepCNN(nn.Sequential):
    """Convolutions of one size, one after another, then a fully connected layer."""

    def __init__(self, pixels: int, depth: int, classes: int) -> None:
        side = math.isqrt(pixels)
        layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
        for below in [1, *[WIDTH] * (depth - 2)]:
            layers += [nn.Conv2d(below, WIDTH, 3, padding=1), nn.Tanh()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(WIDTH * pixels, classes))


class EncoderLayer(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """x is [batch, token, feature]."""
        tokens = self.norm1(x)
        q, k, v = (
            project(tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-2, -1) / (WIDTH / HEADS) ** 0.5
        x = x + self.mix((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return y


class Transformer(nn.Module):
    """An encoder over the pieces of an image, averaged."""

    def __init__(self, pixels: int, depth: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(pixels // TOKENS, WIDTH)
        self.position = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.layers = nn.Sequential(*(EncoderLayer() for _ in range(depth)))
        self.read = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x is [batch, pixel]."""
        tokens = self.embed(x.reshape(x.shape[0], TOKENS, -1)) + self.position
        y: Tensor = self.read(self.layers(tokens).mean(1))
        return y


class LSTM(nn.Module):
    """A cell that reads an image piece by piece, unrolled in time."""

    def __init__(self, pixels: int, length: int, classes: int) -> None:
        super().__init__()
        self.length = length
        self.cell = nn.LSTMCell(pixels // length, WIDTH)
        self.read = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x is [batch, pixel]."""
        pieces = x.reshape(x.shape[0], self.length, -1)
        state = None
        for t in range(self.length):
            state = self.cell(pieces[:, t], state)
        y: Tensor = self.read(state[0])  # type: ignore[index]
        return y


Make = Callable[[torch.Generator], nn.Module]
"""Makes a network from flat pixels, its weights drawn with the generator."""


def mlp_for(dataset: str, hidden: Sequence[int]) -> Make:
    """The paper's perceptron for the images of a data set."""
    channels, side, classes = IMAGES[dataset]
    sizes = [channels * side**2, *hidden, classes]
    return lambda generator: ardyn.mlp(sizes, generator=generator)


def cnn_for(dataset: str, variant: Variant) -> Make:
    """The paper's convolutional network, or the authors', for the images of a data set."""
    channels, side, _ = IMAGES[dataset]

    def make(generator: torch.Generator) -> nn.Module:
        image = nn.Unflatten(1, (channels, side, side))
        cnn = ardyn.cnn(dataset, variant, generator=generator)
        return nn.Sequential(OrderedDict[str, nn.Module](image=image, **dict(cnn.named_children())))

    return make


DEEP: dict[str, Callable[[int, int, int], nn.Module]] = {
    "mlp": Chain,
    "cnn": DeepCNN,
    "transformer": Transformer,
    "lstm": LSTM,
}
"""By kind of network, from pixels, depth and classes: layers, encoder layers or length."""
DEPTH_OF = {
    "mlp": "layers",
    "cnn": "layers",
    "transformer": "encoder layers",
    "lstm": "length of the sequence",
}
DEPTHS = {
    "mlp": (2, 4, 8, 16, 32, 64),
    "cnn": (2, 4, 8, 16),
    "transformer": (1, 2, 4),
    "lstm": (2, 4, 8, 16, 32),
}
"""Depths that take seconds rather than minutes."""


def deep(kind: str, pixels: int, depth: int, classes: int, generator: torch.Generator) -> nn.Module:
    """A network of that depth; W ~ N(0, 1 / inputs of a neuron), b = 0.

    Raises:
        InputError: an image that cannot be cut into that many pieces.
    """
    pieces = {"transformer": TOKENS, "lstm": depth}.get(kind, 1)
    if pixels % pieces or (kind == "cnn" and math.isqrt(pixels) ** 2 != pixels):
        raise InputError(
            f"{pixels} pixels cannot be cut into {pieces} pieces of one size for the {kind}; use "
            f"depths that divide {pixels}"
        )
    model = DEEP[kind](pixels, depth, classes)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif "norm" not in name:
                p.normal_(std=p[0].numel() ** -0.5, generator=generator)
    return model


def deep_ones(
    kind: str, depths: Sequence[int], pixels: int, classes: int, seed: int
) -> dict[int, nn.Module]:
    """Networks of several depths, each with weights from the same seed; by default ``DEPTHS``."""
    return {
        depth: deep(kind, pixels, depth, classes, torch.Generator().manual_seed(seed))
        for depth in depths or DEPTHS[kind]
    }
