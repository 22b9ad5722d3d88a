"""Modules as users write them: how they loop, branch, and take and return values."""

# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,misc,override"

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional

from tests.catalogue.entries import Group, normal, positive, tokens

FORMS = Group("written: loops, inputs and outputs")


@FORMS(normal((3, 6)))
class LoopOverSizes(nn.Module):
    def __init__(self, sizes: tuple[int, ...] = (6, 5, 4, 3)) -> None:
        super().__init__()
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.layers) - 1:
                x = functional.leaky_relu(x, 0.2)
        return x


@FORMS(normal((3, 4, 5)))
class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(2, 5, 6) / 2)
        self.mix = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bte,hef->bhtf", x, self.W)
        return torch.einsum("bhtf,ts->bhsf", y.relu(), self.mix)


@FORMS(normal((3, 4)))
class DictOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.scale = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = torch.tanh(self.body(x))
        return {
            "mean": self.mean(h),
            "scale": functional.softplus(self.scale(h)),
            "classes": h.argmax(-1),
            "name": "normal",
        }


@FORMS(normal((3, 4)))
class OrderedDictOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        features: OrderedDict[str, Tensor] = OrderedDict()
        features["low"] = self.a(x)
        features["high"] = self.b(features["low"].relu())
        return features


@dataclass
class Prediction:
    logits: Tensor
    hidden: list[Tensor]
    loss: Tensor | None = None


@FORMS(normal((3, 4)))
class DataclassOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Prediction:
        hidden = []
        for layer in self.layers:
            x = torch.tanh(layer(x))
            hidden.append(x)
        return Prediction(x, hidden)


class Moments(NamedTuple):
    mean: Tensor
    variance: Tensor


@FORMS(normal((5, 4)))
class NamedTupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Moments:
        h = self.layer(x)
        return Moments(h.mean(-1), h.var(-1))


@FORMS(normal((3, 4)))
class NestedOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        h = self.a(x).tanh()
        return [h, {"deep": (self.b(h), None, [h * 2])}], 3, "label"


@FORMS(normal((3, 4)))
class NamespaceOutput(nn.Module):
    """Returns a plain object, whose attributes the loss reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> SimpleNamespace:
        h = self.a(x).tanh()
        return SimpleNamespace(hidden=h, out=self.b(h))


@FORMS(normal((3, 4)))
class GaussianPolicy(nn.Module):
    """Returns a distribution, as in reinforcement learning."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean = nn.Linear(4, 6), nn.Linear(6, 2)
        self.log_scale = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Normal:
        return Normal(self.mean(self.body(x).tanh()), self.log_scale.exp())


@FORMS(lambda: (torch.randn(3, 4), torch.tensor([0, 2, 1])))
class CategoricalPolicy(nn.Module):
    """Log-probabilities and entropy of a distribution made within."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        policy = Categorical(logits=self.head(self.body(x).relu()))
        return policy.log_prob(actions), policy.entropy()


@FORMS(lambda: {"x": torch.randn(3, 4), "context": torch.randn(3, 2), "scale": 0.5})
class KeywordInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(2, 5)

    def forward(self, *, x: Tensor, context: Tensor | None = None, scale: float = 1.0) -> Tensor:
        y = self.a(x)
        if context is not None:
            y = y + scale * self.b(context)
        return torch.sigmoid(y)


@FORMS(lambda: {"x": torch.randn(3, 4), "mode": "sharp"})
class StringKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)

    def forward(self, x: Tensor, mode: str = "soft") -> Tensor:
        y: Tensor = self.a(x)
        return (4 * y).softmax(-1) if mode == "sharp" else y.softmax(-1)


@FORMS(lambda: (torch.randn(3, 4), "sharp"), name="StringArgument")
def string_argument() -> nn.Module:
    return StringKeyword()


@FORMS(lambda: (torch.randn(3, 4), None, torch.randn(3, 4)))
class NoneInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None, other: Tensor | None = None) -> Tensor:
        scores = self.query(x) @ self.key(x if other is None else other).T
        if mask is not None:
            scores = scores.masked_fill(mask, -1e9)
        return scores.softmax(-1) @ x


@FORMS(lambda: ([torch.randn(3, 4), torch.randn(3, 5)],))
class ListInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 3), nn.Linear(5, 3)])

    def forward(self, parts: list[Tensor]) -> Tensor:
        found = [layer(x) for layer, x in zip(self.layers, parts, strict=True)]
        return torch.stack(found).sum(0).tanh()


@FORMS(lambda: ({"image": torch.randn(2, 3, 4, 4), "ids": torch.randint(5, (2, 3))},))
class DictInput(nn.Module):
    """A batch as a dict, in one positional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed, self.join = nn.Conv2d(3, 4, 3), nn.Embedding(5, 4), nn.Linear(8, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        image = self.conv(batch["image"]).relu().mean((2, 3))
        return self.join(torch.cat([image, self.embed(batch["ids"]).mean(1)], -1))


@FORMS(lambda: (torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4)))
class VariableArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        return tuple(functional.normalize(self.a(view), dim=-1) for view in views)


@FORMS(tokens(7, 3, 5))
class TokenIds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 7)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0).unsqueeze(-1)
        x = (self.embed(ids) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.out(x)


@FORMS(lambda: (torch.randn(3, 5, 4), torch.tensor([5, 2, 3])))
class MaskFromLengths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score, self.value = nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(x.shape[1])[None, :] >= lengths[:, None]
        scores = self.score(x).squeeze(-1).masked_fill(mask, float("-inf"))
        return (scores.softmax(-1)[..., None] * self.value(x)).sum(1)


@FORMS(lambda: (torch.randn(3, 4), torch.zeros(3, 4).masked_fill(torch.eye(3, 4) > 0, -torch.inf)))
class AdditiveMask(nn.Module):
    """A mask of 0 and −∞, as torch's own attention takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (self.layer(x) + mask).softmax(-1)


@FORMS(normal((4, 4)))
class BranchOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.left, self.right = nn.Linear(4, 1), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.gate(x)
        if h.mean().item() > 0:
            return torch.tanh(self.left(x)) * h
        return torch.tanh(self.right(x)) * h


@FORMS(normal((4, 4)))
class BranchPerSample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.left(row) if row.sum() > 0 else self.right(row).relu() for row in x]
        return torch.stack(rows)


@FORMS(normal((3, 4)))
class WhileNotSettled(nn.Module):
    """Steps until the state hardly moves."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, steps = torch.zeros_like(x), 0
        while steps < 20:
            new = torch.tanh(0.5 * self.W(h) + self.U(x))
            done = (new - h).norm() < 0.05
            h, steps = new, steps + 1
            if done:
                break
        return h


@FORMS(normal((3, 4), (5, 6)))
class UnequalLeadingSizes(nn.Module):
    """Every query against every key of another set."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 5), nn.Linear(6, 5)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return torch.cdist(self.query(queries), self.key(keys))


@FORMS(normal((3, 4)))
class ScalarOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.softplus(self.b(torch.relu(self.a(x)))).mean()


@FORMS(lambda: {"ids": torch.randint(6, (3, 4)), "labels": torch.randint(2, (3,))})
class ReturnsItsLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 5), nn.Linear(5, 2)

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.embed(ids).mean(1))
        out = {"logits": logits}
        if labels is not None:
            out["loss"] = functional.cross_entropy(logits, labels)
        return out


@FORMS(normal((3, 4)))
class NoGradient(nn.Module):
    """One of its outputs is detached, and one parameter is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x)
        return self.b(h.sigmoid()), h.detach()


@FORMS(normal((3, 4)))
class UnusedBranch(nn.Module):
    """A layer is computed, and nobody reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.b(x).relu()
        return torch.tanh(self.a(x))


@FORMS(normal((3, 4)))
class ReturnsItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.a(x)


@FORMS(normal((3, 4)))
class ReturnsOneTensorTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = torch.tanh(self.a(x))
        return [y, y, y.view(-1)]


@FORMS(normal((3, 4)))
class ReturnsItsWeights(nn.Module):
    """For a penalty in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.b(self.a(x).relu()), self.a.weight, self.b.weight.square().sum()


@FORMS(lambda: ())
class NoInputs(nn.Module):
    """An image that is itself learned, as in deep image priors and feature visualisation."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(1, 4))
        self.a = nn.Linear(4, 6)

    def forward(self) -> Tensor:
        return torch.sigmoid(self.a(self.code))


@FORMS(lambda: torch.tensor(0.3))
class TimeAsInput(nn.Module):
    """A function of a time, [], such as the right-hand side of an ODE."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 5), nn.Linear(5, 2)

    def forward(self, t: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(t[None])))


@FORMS(lambda: (0.3, torch.randn(3, 4)))
class NumberAndState(nn.Module):
    """f(t, x), t a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, t: float, x: Tensor) -> Tensor:
        time = torch.full_like(x[:, :1], t)
        return self.b(torch.tanh(self.a(torch.cat([x, time], 1))))


@FORMS(normal((0, 4), (3, 4)))
class EmptyInput(nn.Module):
    """One of its inputs holds no samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.a(y)]).tanh()


@FORMS(normal((3, 4)))
class UnfrozenScalars(nn.Module):
    """0-d parameters: a temperature, a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.temperature, self.shift = (
            nn.Parameter(torch.tensor(1.3)),
            nn.Parameter(torch.zeros(())),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) / self.temperature).softmax(-1) + self.shift


@FORMS(normal((3, 4)))
class FrozenBelow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5))
        self.backbone.requires_grad_(False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).tanh())


@FORMS(normal((3, 4)))
class FrozenBetween(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.b.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.tanh(self.a(x)))))


@FORMS(lambda: torch.randn(3, 4).requires_grad_())
class InputWithGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x * x.sigmoid())))


@FORMS(positive((2, 5, 4)))
class UnbatchedRows(nn.Module):
    """Goes through the batch itself, one sample at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def one(self, rows: Tensor) -> Tensor:
        h = self.a(rows)
        weights = (h @ h.T).softmax(-1)
        return self.b(weights @ h).amax(0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.one(rows) for rows in x.unbind(0)])


@FORMS(lambda: (torch.randn(3, 4), torch.randint(0, 2, (3, 4)).bool()))
class BooleanInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.missing = nn.Linear(4, 3), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        return self.a(torch.where(known, x, self.missing))


@FORMS(normal((3, 4)), dtype=torch.float32, tolerance=1e-4, name="SinglePrecision (float32)")
class SinglePrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


@FORMS(normal((3, 4)), dtype=torch.float32, tolerance=1e-4, name="MixedTypes (float32)")
class MixedTypes(nn.Module):
    """Its last layer is of higher precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).double())
