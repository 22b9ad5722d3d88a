"""Hooks of modules, parameters and tensors act as under backprop."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

import ardyn
from tests.oracles.problems import assert_same, difference, gradients_on
from tests.oracles.side_by_side import (
    LONG,
    NO_TARGET,
    UNITS,
    Net,
    Shared,
    assert_learns_as_backprop,
    batches,
    filled,
    learned,
    net,
    randn,
    scale_output,
    seed_everything,
    total,
)


def patched(module: nn.Module) -> None:
    original = module.forward
    module.forward = lambda x: original(x).sin()


def reads_twice(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output + 0.1 * output.detach().abs()


def weighs_inputs(module: nn.Module, gradients: Any, _: Any) -> Any:
    return tuple(None if g is None else 3 * g for g in gradients)


def weighs_outputs(module: nn.Module, gradients: Any) -> Any:
    return tuple(None if g is None else 0.5 * g for g in gradients)


HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "forward": lambda m: m.register_forward_hook(scale_output),
    "forward, of what is detached": lambda m: m.register_forward_hook(reads_twice),
    "forward, before": lambda m: m.register_forward_pre_hook(lambda _, args: (2 * args[0],)),
    "forward, with keywords": lambda m: m.register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0].cos(),), kwargs), with_kwargs=True
    ),
    "backward": lambda m: m.register_full_backward_hook(weighs_inputs),
    "backward, before": lambda m: m.register_full_backward_pre_hook(weighs_outputs),
    "forward patched": patched,
}


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("where", ["conv", "act", "hidden", "last", ""])
@pytest.mark.parametrize("hook", HOOKS.values(), ids=list(HOOKS))
def test_hooks_of_modules_act_as_under_backprop(hook, where, units):
    def make() -> Any:
        model = net()
        hook(model.get_submodule(where))
        return model

    given = [x.requires_grad_() for x in batches(4, 6, steps=2)]
    hooked = assert_learns_as_backprop(make, given, units=units)
    plain = learned(net, given, total, lambda m, s: None, "bp", units)
    assert any(difference(hooked[0][n], plain[0][n]) > 1e-3 for n in plain[0])


@pytest.mark.parametrize("where", ["hidden", "last"])
def test_a_backward_hook_of_the_old_kind_acts_or_is_refused(where):
    def make() -> Any:
        model = net()
        model.get_submodule(where).register_backward_hook(
            lambda module, gradients, _: tuple(None if g is None else 3 * g for g in gradients)
        )
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert_right_or_refused(make, randn(4, 6), "hook")


def assert_right_or_refused(make: Callable[[], nn.Module], inputs: Any, words: str) -> None:
    """Autograd's gradients, or a sentence with these words."""
    truth, model = make(), make()
    seed_everything(3)
    total(truth(inputs)).backward()
    seed_everything(3)
    try:
        ardyn.backward(model, inputs, NO_TARGET, total, duration=LONG)
    except ardyn.InputError as refused:
        assert words in str(refused)  # noqa: PT017  (either is right)
    else:
        assert_same(gradients_on(model), gradients_on(truth), 1e-8)


def test_hooks_for_all_modules_act_as_under_backprop():
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output.cos() if isinstance(module, nn.Linear) else None
    )
    try:
        assert_learns_as_backprop(net, batches(4, 6, steps=2))
    finally:
        handle.remove()


# Hooks of parameters and of tensors


def clipped(g: Tensor) -> Tensor:
    return g.clamp(-0.3, 0.3)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("has_both", [True, False])
def test_a_hook_of_a_parameter_is_called_once_with_the_whole_gradient(has_both, units):
    def make() -> Any:
        model = filled(Shared())
        model.seen, model.left = [], []
        if has_both:
            weight = model.layer.weight
            weight.register_hook(lambda g: (model.seen.append(g.clone()), clipped(g))[1])
        model.layer.weight.register_post_accumulate_grad_hook(
            lambda p: (model.left.append(p.grad.clone()), p.grad.mul_(2), None)[2]
        )
        return model

    models: list[Any] = [make(), make()]
    inputs = [x.abs() for x in batches(5, 4)]
    for x in inputs:
        total(models[0](x)).backward()
        ardyn.backward(models[1], x, NO_TARGET, total, duration=LONG, units=units)
    assert_same(gradients_on(models[1]), gradients_on(models[0]), 1e-8)
    for name in ("seen", "left") if has_both else ("left",):
        truth, found = getattr(models[0], name), getattr(models[1], name)
        assert len(found) == len(truth) == len(inputs)
        assert all(difference(x, y) < 1e-8 for x, y in zip(found, truth, strict=True))
    assert not has_both or (models[0].seen[0].abs() > 0.3).any()


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize(
    "place", ["the input of a layer", "a layer", "an activation", "a view", "the output"]
)
@pytest.mark.parametrize("hook", [lambda g: 3 * g, clipped], ids=["linear", "clipped"])
def test_hooks_of_tensors_act_as_under_backprop(hook, place, units):
    class Hooked(Net):
        def forward(self, x: Tensor) -> Tensor:
            def here(name: str, h: Tensor) -> Tensor:
                if name == place:
                    h.register_hook(hook)
                return h

            h = here("a layer", self.conv(x[:, None])).tanh()
            h = here("the input of a layer", h.mean(1))
            h = here("an activation", self.hidden(h).tanh())
            h = here("a view", h.view(-1, 5, 1)).flatten(1)
            return here("the output", self.last(h))

    assert_learns_as_backprop(lambda: filled(Hooked()), batches(4, 6, steps=2), units=units)


def test_a_hook_that_clips_is_followed_in_time_or_refused():
    """It makes the system nonlinear, so that the closed form cannot be its solution."""

    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x).tanh()
                x.register_hook(clipped)
            return x

    sim = ardyn.Relaxation(filled(Clipped()), randn(3, 4), NO_TARGET, total)
    stepped = sim.solve([0.5, 2.0], ardyn.Adaptive("dopri5", rtol=1e-9, atol=1e-11))
    try:
        exact = sim.solve([0.5, 2.0])
    except ardyn.InputError as refused:
        assert "hook" in str(refused)  # noqa: PT017  (either is right)
    else:
        assert_same(
            {u: exact[u] for u in exact.units}, {u: stepped[u] for u in stepped.units}, 1e-7
        )
