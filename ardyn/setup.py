"""Setup: a module, its Rule and its time constants become Dynamics on one batch after another."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.coupled import check_moves
from ardyn.dynamics.feedback import checked_feedback
from ardyn.dynamics.loss import Loss, check_drive, evaluation
from ardyn.dynamics.plasticity import Plasticity
from ardyn.dynamics.rule import Rule, check_rules_matter, check_tau_trace, rule_of_each_block
from ardyn.errors import InputError, check_finite, check_positive, is_finite
from ardyn.network.containers import tensors_in
from ardyn.network.feed_forward import feed_forward, named_parameters
from ardyn.network.forward_pass import Driven
from ardyn.network.network import Network, Units

Value = TypeVar("Value")


@dataclass(frozen=True)
class Assigned:
    """What Rule and τ mean for the blocks and units of one network; checked."""

    relaxing: Network
    """The network; its clamped outputs transmit instantaneously."""
    rules: Mapping[str, Rule]
    tau: Mapping[str, float]
    psi: tuple[str, ...]
    """Blocks that have feedback weights."""


@dataclass(frozen=True)
class Setup:
    """All that a Relaxation takes besides its batch; the arguments are those of ``Relaxation``."""

    model: nn.Module
    _: KW_ONLY
    loss: Loss = "sse"
    rule: Rule | Mapping[str, Rule] = Rule()  # noqa: RUF009  (frozen)
    tau: float | Sequence[float] = 1.0
    feedback: Mapping[str, Tensor] | None = None
    tau_trace: float | None = None
    units: Units = "block"
    plasticity: Plasticity | None = None
    _assigned: dict[Network, Assigned] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What was checked for a network at one batch is not checked again at the next."""

    @property
    def psi(self) -> Mapping[str, Tensor]:
        """Feedback weights by block."""
        return self.feedback or {}

    @property
    def is_plastic(self) -> bool:
        """Whether weights change while activities relax."""
        return self.plasticity is not None and self.plasticity.moves

    def feed_forward(self, inputs: Any, targets: Any) -> Driven:
        """The feed-forward pass on a batch, the loss, and its gradients at the outputs.

        Raises:
            InputError: a model, inputs or targets that cannot be used.
        """
        named = {} if self._assigned else named_parameters(self.model)
        given = as_inputs(inputs)
        check_differentiable(named, given, targets, self.loss)
        check_finite({f"parameter '{name}'": p for name, p in named.items()})
        try:
            driven = self.pass_with({}, inputs, targets)
        except InputError:
            check_finite(numbered("inputs", given))
            raise
        # A mask may hold infinities: they do no harm where only a softmax reads them.
        if not is_finite(given) and not is_finite(driven.forward_pass.below.values()):
            check_finite(numbered("inputs", given))
        run = driven.forward_pass.run
        buffers = (b for m in run.modules.values() for b in m._buffers.values() if b is not None)
        run.unchanged.watch((*run.parameters.values(), *buffers, *given, *tensors_in(targets)))
        return driven

    def pass_with(self, weights: Mapping[str, Tensor], inputs: Any, targets: Any) -> Driven:
        """The same with these weights in place of the module's own, by parameter."""
        evaluate = evaluation(self.loss, targets)
        driven = feed_forward(self.model, inputs, evaluate, self.units, weights, self.loss)
        activity = driven.forward_pass.activity
        check_drive(self.loss, driven.drive, {name: activity[name] for name in driven.drive})
        return driven

    def dynamics(self, driven: Driven) -> Dynamics:
        """Every block with its Rule and ψ, every unit with its time constant.

        Raises:
            InputError: a Rule, τ, ψ or plasticity that does not fit the network.
        """
        passed = driven.forward_pass
        known = self._assigned.get(passed.network)
        its = known or self._assign(passed.network, passed.parameters)
        weights = {b: passed.parameters[its.relaxing.block[b].layer.weight or ""] for b in its.psi}
        dynamics = Dynamics(
            replace(passed, network=its.relaxing),
            driven.drive,
            its.rules,
            {block: self.psi[block].detach().to(W) for block, W in weights.items()},
            its.tau,
            self.tau_trace,
            frozenset(name for name, p in passed.run.parameters.items() if not p.requires_grad),
        )
        if self.plasticity is not None and known is None:
            check_moves(self.plasticity, dynamics)
        self._assigned[passed.network] = its
        return dynamics

    def _assign(self, network: Network, parameters: Mapping[str, Tensor]) -> Assigned:
        rules = rule_of_each_block(self.rule, tuple(network.block))
        check_rules_matter(network, self.rule)
        check_tau_trace(self.tau_trace, rules.values())
        is_clamped = next(iter(rules.values())).output == "clamped"
        relaxing = network.clamped if is_clamped else network
        if not relaxing.units:
            why = (
                "one block and a clamped output; let it relax"
                if is_clamped
                else "the module returns its parameters as they are; return what it computes"
            )
            raise InputError(f"no unit relaxes: {why}")
        tau = tau_of_each(self.tau, relaxing.units)
        psi = checked_feedback(relaxing, parameters, rules, self.psi)
        return Assigned(relaxing, rules, tau, tuple(psi))


def as_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Every tensor among the arguments of a module.

    Raises:
        InputError: arguments that should be tensors, or a batch without samples.
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
    """{name: value}, or {name[i]: value} where there are several."""
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}[{i}]": value for i, value in enumerate(values)}


def check_differentiable(
    parameters: Mapping[str, Tensor], inputs: Sequence[Tensor], targets: object, loss: Loss
) -> None:
    """Raise InputError for tensors or a mode for which autograd records no graph."""
    compared = tensors_in(targets)
    if not compared and not callable(loss):
        raise InputError(
            f"targets must be a torch.Tensor, got {type(targets).__name__}; use torch.as_tensor"
        )
    if torch.is_inference_mode_enabled():
        raise InputError(
            "torch.inference_mode() is on, in which autograd computes no gradients; use "
            "torch.no_grad()"
        )
    named = numbered("inputs", inputs) | numbered("targets", compared)
    for name, x in (dict(parameters) | named).items():
        if isinstance(x, UninitializedParameter):
            raise InputError(
                f"'{name}' has no shape yet; run the model on one batch first to initialise it"
            )
        if x.is_inference():
            raise InputError(
                f"'{name}' was made under torch.inference_mode(), so that autograd cannot use it; "
                f"make it outside of that mode, or clone it there"
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
