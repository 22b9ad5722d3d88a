"""Modules as users write them: autograd's own means, hooks, state, TorchScript, torch.func."""

# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,misc,override"
# mypy: disallow_untyped_decorators=False

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.catalogue.entries import Group, normal

SPECIAL = Group("written: autograd, hooks, state, TorchScript")
VECTORS = normal((5, 4))


def _net(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Round(torch.autograd.Function):
    """Rounds; gradients pass straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Reverse(torch.autograd.Function):
    """Turns the gradient round, as in domain-adversarial training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


class LinearByHand(torch.autograd.Function):
    """A layer with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, W)
        return x @ W.T + b

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, W = ctx.saved_tensors
        return gradient @ W, gradient.T @ x, gradient.sum(0)


@SPECIAL(VECTORS)
class StraightThrough(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(Round.apply(3 * self.a(x)))


@SPECIAL(VECTORS)
class StraightThroughByDetach(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        soft = self.a(x).sigmoid()
        hard = (soft > 0.5).to(soft.dtype)
        return self.b(hard + soft - soft.detach())


@SPECIAL(VECTORS)
class GradientReversal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.task, self.domain = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).relu()
        return self.task(h), self.domain(Reverse.apply(h, 0.3))


@SPECIAL(VECTORS)
class LayerWithItsOwnBackward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 6), nn.Linear(3, 2)
        self.W, self.b = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        h = LinearByHand.apply(self.a(x).tanh(), self.W, self.b)
        return self.c(h.relu())


@SPECIAL(VECTORS)
class VectorQuantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 3), nn.Linear(3, 4)
        self.codes = nn.Embedding(7, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(x)
        with torch.no_grad():
            nearest = torch.cdist(z, self.codes.weight).argmin(-1)
        code = self.codes(nearest)
        loss = functional.mse_loss(code, z.detach()) + 0.25 * functional.mse_loss(z, code.detach())
        return self.decode(z + (code - z).detach()), loss


@SPECIAL(VECTORS)
class NoGradInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            target = self.teacher(x).softmax(-1)
        h = self.student(x)
        return self.out(h.relu() * target), (h.log_softmax(-1) * target).sum(-1)


@SPECIAL(VECTORS)
class NoGradDecorator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    @torch.no_grad()
    def scale(self, h: Tensor) -> Tensor:
        return h.std(0, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h / self.scale(h))


@SPECIAL(VECTORS)
class DetachInside(nn.Module):
    """Targets from the network itself, as in SimSiam."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.predict = _net(4, 5, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.encode(x), self.encode(x.flip(0))
        return functional.cosine_similarity(self.predict(a), b.detach(), dim=-1)


@SPECIAL(normal((3, 6, 4)))
class TruncatedRecurrence(nn.Module):
    """Detaches its state every second step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.RNNCell(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(3, 5, dtype=x.dtype)
        for t in range(6):
            h = self.cell(x[:, t], h.detach() if t % 2 else h)
        return self.out(h)


@SPECIAL(VECTORS)
class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.middle, self.b = nn.Linear(4, 5), _net(5, 6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.middle, self.a(x).relu(), use_reentrant=False)
        return self.b(h)


@SPECIAL(VECTORS, train=True)
class CheckpointedWithDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.middle = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.middle, self.a(x), use_reentrant=False)
        return self.b(h)


@SPECIAL(VECTORS)
class CheckpointedRoot(nn.Module):
    """All of it within one checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _net(4, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


@SPECIAL(VECTORS)
class CheckpointedInSegments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.out = _net(4, 5, 5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(checkpoint_sequential(self.net, 2, x, use_reentrant=False))


@SPECIAL(VECTORS)
class CheckpointedReentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.middle, self.b = nn.Linear(4, 5), _net(5, 6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.middle, self.a(x).relu(), use_reentrant=True)
        return self.b(h)


@SPECIAL(VECTORS)
class VmapInside(nn.Module):
    """One function of a sample, mapped over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.W = nn.Parameter(torch.randn(5, 5) / 2)

    def one(self, h: Tensor) -> Tensor:
        return torch.outer(h, h).tanh() @ self.W @ h

    def forward(self, x: Tensor) -> Tensor:
        return self.b(vmap(self.one)(self.a(x)))


@SPECIAL(VECTORS)
class EnsembleByVmap(nn.Module):
    """Stacked weights of several members, by functional_call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.weights = nn.Parameter(torch.randn(3, 5, 4))
        self.biases = nn.Parameter(torch.randn(3, 5))
        self.one = [nn.Linear(4, 5)]

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).relu()

        def member(weight: Tensor, bias: Tensor) -> Any:
            return functional_call(self.one[0], {"weight": weight, "bias": bias}, (h,))

        return vmap(member)(self.weights, self.biases).tanh()


@SPECIAL(VECTORS)
class DirectionalDerivative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.out = _net(4, 6, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = jvp(self.net, (x,), (torch.ones_like(x),))
        return self.out(value), slope


@SPECIAL(VECTORS)
class JacobianInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.net = nn.Linear(4, 3), _net(3, 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        y: Tensor = self.net(h)
        return y + vmap(jacrev(self.net))(h).square().sum(-1)


@SPECIAL(VECTORS)
class HamiltonianNet(nn.Module):
    """Its output is the derivative of an energy with respect to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = _net(4, 8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        q, p = slope.chunk(2, -1)
        return torch.cat([p, -q], -1)


@SPECIAL(VECTORS)
class HamiltonianWithin(nn.Module):
    """Layers below and above a part that calls autograd.grad."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.energy, self.above = nn.Linear(4, 4), HamiltonianNet(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.energy(self.below(x).tanh()))


@SPECIAL(VECTORS)
class ForceField(nn.Module):
    """Energy of each sample and the forces on it, as in models of molecules."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _net(4, 6, 1)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        positions = positions.clone().requires_grad_()
        energy = self.net(positions)
        (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return energy, -slope


@SPECIAL(VECTORS)
class InnerGradientStep(nn.Module):
    """Adapts its head by a step of gradient descent, as in MAML."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).tanh()
        inner = self.head(h[:2]).square().sum()
        (change,) = torch.autograd.grad(inner, self.head.weight, create_graph=True)
        return functional.linear(h[2:], self.head.weight - 0.1 * change, self.head.bias)


@SPECIAL(VECTORS, dtype=torch.float32, tolerance=3e-2, name="Autocast to bfloat16 (float32)")
class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            h = torch.relu(self.b(self.a(x).tanh()))
        return self.c(h.float())


@SPECIAL(VECTORS, dtype=torch.float32, tolerance=3e-2, name="Autocast throughout (float32)")
class AutocastThroughout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2))

    @torch.autocast("cpu", torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def _double_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2 + output.sin()


def _shift_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0] - 0.3, *args[1:])


def _clip_gradient(module: nn.Module, below: Any, above: Any) -> tuple[Tensor, ...]:
    return tuple(0.5 * g for g in below)


@SPECIAL(VECTORS, name="ForwardHook")
def forward_hook() -> nn.Module:
    net = _net(4, 5, 5, 2)
    net[0].register_forward_hook(_double_output)
    net[1].register_forward_hook(_double_output)
    return net


@SPECIAL(VECTORS, name="ForwardPreHook")
def forward_pre_hook() -> nn.Module:
    net = _net(4, 5, 5, 2)
    net[2].register_forward_pre_hook(_shift_input)
    net[3].register_forward_pre_hook(_shift_input)
    return net


@SPECIAL(VECTORS, name="BackwardHook")
def backward_hook() -> nn.Module:
    net = _net(4, 5, 5, 2)
    net[2].register_full_backward_hook(_clip_gradient)
    return net


@SPECIAL(VECTORS, name="BackwardPreHook")
def backward_pre_hook() -> nn.Module:
    net = _net(4, 5, 5, 2)
    net[2].register_full_backward_pre_hook(lambda module, above: (3 * above[0],))
    return net


@SPECIAL(VECTORS, name="HookOnParameter")
def hook_on_parameter() -> nn.Module:
    net = _net(4, 5, 5, 2)
    net[2].weight.register_hook(lambda g: g.clamp(-0.1, 0.1))
    return net


@SPECIAL(VECTORS, name="HookAfterAccumulation")
def hook_after_accumulation() -> nn.Module:
    net = _net(4, 5, 5, 2)

    def halve(p: Tensor) -> None:
        assert p.grad is not None
        p.grad.mul_(0.5)

    net[2].weight.register_post_accumulate_grad_hook(halve)
    return net


@SPECIAL(VECTORS)
class HookOnActivity(nn.Module):
    """A hook on a tensor, within forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h.register_hook(lambda g: g.clamp(-0.2, 0.2))
        return self.b(h)


@SPECIAL(VECTORS)
class HookOnLayersValue(nn.Module):
    """A hook between a layer and its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        a.register_hook(lambda g: 2 * g)
        return self.b(a.relu())


@SPECIAL(VECTORS)
class RetainsGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.a(x).relu()
        if self.hidden.requires_grad:
            self.hidden.retain_grad()
        return self.b(self.hidden)


@SPECIAL(VECTORS, name="PatchedForward")
def patched_forward() -> nn.Module:
    net = _net(4, 5, 5, 2)
    inner = net[2].forward

    def forward(x: Tensor) -> Tensor:
        y: Tensor = inner(x)
        return x + 0.5 * y

    net[2].forward = forward
    return net


@SPECIAL(VECTORS, name="CallsForwardDirectly")
class CallsForwardDirectly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b.forward(torch.tanh(self.a.forward(x)))


@SPECIAL(VECTORS)
class FeaturesByHook(nn.Module):
    """Collects what a part computes by a hook, and reads it elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.probe = _net(4, 5, 5, 2), nn.Linear(5, 3)
        self.features: dict[str, Tensor] = {}
        self.net[1].register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.features["hidden"] = output

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.net(x)
        return y, self.probe(self.features["hidden"])


@SPECIAL(VECTORS)
class KeepsState(nn.Module):
    """Its memory is an attribute, made anew in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.mem: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.mem = torch.zeros(x.shape[0], 5, dtype=x.dtype)
        for _ in range(3):
            self.mem = 0.8 * self.mem + torch.tanh(self.a(x) - self.mem)
        return self.b(self.mem)


@SPECIAL(VECTORS)
class CarriesState(nn.Module):
    """Its memory goes on from one call to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.mem: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = torch.tanh(self.a(x))
        h = h if self.mem is None else h + self.mem
        self.mem = h.detach()
        return self.b(h / self.calls)


@SPECIAL(VECTORS)
class KeepsAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.history: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        self.history.append(h.detach().mean(0))
        return self.b(h - torch.stack(self.history).mean(0))


@SPECIAL(VECTORS, train=True)
class MovingAverageBuffer(nn.Module):
    """A buffer that each run in training mode changes, in place and read at once."""

    average: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.register_buffer("average", torch.zeros(5))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.training:
            with torch.no_grad():
                self.average.lerp_(h.mean(0), 0.1)
                self.count += 1
        return self.b((h - self.average).tanh())


@SPECIAL(VECTORS, train=True)
class NewBuffer(nn.Module):
    """A buffer replaced by another tensor in each run."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.register_buffer("average", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.average = 0.9 * self.average + 0.1 * h.detach().mean(0)
        return self.b((h - self.average).tanh())


@SPECIAL(VECTORS, train=True, name="MomentumTeacher")
class MomentumTeacher(nn.Module):
    """A copy that follows the student, as in BYOL; its weights move in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.predict = _net(4, 5, 3), nn.Linear(3, 3)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            for old, new in pairs:
                old.lerp_(new, 0.1)
            target = self.teacher(x.flip(0))
        return (self.predict(self.student(x)) - target).square().sum(-1)


@SPECIAL(VECTORS)
class ScriptedPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.middle = torch.jit.script(_net(5, 6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.middle(self.a(x).relu()))


@SPECIAL(VECTORS)
class TracedPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.middle = torch.jit.trace(_net(5, 6, 5), torch.randn(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.middle(self.a(x).relu()))


@SPECIAL(VECTORS, name="ScriptedRoot")
def scripted_root() -> nn.Module:
    return torch.jit.script(_net(4, 5, 3))


@SPECIAL(VECTORS, name="TracedRoot")
def traced_root() -> nn.Module:
    return torch.jit.trace(_net(4, 5, 3), torch.randn(2, 4))


@torch.jit.script
def scripted_gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / 1.41421))


@SPECIAL(VECTORS)
class ScriptedFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(scripted_gelu(self.a(x)))


@SPECIAL(VECTORS, name="TracedByFx")
def traced_by_fx() -> nn.Module:
    return torch.fx.symbolic_trace(_net(4, 5, 3))


@SPECIAL(VECTORS)
class FunctionalCall(nn.Module):
    """The same part, with other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = _net(4, 5, 4), nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> Any:
        scaled = {name: p * self.scale for name, p in self.net.named_parameters()}
        return functional_call(self.net, scaled, (self.net(x),))


@SPECIAL(VECTORS)
class RawParameters(nn.Module):
    """Functional calls alone; weights in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.W1, self.b1 = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5))
        self.W2, self.gain = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.linear(x, self.W1, self.b1)
        h = functional.layer_norm(h, (5,), self.gain)
        return functional.linear(functional.elu(h), self.W2)


class OldParameter:
    """A plain object that holds a layer, which torch doesn't list."""

    def __init__(self) -> None:
        self.layer = nn.Linear(4, 4)


@SPECIAL(VECTORS)
class UnlistedLayer(nn.Module):
    """A layer in a plain list: torch lists none of its parameters, and they have gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.a, self.b = [OldParameter()], nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.hidden[0].layer(torch.tanh(self.a(x)))))


@SPECIAL(VECTORS)
class SavedTensorsHooks(nn.Module):
    """What autograd saves is packed, as to offload it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        def pack(kept: Tensor) -> Any:
            return kept.detach().clone()

        def unpack(kept: Any) -> Tensor:
            return kept

        h = self.a(x).tanh()
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            h = self.b(h).tanh()
        return self.c(h)


@SPECIAL(VECTORS)
class InferenceModeInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        with torch.inference_mode():
            size = float(h.abs().max())
        return self.b(h / size)


@SPECIAL(VECTORS)
class NumpyInside(nn.Module):
    """Reads values by NumPy to choose what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        order = torch.from_numpy(h.detach().numpy().argsort(-1).copy())
        return self.b(h.gather(-1, order))


@SPECIAL(VECTORS)
class TensorSubclassInput(nn.Module):
    """Marks its activities with a tensor subclass of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).as_subclass(Marked)
        y = self.b(torch.tanh(h) * 2)
        return torch.Tensor.as_subclass(y, Tensor)


class Marked(Tensor):
    """A tensor with a name of its own."""


def _apply_twice(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return f(f(x))


@SPECIAL(VECTORS)
class HigherOrderFunctions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(_apply_twice(lambda h: torch.sigmoid(self.a(h)), x))


def _keep_output(module: Any, args: Any, output: Tensor) -> None:
    module.kept.append(output)


@SPECIAL(VECTORS)
class InstallsItsHooks(nn.Module):
    """Hooks itself up in its first call, and returns all that the hooks saw."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.is_hooked = _net(4, 5, 5, 2), False

    def forward(self, x: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []
        for part in (self.net[0], self.net[2], self.net[4]):
            vars(part)["kept"] = kept
            if not self.is_hooked:
                part.register_forward_hook(_keep_output)
        self.is_hooked = True
        self.net(x)
        return kept


@SPECIAL(VECTORS)
class MadeInForward(nn.Module):
    """Makes a layer in its first call, when it sees what size is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.out: nn.Linear | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        if self.out is None:
            self.out = nn.Linear(h.shape[-1], 2, dtype=x.dtype)
        return self.out(h)


@SPECIAL(VECTORS, name="LazyNetwork")
def lazy_network() -> nn.Module:
    """Not yet materialised when ardyn sees it first."""
    return nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(2))
