"""Modules as users write them: work in place, and tensors taken apart and put together."""

# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,misc,override"

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.catalogue.entries import Group, normal

IN_PLACE = Group("written: in place, indexing, sorting")


class OneLayer(nn.Module):
    """A layer below, a layer above, and between them what ``work`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(4, 6), nn.Linear(6, 3)

    def work(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.work(self.below(x)))


VECTORS = normal((5, 4))


@IN_PLACE(VECTORS)
class AddInPlace(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        y = x.sigmoid() * 2
        y += x
        y *= 0.5
        y.sub_(x.mean())
        return y


@IN_PLACE(VECTORS)
class ActivationInPlace(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        return functional.relu_(x).mul(2).add_(1).sqrt()


@IN_PLACE(VECTORS)
class WritesOnItsActivation(OneLayer):
    """The value of an activation is written on after it was read."""

    def work(self, x: Tensor) -> Tensor:
        y = functional.gelu(x)
        z = y + 1
        y.mul_(2)
        return y + z


@IN_PLACE(VECTORS)
class WritesOnALayersValue(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        z = 3 * x
        x.add_(1)
        return torch.tanh(x) + z


@IN_PLACE(VECTORS)
class ClampInPlace(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        return x.clone().clamp_(-0.5, 0.5)


@IN_PLACE(VECTORS)
class WritesOnAView(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        y = x * 1.0
        y[:, :3].mul_(2)
        y[:, 3:] = y[:, 3:].tanh()
        return y


@IN_PLACE(VECTORS)
class WritesOnAViewOfALayer(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        x[:, 0] = 0.0
        x[:, 1:3].sigmoid_()
        return x


@IN_PLACE(VECTORS)
class WritesOnItsInput(nn.Module):
    """The batch itself is normalised in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean(0)
        x /= x.std(0)
        return self.a(x).tanh_()


@IN_PLACE(VECTORS)
class MaskedFillInPlace(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        y = x.sin()
        y.masked_fill_(x < 0, 0.1)
        return y


@IN_PLACE(VECTORS)
class BooleanAssignment(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[y < 0] *= 0.2
        y[x > 1] = 1.0
        return y


@IN_PLACE(VECTORS)
class OutArgument(OneLayer):
    """Preallocated memory of torch.no_grad statistics, by out=."""

    def work(self, x: Tensor) -> Tensor:
        mean = torch.empty(x.shape[1], dtype=x.dtype)
        with torch.no_grad():
            torch.mean(x, 0, out=mean)
        return (x - mean).tanh()


@IN_PLACE(normal((3, 5, 4)))
class Preallocated(nn.Module):
    """Each step's value is assigned into a tensor made before."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.Linear(10, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        states = torch.zeros(x.shape[0], x.shape[1] + 1, 6, dtype=x.dtype)
        for t in range(x.shape[1]):
            joined = torch.cat([x[:, t], states[:, t].clone()], -1)
            states[:, t + 1] = torch.tanh(self.cell(joined))
        return self.out(states[:, 1:])


@IN_PLACE(normal((3, 5, 4)))
class PreallocatedOutput(nn.Module):
    """The output itself was made before."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(x.shape[0], x.shape[1], 2)
        for t in range(x.shape[1]):
            out[:, t] = self.a(x[:, t])
        return out


@IN_PLACE(normal((3, 5, 4)))
class NewTensorOfValues(nn.Module):
    """copy_ into rows, one a batch entry."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.empty(x.shape[0], 3, dtype=x.dtype)
        for i in range(x.shape[0]):
            rows[i].copy_(self.a(x[i]).relu().sum(0))
        return self.b(rows)


@IN_PLACE(normal((3, 4, 8)))
class SplitAndCat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.a(x).chunk(3, -1)
        first, rest = torch.split(v, [1, 2], -1)
        steps = [(a * b).tanh() for a, b in zip(q.unbind(1), k.unbind(1), strict=True)]
        return self.b(torch.cat([torch.stack(steps, 1), first.exp(), rest, q], -1)[..., :9])


@IN_PLACE(VECTORS)
class SplitInPlace(OneLayer):
    """Parts of one tensor, each written on."""

    def work(self, x: Tensor) -> Tensor:
        y = x + 0
        left, right = y[:, :3], y[:, 3:]
        left.sin_()
        right.mul_(2)
        return y.tanh()


@IN_PLACE(VECTORS)
class Gather(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        order = x.argsort(-1)
        return x.gather(-1, order).cumsum(-1)


@IN_PLACE(VECTORS)
class ScatterAdd(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        places = torch.arange(6).flip(0).expand(5, 6) // 2
        return torch.zeros(5, 6, dtype=x.dtype).scatter_add(1, places, x.square())


@IN_PLACE(VECTORS)
class ScatterInPlace(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        places = torch.tensor([[5, 3, 1]]).expand(5, 3)
        y = torch.ones_like(x)
        y.scatter_(1, places, x[:, :3].tanh())
        y.scatter_reduce_(1, places, x[:, 3:], "amax")
        return y


@IN_PLACE(VECTORS)
class IndexAdd(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        rows = torch.tensor([0, 1, 1, 0, 2])
        sums = torch.zeros(5, 6, dtype=x.dtype).index_add_(0, rows, x)
        return sums.index_select(0, rows) + x


@IN_PLACE(VECTORS)
class IndexPut(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y.index_put_((torch.tensor([0, 2, 2]),), x[:3], accumulate=True)
        return y + x.index_fill(1, torch.tensor([1]), 0.5)


@IN_PLACE(VECTORS)
class Where(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x.square(), x.sin())


@IN_PLACE(VECTORS)
class TopK(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        values, places = x.topk(2, -1)
        return torch.zeros_like(x).scatter(-1, places, values.softmax(-1))


@IN_PLACE(VECTORS)
class Sort(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        values, order = x.sort(-1, descending=True)
        return values.cumprod(-1) + order.to(x.dtype)


@IN_PLACE(VECTORS)
class LargestAndMedian(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        largest, place = x.max(-1, keepdim=True)
        return x - largest + x.median(-1, keepdim=True).values + x.logcumsumexp(-1) + place


@IN_PLACE(VECTORS)
class RollFlipRepeat(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        y = x.roll(1, -1) + x.flip(-1)
        return (y.repeat(1, 2) * x.repeat_interleave(2, -1)).unfold(1, 2, 2).prod(-1)


@IN_PLACE(VECTORS)
class StridesAndTransposes(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        y = x.view(5, 2, 3).permute(2, 0, 1).contiguous().reshape(3, -1)
        z = torch.as_strided(y, (5, 6), (6, 1))
        return z.T.contiguous().T + x.expand(2, 5, 6).sum(0).narrow(1, 0, 6)


@IN_PLACE(VECTORS)
class NestedLists(OneLayer):
    """Values kept in Python lists of lists, then stacked."""

    def work(self, x: Tensor) -> Tensor:
        table: list[list[Tensor]] = [[x[i, j] for j in range(6)] for i in range(5)]
        for i in range(1, 5):
            for j in range(1, 6):
                table[i][j] = table[i][j] + 0.1 * table[i - 1][j - 1].tanh()
        return torch.stack([torch.stack(row) for row in table])


@IN_PLACE(VECTORS)
class LinearAlgebra(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        gram = x.T @ x + torch.eye(6, dtype=x.dtype)
        whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), x.T, upper=False)
        return torch.linalg.solve(gram, x.T).T + whitened.T + torch.logdet(gram)


@IN_PLACE(VECTORS)
class SingularValues(OneLayer):
    def work(self, x: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        return (u * s.log1p()) @ v


@IN_PLACE(normal((2, 3, 6, 6)))
class PadAndCrop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.pad(self.a(x), (1, 1, 2, 0), value=0.3)
        y[..., 0, :] += 1
        return self.b(y[:, :, 1:, :-1]).relu_()


@IN_PLACE(normal((3, 4)))
class AugmentedLoop(nn.Module):
    """A running sum, added to in place by each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total: Any = 0
        for layer in self.layers:
            x = torch.sin(layer(x))
            total += x
        total /= len(self.layers)
        return total


@IN_PLACE(normal((3, 4)))
class SetData(nn.Module):
    """Writes on .data of an activation, unseen by autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) * 2
        h.data.clamp_(-1, 1)
        return self.b(h)


@IN_PLACE(normal((3, 4)))
class WritesUnderNoGrad(nn.Module):
    """Changes an activation under no_grad, unseen by autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        with torch.no_grad():
            h.clamp_(-0.3, 0.3)
        return self.b(h)


@IN_PLACE(normal((3, 4)))
class BiasInPlace(nn.Module):
    """A parameter is added in place to what a layer computed."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.b, self.out = (
            nn.Parameter(torch.randn(5, 4)),
            nn.Parameter(torch.randn(5)),
            nn.Linear(5, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = functional.linear(x, self.W)
        h += self.b
        return self.out(functional.gelu(h))


@IN_PLACE(normal((3, 4)))
class GainInPlace(nn.Module):
    """A parameter multiplies in place what an activation computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gain, self.out = nn.Linear(4, 5), nn.Parameter(torch.randn(5)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.silu(self.a(x))
        h *= self.gain
        h[:, 0] = self.gain[1]
        return self.out(h)
