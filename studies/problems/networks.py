"""Networks of the studies, from flattened images to classes."""

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
"""Features of a token, hidden features of a cell, or channels."""
HEADS = 4
"""Attention heads."""
CHAIN_WIDTH = 64
"""Neurons per hidden layer of ``Chain``."""
TOKENS = 8
"""Tokens of the transformer: segments of equal length of an image."""


class Chain(nn.Sequential):
    """Fully connected tanh layers of equal width, and a linear output layer."""

    def __init__(self, pixels: int, depth: int, classes: int) -> None:
        sizes = [pixels, *[CHAIN_WIDTH] * (depth - 1), classes]
        super().__init__(*ardyn.mlp(sizes))


class DeepCNN(nn.Sequential):
    """Convolutional tanh layers of equal width, and a fully connected output layer."""

    def __init__(self, pixels: int, depth: int, classes: int) -> None:
        side = math.isqrt(pixels)
        layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
        for below in [1, *[WIDTH] * (depth - 2)]:
            layers += [nn.Conv2d(below, WIDTH, 3, padding=1), nn.Tanh()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(WIDTH * pixels, classes))


class EncoderLayer(nn.Module):
    """Self-attention and a perceptron, each after a layer norm and with a residual connection."""

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
    """An encoder of segments of an image, averaged over tokens before the output layer."""

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
    """An LSTM cell that reads an image segment by segment, unrolled in time."""

    def __init__(self, pixels: int, length: int, classes: int) -> None:
        super().__init__()
        self.length = length
        self.cell = nn.LSTMCell(pixels // length, WIDTH)
        self.read = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x is [batch, pixel]."""
        segments = x.reshape(x.shape[0], self.length, -1)
        state = None
        for t in range(self.length):
            state = self.cell(segments[:, t], state)
        y: Tensor = self.read(state[0])  # type: ignore[index]
        return y


Make = Callable[[torch.Generator], nn.Module]
"""Makes a network; its weights are drawn with the generator."""


def mlp_for(dataset: str, hidden: Sequence[int]) -> Make:
    """The paper's MLP for the images of a data set."""
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
"""{kind: network of (pixels, depth, classes)}; for the depth see ``DEPTH_OF``."""
DEPTH_OF = {
    "mlp": "layers",
    "cnn": "layers",
    "transformer": "encoder layers",
    "lstm": "length of the sequence",
}
"""What the depth of a network counts."""
DEPTHS = {
    "mlp": (2, 4, 8, 16, 32, 64),
    "cnn": (2, 4, 8, 16),
    "transformer": (1, 2, 4),
    "lstm": (2, 4, 8, 16, 32),
}
"""Default depths, which take seconds rather than minutes."""


def deep(kind: str, pixels: int, depth: int, classes: int, generator: torch.Generator) -> nn.Module:
    """A network of that depth; W ~ N(0, 1 / inputs of a neuron), b = 0.

    Raises:
        InputError: an image that cannot be split into that many segments, or is not square.
    """
    segments = {"transformer": TOKENS, "lstm": depth}.get(kind, 1)
    if pixels % segments or (kind == "cnn" and math.isqrt(pixels) ** 2 != pixels):
        raise InputError(
            f"{pixels} pixels cannot be split into {segments} segments of equal length for the "
            f"{kind}; use depths that divide {pixels}"
        )
    model = DEEP[kind](pixels, depth, classes)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif "norm" not in name:
                p.normal_(std=p[0].numel() ** -0.5, generator=generator)
    return model


def at_depths(
    kind: str, depths: Sequence[int], pixels: int, classes: int, seed: int
) -> dict[int, nn.Module]:
    """Networks of several depths, by default ``DEPTHS``, each with weights from the same seed."""
    return {
        depth: deep(kind, pixels, depth, classes, torch.Generator().manual_seed(seed))
        for depth in depths or DEPTHS[kind]
    }
