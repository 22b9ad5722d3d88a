"""Modules such as people bring, small, in plain torch; and what backprop says about them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import ardyn
from tests.oracles.problems import DEVICE, generator


class BasicBlock(nn.Module):
    """The residual block of ResNet-18."""

    def __init__(self, below: int, above: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(below, above, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(above)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(above, above, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(above)
        self.downsample = None
        if stride > 1:
            conv = nn.Conv2d(below, above, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(above))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        z: Tensor = self.relu(y)
        return z


class ResNet18(nn.Module):
    """The layout of ResNet-18 at small width."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        stages, below = [], width
        for above, stride in ((width, 1), (2 * width, 2), (3 * width, 2), (4 * width, 2)):
            stages += [BasicBlock(below, above, stride), BasicBlock(above, above, 1)]
            below = above
        self.stages = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(below, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x)), inplace=True))
        y: Tensor = self.fc(torch.flatten(self.avgpool(self.stages(x)), 1))
        return y


class EncoderLayer(nn.Module):
    """A transformer's encoder layer: attention, layer norm, GELU, dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        by_head = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)]
        mixed = functional.scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.dropout(self.out(mixed)))
        y: Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return y


class Transformer(nn.Module):
    """Four encoder layers over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.position = nn.Parameter(0.3 * torch.randn(5, 8, generator=generator(1)))
        self.layers = nn.ModuleList(EncoderLayer(8, 2) for _ in range(4))
        self.read = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.read(x.mean(1))
        return y


class Unrolled(nn.Module):
    """A recurrent cell over a sequence."""

    def __init__(self, cell: nn.Module, length: int) -> None:
        super().__init__()
        self.cell, self.length = cell, length
        self.read = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(self.length):
            state = self.cell(x[:, t], state)
        y: Tensor = self.read(state[0] if isinstance(self.cell, nn.LSTMCell) else state)  # type: ignore[index]
        return y


class UNet(nn.Module):
    """Down and up again, with skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(1, 3, 3, padding="same")
        self.down2 = nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="reflect")
        self.bottom = nn.Conv2d(4, 5, 3, padding=2, dilation=2)
        self.up2 = nn.ConvTranspose2d(5, 4, 2, stride=2)
        self.join = nn.Conv2d(4 + 3, 4, 3, padding=1, groups=1)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.down1(x))
        second = functional.gelu(self.down2(functional.avg_pool2d(first, 1)))
        deep = functional.silu(self.bottom(second))
        y: Tensor = self.out(self.join(torch.cat([self.up2(deep), first], dim=1)).sigmoid_())
        return y


class ManyToMany(nn.Module):
    """Two inputs, three outputs, one of which others read, and one that bears no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)
        self.product, self.deep = nn.Linear(5, 5), nn.Linear(5, 2)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor, shift: float = 0.5) -> dict[str, Any]:
        self.unused(y)
        a, b = torch.tanh(self.left(x)), torch.relu(self.right(y))
        joint = self.product(a * b + shift)
        return {
            "joint": joint,
            "rest": (self.deep(joint.tanh()), a.sum(1)),
            "best": joint.argmax(1),
        }


class TiedAutoencoder(nn.Module):
    """The decoder's weights are the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.squeeze = nn.Linear(6, 5), nn.Linear(5, 3)
        self.bias = nn.Parameter(torch.zeros(6))
        self.hidden_bias = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.squeeze(torch.tanh(self.encode(x))))
        hidden = torch.tanh(functional.linear(code, self.squeeze.weight.t(), self.hidden_bias))
        return functional.linear(hidden, self.encode.weight.t()) + self.bias


class WeightNormed(nn.Module):
    """A weight that is computed from parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(5, 4, generator=generator(3)))
        self.length = nn.Parameter(torch.rand(5, 1, generator=generator(4)) + 0.5)
        self.read = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.length * self.direction / self.direction.norm(dim=1, keepdim=True)
        y: Tensor = self.read(torch.tanh(functional.linear(x, weight)))
        return y


class InPlace(nn.Module):
    """Every way to write on a tensor, and a value that is read after it was changed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(x)
        a.mul_(2.0)
        a += 1.0
        b = torch.tanh(a)
        functional.relu_(a)
        y: Tensor = self.two(a + b * a.clone().add_(0.3))
        return y


class GPT2(nn.Module):
    """The layout of GPT-2: causal attention behind a layer norm, residuals, tied embeddings."""

    def __init__(self, width: int = 8, heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.positions = nn.Embedding(11, width), nn.Embedding(5, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "attend": nn.Linear(width, 3 * width),
                    "mix": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for part in self.layers:
            layer: Any = part
            q, k, v = layer["attend"](layer["norm1"](x)).chunk(3, -1)
            q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["mix"](mixed.transpose(1, 2).flatten(2))
            gelu = functional.gelu(layer["up"](layer["norm2"](x)), approximate="tanh")
            x = x + layer["down"](gelu)
        y: Tensor = self.norm(x[:, -1]) @ self.tokens.weight.T
        return y


class ConvolutionalTransformer(nn.Module):
    """Convolutions make tokens of an image; an encoder, and a mean over its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.encoder = EncoderLayer(8, 2)
        self.weigh, self.read = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = self.encoder(functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(2).mT)
        shares = self.weigh(x).softmax(1)
        y: Tensor = self.read((shares.mT @ x)[:, 0])
        return y


def torchs_encoder() -> nn.Module:
    """A layer of torch's own, made of several."""
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


@dataclass(frozen=True)
class Case:
    """A module in float64, one batch, and a loss written independently of ardyn."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    targets: Any
    loss: Callable[[Any, Any], Tensor]

    @property
    def batch(self) -> dict[str, Any]:
        inputs = self.inputs if len(self.inputs) > 1 else self.inputs[0]
        return {"model": self.model, "inputs": inputs, "targets": self.targets}

    def relaxation(self, **settings: Any) -> ardyn.Relaxation:
        return ardyn.Relaxation(**self.batch, **settings)

    def parameter_gradients(self) -> dict[str, Tensor]:
        """∂𝓛/∂θ by autograd."""
        named = dict(self.model.named_parameters())
        value = self.loss(self.model(*(x.clone() for x in self.inputs)), self.targets)
        found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
        return {n: g for n, g in zip(named, found, strict=True) if g is not None}

    def module_gradients(self) -> dict[str, Tensor]:
        """∂𝓛/∂(what a submodule returned), by hooks on the module itself, for each called once."""
        returned: dict[str, list[Tensor]] = {}

        def watch(name: str) -> Callable[..., Tensor | None]:
            def hook(module: nn.Module, args: Any, value: Any) -> Tensor | None:
                if not isinstance(value, Tensor):
                    return None
                returned.setdefault(name, []).append(value)
                return value.clone()  # in-place work downstream must not touch what is watched

            return hook

        modules = [(n, m) for n, m in self.model.named_modules() if not any(m.children())]
        handles = [module.register_forward_hook(watch(name)) for name, module in modules]
        value = self.loss(self.model(*(x.clone() for x in self.inputs)), self.targets)
        for handle in handles:
            handle.remove()
        once = {name: values[0] for name, values in returned.items() if len(values) == 1}
        found = torch.autograd.grad(value, list(once.values()), allow_unused=True)
        return {n: g for n, g in zip(once, found, strict=True) if g is not None}


def sse(output: Any, target: Any) -> Tensor:
    return functional.mse_loss(output, target, reduction="sum")


def many_sse(output: Any, target: Any) -> Tensor:
    rest = sum(sse(x, t) for x, t in zip(output["rest"], target["rest"], strict=True))
    return sse(output["joint"], target["joint"]) + rest


def case(model: nn.Module, *shapes: tuple[int, ...], seed: int = 0) -> Case:
    """Random inputs of these shapes, without the batch, and random targets."""
    g = generator(seed)
    for p in model.parameters():
        if p.ndim == 1:
            with torch.no_grad():
                p.add_(0.3 * torch.randn(p.shape, generator=g))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=g))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=g))
    model = model.double().eval().to(DEVICE)
    inputs = tuple(torch.randn(3, *s, generator=g, dtype=torch.float64).to(DEVICE) for s in shapes)
    if isinstance(model, (Transformer, GPT2)):
        inputs = (torch.randint(11, (3, 5), generator=g).to(DEVICE),)
    output = model(*(x.clone() for x in inputs))
    if isinstance(model, ManyToMany):
        rest = tuple(torch.zeros_like(x) for x in output["rest"])
        targets = {"joint": torch.ones_like(output["joint"]), "rest": rest, "best": None}
        return Case(model, inputs, targets, many_sse)
    return Case(model, inputs, torch.randn(output.shape, generator=g).to(output), sse)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose own initialisation is the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


CASES: dict[str, Callable[[], Case]] = {
    "paper's CNN": lambda: case(
        ardyn.cnn("digits", "paper", std=0.2, generator=generator()), (1, 8, 8)
    ),
    "code's CNN": lambda: case(
        ardyn.cnn("cifar10", "code", std=0.1, generator=generator()), (3, 32, 32)
    ),
    "ResNet-18": lambda: case(seeded(ResNet18), (3, 32, 32)),
    "transformer": lambda: case(seeded(Transformer), (5,)),
    "LSTM": lambda: case(seeded(lambda: Unrolled(nn.LSTMCell(4, 5), 20)), (20, 4)),
    "GRU": lambda: case(seeded(lambda: Unrolled(nn.GRUCell(4, 5), 6)), (6, 4)),
    "U-Net": lambda: case(seeded(UNet), (1, 6, 6)),
    "many to many": lambda: case(seeded(ManyToMany), (4,), (3,)),
    "tied autoencoder": lambda: case(seeded(TiedAutoencoder), (6,)),
    "weight norm": lambda: case(seeded(WeightNormed), (4,)),
    "in place": lambda: case(seeded(InPlace), (4,)),
    "GPT-2": lambda: case(seeded(GPT2), (5,)),
    "convolutional transformer": lambda: case(seeded(ConvolutionalTransformer), (1, 8, 8)),
    "torch's encoder": lambda: case(
        seeded(lambda: nn.Sequential(nn.Linear(8, 8), torchs_encoder(), nn.Tanh())), (5, 8)
    ),
}
"""By name; made anew at each call."""
