"""What a Relaxation refuses, before any work starts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from ardyn.closed_form.solver import ClosedForm
from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.loss import Loss
from ardyn.dynamics.plasticity import (
    Plasticity,
    check_is_plasticity,
    check_time_constant,
    check_window_within,
)
from ardyn.dynamics.rule import Rule, first_match
from ardyn.errors import InputError, check_positive
from ardyn.network.activations import identity
from ardyn.network.containers import tensors_in
from ardyn.network.layers import Conv, PerMember, Weighted
from ardyn.network.network import Network
from ardyn.solvers.integrators import Adaptive, Fixed
from ardyn.solvers.sweep import Sweep

Value = TypeVar("Value")


def as_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Every tensor that a module is called with.

    Raises:
        InputError: none, or something that should be one.
    """
    found = tuple(tensors_in(inputs))
    is_call = isinstance(inputs, (tuple, dict)) or (isinstance(inputs, list) and found)
    given = inputs if is_call and not isinstance(inputs, dict) else (inputs,)
    for name, x in numbered("inputs", given).items():
        if isinstance(x, np.ndarray) or not (is_call or isinstance(x, Tensor)):
            raise InputError(
                f"{name} must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor"
            )
    if found and all(x.numel() == 0 for x in found):
        raise InputError(
            f"inputs must be [batch, …] with at least one sample, got "
            f"{', '.join(str(list(x.shape)) for x in found)}; pass one or more"
        )
    return found


def numbered(name: str, values: Sequence[Value]) -> dict[str, Value]:
    """By name, with their numbers where there are several."""
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}[{i}]": value for i, value in enumerate(values)}


def check_differentiable(
    parameters: Mapping[str, Tensor], inputs: Sequence[Tensor], targets: object, loss: Loss
) -> None:
    """Raise InputError for tensors or a mode that autograd cannot follow."""
    compared = tensors_in(targets)
    if not compared and not callable(loss):
        raise InputError(
            f"targets must be a torch.Tensor, got {type(targets).__name__}; use torch.as_tensor"
        )
    if torch.is_inference_mode_enabled():
        raise InputError(
            "torch.inference_mode() is on, under which there are no gradients to compare with; "
            "use torch.no_grad()"
        )
    named = numbered("inputs", inputs) | numbered("targets", compared)
    for name, x in (dict(parameters) | named).items():
        if isinstance(x, UninitializedParameter):
            raise InputError(
                f"'{name}' has no shape yet; run the model on one batch first, which gives it one"
            )
        if x.is_inference():
            raise InputError(
                f"'{name}' was made under torch.inference_mode(), so that autograd cannot follow "
                f"it; make it outside, or clone it there"
            )


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether none of them holds NaN or infinity."""
    sums = [x.detach().sum() for x in tensors if x.is_floating_point() or x.is_complex()]
    return all(math.isfinite(abs(each)) for each in torch.stack(sums).tolist()) if sums else True


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError if a tensor holds NaN or infinity; the message says which and where."""
    if is_finite(tensors.values()):
        return
    for name, x in tensors.items():
        bad = (~x.isfinite()).nonzero()
        if len(bad):
            where = bad[0].tolist()
            raise InputError(
                f"{name} holds {x[tuple(where)].item()} at {where} ({len(bad)} such values); "
                f"replace what is not finite"
            )


def tau_of_each(tau: float | Sequence[float], units: Sequence[str]) -> dict[str, float]:
    """The time constant of each relaxing unit."""
    values: list[Any] = [tau] * len(units) if np.ndim(tau) == 0 else list(tau)  # type: ignore[arg-type]
    values = [value.item() if hasattr(value, "item") else value for value in values]
    if len(values) != len(units):
        raise InputError(
            f"tau has {len(values)} values for {len(units)} relaxing units ({', '.join(units)}); "
            f"pass one number, or one per unit"
        )
    for unit, value in zip(units, values, strict=True):
        check_positive(f"tau of unit '{unit}'", value)
    return dict(zip(units, map(float, values), strict=True))


def check_rules_matter(network: Network, rule: Rule | Mapping[str, Rule]) -> None:
    """Raise InputError for a Rule that could change nothing in the blocks it is for."""
    if isinstance(rule, Rule):
        in_layers = replace(rule, output="relaxed", initial="feedforward") != Rule()
        if in_layers and not any(isinstance(each.layer, Weighted) for each in network.blocks):
            raise InputError(
                f"{rule} is for layers, but ardyn sees none that has a local rule: TorchScript, "
                f"torch.vmap, autograd.grad within forward and computed weights hide them; use "
                f"Rule(), or write the layers out"
            )
        return
    for pattern, its_rule in rule.items():
        blocks = [each for each in network.blocks if first_match(rule, each.name) == pattern]
        derivatives = {its_rule.relaxation_derivative, its_rule.update_derivative}
        has_weights = any(isinstance(each.layer, Weighted) for each in blocks)
        has_slopes = any(each.activation is not identity for each in blocks)
        useless = []
        if its_rule.feedback != "transpose" and not has_weights:
            useless.append(("feedback weights", "a fully connected layer or a convolution"))
        if derivatives != {"frozen"} and not has_slopes:
            useless.append(("a derivative", "an elementwise activation that ardyn knows"))
        for what, without in useless:
            raise InputError(
                f"the rule for {pattern!r} asks for {what}, but none of its blocks "
                f"({', '.join(each.name for each in blocks)}) is or has {without}; drop it there"
            )


def check_tau_trace(tau_trace: float | None, rules: Iterable[Rule]) -> None:
    """Raise InputError unless τ_z is there exactly where a Rule remembers activities."""
    if any(each.update_activity == "trace" for each in rules):
        if tau_trace is None:
            raise InputError("update_activity='trace' needs tau_trace; pass one such as 10.0")
        check_time_constant("tau_trace", tau_trace)
    elif tau_trace is not None:
        raise InputError(
            f"tau_trace = {tau_trace} was passed, but no Rule remembers activities; drop it, or "
            f"use Rule(update_activity='trace')"
        )


def checked_feedback(
    network: Network,
    parameters: Mapping[str, Tensor],
    rules: Mapping[str, Rule],
    feedback: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """ψ of every block whose Rule asks for it and that has weights, checked against Wᵀ."""
    if feedback and all(rule.feedback == "transpose" for rule in rules.values()):
        raise InputError(
            "feedback weights were passed, but every Rule sends back through Wᵀ; pass none, or use "
            "Rule(feedback='fixed')"
        )
    unknown = set(feedback) - {block.name for block in network.blocks}
    if unknown:
        raise InputError(
            f"feedback names {', '.join(map(repr, sorted(unknown)))}, which is no block; "
            f"the blocks are {', '.join(network.block)}"
        )
    psi = {}
    for block in network.blocks:
        if rules[block.name].feedback == "transpose" or not isinstance(block.layer, Weighted):
            continue
        if block.name not in feedback:
            raise InputError(
                f"feedback={rules[block.name].feedback!r} needs feedback weights for block "
                f"'{block.name}'; pass feedback=ardyn.random_feedback(model)"
            )
        given, expected = (
            feedback[block.name],
            block.layer.matrix(parameters[block.layer.weight]).mT,
        )
        if given.shape != expected.shape:
            layer = block.layer.layer if isinstance(block.layer, PerMember) else block.layer
            kernel = ", of the flattened kernel" if isinstance(layer, Conv) else ""
            raise InputError(
                f"feedback of '{block.name}' has shape {list(given.shape)}; it must have the shape "
                f"of Wᵀ{kernel}, {list(expected.shape)}"
            )
        psi[block.name] = given.detach().to(expected)
    if psi:
        check_finite({f"feedback of '{name}'": each for name, each in psi.items()})
    return psi


def check_stable(solver: Adaptive | Fixed | Sweep | ClosedForm, tau: Mapping[str, float]) -> None:
    """Raise InputError for a step at which the leak −x/τ alone would already grow."""
    if not isinstance(solver, (Adaptive, Fixed, Sweep, ClosedForm)):
        raise InputError(f"{solver!r} is no solver; pass one such as Adaptive('dopri5')")
    scheme = solver.of if isinstance(solver, ClosedForm) else solver
    if scheme is None or isinstance(scheme, Adaptive):
        return
    unit, shortest = min(tau.items(), key=lambda item: item[1])
    ratio = scheme.step / shortest
    if ratio < 1e-9:  # so short that rounding hides the decay; the number of steps is checked
        return
    if _growth(scheme, min(ratio, 1e6)) >= 1:
        bound = _stability_bound(scheme, ratio)
        name = f"'{scheme.method}'" if isinstance(scheme, Fixed) else "the sweep"
        raise InputError(
            f"a step of {scheme.step:g} is {ratio:.3g} times τ = {shortest:g} of unit '{unit}', "
            f"and {name} is unstable from h/τ ≥ {bound:.4g}; "
            f"use a step below {bound * shortest:.4g}"
        )


def check_steps(plasticity: Plasticity, solver: object) -> None:
    """Raise InputError for moving weights and the closed form, which has them stand still."""
    if plasticity.moves and isinstance(solver, ClosedForm):
        raise InputError(
            f"ClosedForm ('exact', the default) needs weights that stand still: with tau_weights = "
            f"{plasticity.tau_weights:g} and tau_feedback = {plasticity.tau_feedback:g} their "
            f"products with activities are not linear; pass an adaptive solver such as "
            f"Adaptive('dopri5')"
        )


def check_plasticity(
    plasticity: Plasticity, dynamics: Dynamics, solver: object, end: float | None = None
) -> None:
    """Raise InputError for plasticity that this network, or this solver, cannot integrate."""
    check_steps(plasticity, solver)
    if isinstance(solver, Adaptive) and solver.per_sample:
        raise InputError(
            "samples that move the same weights cannot be solved alone; drop per_sample"
        )
    fastest = min(plasticity.tau_weights, plasticity.tau_feedback)
    step = getattr(solver, "step", 0.0)
    if step > fastest:
        raise InputError(
            f"a step of {step:g} is longer than the weights' time constant {fastest:g}; use a step "
            f"below it, or slower weights"
        )
    if end is not None:
        check_window_within(plasticity.window, end)
    check_untied(dynamics.forward_pass.parameters)
    for block in dynamics.forward_pass.network.blocks:
        if block.layer.learns and not isinstance(block.layer, Weighted):
            raise InputError(
                f"plasticity moves the weights of fully connected layers and convolutions, but "
                f"block '{block.name}' has parameters of its own, differentiated at the frozen "
                f"pass; train such a network by ardyn.backward"
            )


def check_moves(plasticity: Plasticity, dynamics: Dynamics) -> None:
    """Raise InputError for what is not plasticity, or a τ_ψ where no ψ learns."""
    check_is_plasticity(plasticity)
    learns = any(rule.feedback == "learned" for rule in dynamics.rules.values())
    if plasticity.tau_feedback < math.inf and not learns:
        raise InputError(
            f"tau_feedback = {plasticity.tau_feedback:g} means nothing where no feedback weights "
            f"learn; drop it, or use Rule(feedback='learned')"
        )
    if plasticity.weight_decay and plasticity.tau_weights == math.inf:
        raise InputError(
            f"weight_decay = {plasticity.weight_decay:g} means nothing to weights that stand "
            f"still; drop it, or give tau_weights"
        )
    if plasticity.feedback_decay and plasticity.tau_feedback == math.inf:
        raise InputError(
            f"feedback_decay = {plasticity.feedback_decay:g} means nothing to feedback weights "
            f"that stand still; drop it, or give tau_feedback"
        )


def check_untied(parameters: Mapping[str, Tensor]) -> None:
    """Raise InputError where two names stand for one tensor, which would move twice."""
    seen: dict[tuple[int, torch.Size], str] = {}
    for name, W in parameters.items():
        other = seen.setdefault((W.data_ptr(), W.shape), name)
        if other != name and W.numel():
            raise InputError(
                f"plasticity moves every weight on its own, but '{other}' and '{name}' are one "
                f"tensor; use the module itself twice, or train by ardyn.backward"
            )


def check_update_linear(dynamics: Dynamics) -> None:
    """Raise InputError unless every update is linear in the activities above."""
    for block, rule in dynamics.rules.items():
        if rule.update_derivative not in ("frozen", "dropped") or rule.update_activity != "frozen":
            raise InputError(
                f"the quasi-static change needs a frozen or dropped update derivative and a frozen "
                f"update activity, got {rule.update_derivative!r} and {rule.update_activity!r} for "
                f"block '{block}'; integrate with Plasticity instead"
            )


def check_tolerance(solver: object, dtype: torch.dtype) -> None:
    """Raise InputError for a tolerance that only endless steps would reach in this type."""
    finest = torch.finfo(dtype).eps
    if isinstance(solver, Adaptive) and solver.rtol < finest:
        raise InputError(
            f"rtol = {solver.rtol:g} is finer than {str(dtype).removeprefix('torch.')} resolves; "
            f"use rtol ≥ {finest:.2g}, or a wider type"
        )


@lru_cache(maxsize=256)
def _growth(scheme: Fixed | Sweep, ratio: float) -> float:
    return scheme.growth(ratio)


def _stability_bound(scheme: Fixed | Sweep, ratio: float) -> float:
    """The smallest h/τ up to ``ratio`` at which a step no longer shrinks an activity."""
    scan = np.concatenate([np.linspace(0, min(ratio, 20), 100)[1:], [min(ratio, 1e6)]])
    first = next(i for i, z in enumerate(scan) if scheme.growth(float(z)) >= 1)
    below = scan[first - 1] if first else 1e-9
    return float(brentq(lambda z: scheme.growth(z) - 1, below, scan[first], xtol=1e-4))
