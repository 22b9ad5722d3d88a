"""Cost of relaxing modules to equilibrium, relative to forward and ``loss.backward()``; float32.

ResNet-18 (images of 64 × 64), a transformer encoder of 4 layers (64 tokens), 50 fully connected
layers and a U-Net, at usual sizes and at small ones, at which the overhead of each call dominates;
and the training step of the paper's CNN.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import ardyn
from benchmarks.timing import Cases, Row, main
from tests.oracles.modules import ResNet18, UNet

NAMES = ("ResNet-18", "transformer", "50 layers", "U-Net")
ROWS = (
    *(
        Row(f"{name}: ardyn.backward to 200 τ", f"{name}: forward and backward", at_most=2)
        for name in NAMES
    ),
    *(Row(f"{name}: first use", f"{name}: forward and backward", at_most=4) for name in NAMES),
    *(
        Row(f"small {name}: ardyn.backward to 200 τ", f"small {name}: forward and backward")
        for name in NAMES
    ),
    Row("CNN: AR step, 10 τ", "CNN: BP step", at_most=1.15),
)


def _encoder(width: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


def _cases(device: str) -> Cases:
    g = torch.Generator().manual_seed(0)

    def chain(width: int) -> nn.Module:
        return ardyn.mlp([width] * 51, std=width**-0.5, generator=g)

    modules: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "ResNet-18": (ResNet18(64).eval(), (8, 3, 64, 64)),
        "transformer": (_encoder(256), (16, 64, 256)),
        "50 layers": (chain(300), (64, 300)),
        "U-Net": (UNet(), (64, 1, 32, 32)),
        "small ResNet-18": (ResNet18(16).eval(), (16, 3, 64, 64)),
        "small transformer": (_encoder(64), (32, 16, 64)),
        "small 50 layers": (chain(128), (64, 128)),
        "small U-Net": (UNet(), (8, 1, 16, 16)),
    }
    found: dict[str, Callable[[], object]] = {}
    for name, (model, shape) in modules.items():
        found |= dict(_module(name, model.to(device), torch.randn(shape, generator=g).to(device)))
    return {**found, **_cnn(device, g)}


def _module(name: str, model: nn.Module, inputs: Tensor) -> Cases:
    # Random, as after a normalisation the gradient of Σ (x − 0)² vanishes.
    targets = torch.randn_like(model(inputs))

    def backprop() -> None:
        model.zero_grad()
        ardyn.backprop(model, inputs, targets)

    def relax() -> None:
        model.zero_grad()
        ardyn.backward(model, inputs, targets, duration=200.0)

    def first() -> None:
        ardyn.backward(copy.copy(model), inputs, targets, duration=200.0)
        model.zero_grad()

    return {
        f"{name}: forward and backward": backprop,
        f"{name}: ardyn.backward to 200 τ": relax,
        f"{name}: first use": first,
    }


def _cnn(device: str, g: torch.Generator) -> Cases:
    images, labels = torch.rand(64, 3, 32, 32, generator=g), torch.randn(64, 10, generator=g)
    images, labels = images.to(device), labels.to(device)

    def step(method: ardyn.training.Method) -> Callable[[], object]:
        model = ardyn.cnn("cifar10", generator=g).to(device)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.0005)
        learner = ardyn.Learner(model, optimiser, method=method)
        return lambda: learner.step(images, labels)

    return {"CNN: AR step, 10 τ": step("ar"), "CNN: BP step": step("bp")}


if __name__ == "__main__":
    main("modules", "Modules relaxed to their equilibrium, and trained", ROWS, _cases)
