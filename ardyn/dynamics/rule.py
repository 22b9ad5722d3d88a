"""Rule: which of the paper's assumptions the relaxation and the weight update keep."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Literal, get_args

from ardyn.errors import InputError, check_choice

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
    """Weights that send activity back: Wᵀ, or ψ (Eq. 3) learned or random and fixed."""

    relaxation_derivative: Derivative = "frozen"
    """Where f′ in Eq. 1 is taken: at the forward pass, at the current x_l (a = x_l Wᵀ + b),
    at the current x_{l+1}, or nowhere (f′ = 1, Eq. 4)."""

    update_derivative: Derivative = "frozen"
    """Where f′ in the weight update (Eq. 2) is taken; the same four."""

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

    Patterns are shell patterns ("fc*"); the first that matches a block counts, and a block that
    none matches keeps the default. Output and initial state belong to the whole network.

    Raises:
        InputError: a pattern that matches no block or is never reached, or rules that disagree on
            output or initial.
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
                f"rule pattern {pattern!r} is never reached, as those before it match all of its "
                f"blocks; put it before them"
            )
    rules = {
        block: _DEFAULT if pattern is None else patterns[pattern]
        for block, pattern in matches.items()
    }
    for name in ("output", "initial"):
        if len({getattr(each, name) for each in rules.values()}) > 1:
            raise InputError(
                f"rules of different blocks disagree on {name!r}, which belongs to the whole "
                f"network; give every rule the same {name}, and add a '*' pattern for the rest"
            )
    return rules


def first_match(patterns: Iterable[str], block: str) -> str | None:
    """The first of the shell patterns that matches a block."""
    return next((each for each in patterns if fnmatchcase(block, each)), None)


_DEFAULT = Rule()
