"""Rule: which of the paper's assumptions the relaxation and the weight update keep."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Literal, get_args

from ardyn.errors import InputError, check_choice, check_time_constant
from ardyn.network.activations import identity
from ardyn.network.network import Network

Feedback = Literal["transpose", "learned", "fixed"]
Derivative = Literal["frozen", "current", "postsynaptic", "dropped"]
Activity = Literal["frozen", "current", "trace"]
Output = Literal["relaxed", "clamped"]
Initial = Literal["feedforward", "zero"]


@dataclass(frozen=True)
class Rule:
    """The modelling choices; the default is the paper's Eq. 1 and 2.

    Raises:
        InputError: a value that is not among the choices.
    """

    feedback: Feedback = "transpose"
    """Feedback weights: Wᵀ, or ψ that is learned (Eq. 3) or random and fixed."""

    relaxation_derivative: Derivative = "frozen"
    """Where f′ in Eq. 1 is taken: at the forward pass, at the current x_l (a = x_l Wᵀ + b) or at
    the current x_{l+1}; or dropped, f′ = 1 (Eq. 4)."""

    update_derivative: Derivative = "frozen"
    """Where f′ in the weight update (Eq. 2) is taken; the same four choices."""

    update_activity: Activity = "frozen"
    """Presynaptic factor of the weight update: x̄_l, the relaxing x_l, or its decaying trace z_l."""

    output: Output = "relaxed"
    """The output relaxes onto the loss gradient, or is clamped to it, as in the authors' code."""

    initial: Initial = "feedforward"
    """Activities start at their feed-forward values, or at zero."""

    def __post_init__(self) -> None:
        for field in fields(self):
            check_choice(field.name, getattr(self, field.name), get_args(field.type))

    @property
    def is_linear(self) -> bool:
        """Whether dx/dt is linear in x, so that a closed form exists."""
        return self.relaxation_derivative in ("frozen", "dropped")


def rule_of_each_block(rule: Rule | Mapping[str, Rule], blocks: Sequence[str]) -> dict[str, Rule]:
    """One Rule per block, from one for all or from {name pattern: Rule}.

    Patterns are shell patterns ("fc*"). A block takes the Rule of the first pattern that matches
    it, or the default Rule if none does. Output and initial state must be the same for all blocks.

    Raises:
        InputError: a pattern that matches no block or only blocks matched by earlier patterns, or
            rules that differ in output or initial state.
    """
    patterns: Mapping[str, Rule] = {"*": rule} if isinstance(rule, Rule) else rule
    if not isinstance(patterns, Mapping) or not all(isinstance(r, Rule) for r in patterns.values()):
        raise InputError(f"rule must be a Rule or {{name pattern: Rule}}, got {rule!r}")
    for pattern in patterns:
        if not any(fnmatchcase(block, pattern) for block in blocks):
            raise InputError(
                f"rule pattern {pattern!r} matches no block; the blocks are {', '.join(blocks)}"
            )
    matches = {block: first_match(patterns, block) for block in blocks}
    for pattern in patterns:
        if pattern not in matches.values():
            raise InputError(
                f"rule pattern {pattern!r} has no effect, as earlier patterns match all of its "
                f"blocks; put it before them"
            )
    rules = {
        block: _DEFAULT if pattern is None else patterns[pattern]
        for block, pattern in matches.items()
    }
    for name in ("output", "initial"):
        if len({getattr(each, name) for each in rules.values()}) > 1:
            raise InputError(
                f"rules of different blocks disagree on {name!r}, which applies to the whole "
                f"network; give every rule the same {name}, and add a '*' pattern for the rest"
            )
    return rules


def first_match(patterns: Iterable[str], block: str) -> str | None:
    """The first of the shell patterns that matches a block."""
    return next((each for each in patterns if fnmatchcase(block, each)), None)


_DEFAULT = Rule()


def check_rules_matter(network: Network, rule: Rule | Mapping[str, Rule]) -> None:
    """Raise InputError for a Rule that has no effect on the blocks that it applies to."""
    if isinstance(rule, Rule):
        in_layers = replace(rule, output="relaxed", initial="feedforward") != Rule()
        if in_layers and not any(each.layer.weight is not None for each in network.blocks):
            raise InputError(
                f"{rule} needs layers with a local rule, but ardyn finds none, as TorchScript, "
                f"torch.vmap, autograd.grad within forward and computed weights hide them; use "
                f"Rule(), or call the layers directly"
            )
        return
    for pattern, its_rule in rule.items():
        blocks = [each for each in network.blocks if first_match(rule, each.name) == pattern]
        derivatives = {its_rule.relaxation_derivative, its_rule.update_derivative}
        has_weights = any(each.layer.weight is not None for each in blocks)
        has_slopes = any(each.activation is not identity for each in blocks)
        useless = []
        if its_rule.feedback != "transpose" and not has_weights:
            useless.append(("feedback weights", "a fully connected layer or a convolution"))
        if derivatives != {"frozen"} and not has_slopes:
            useless.append(("a derivative", "a supported elementwise activation"))
        for what, without in useless:
            raise InputError(
                f"the rule for {pattern!r} sets {what}, but none of its blocks "
                f"({', '.join(each.name for each in blocks)}) is or has {without}; drop it there"
            )


def check_tau_trace(tau_trace: float | None, rules: Iterable[Rule]) -> None:
    """Raise InputError unless τ_z is given exactly where a Rule uses activity traces."""
    if any(each.update_activity == "trace" for each in rules):
        if tau_trace is None:
            raise InputError("update_activity='trace' needs tau_trace; pass one such as 10.0")
        check_time_constant("tau_trace", tau_trace)
    elif tau_trace is not None:
        raise InputError(
            f"tau_trace = {tau_trace} was passed, but no Rule uses activity traces; drop it, or "
            f"use Rule(update_activity='trace')"
        )
