"""Conditions and solvers of the studies that train."""

from typing import Any

import pytest

from ardyn import (
    Adaptive,
    ClosedForm,
    Fixed,
    Rule,
    Sweep,
)
from studies import euler_equivalence, feedback, frozen_pass, scalability

CURRENT, DROP = {"relaxation_derivative": "current"}, {"relaxation_derivative": "dropped"}


BOTH = DROP | {"update_derivative": "dropped"}


PSI = {"feedback": "learned"}


IN_WORDS: list[tuple[Any, dict[str, Any]]] = [
    (
        frozen_pass,
        {
            "bp": None,
            "ar": {},
            "a": CURRENT,
            "b": {"update_derivative": "current"},
            "a+b": CURRENT | {"update_derivative": "current"},
            "c": {"update_activity": "current"},
        },
    ),
    (
        scalability,
        {
            "bp": None,
            "ar": {},
            "psi-fc": {"fc*": PSI},
            "psi-conv": {"conv*": PSI},
            "psi": PSI,
            "drop-fc": {"fc*": BOTH},
            "drop-conv": {"conv*": BOTH},
            "drop": BOTH,
            "psi+drop": PSI | BOTH,
        },
    ),
    (
        feedback,
        {
            "transpose": {},
            "learned": PSI,
            "fixed": {"feedback": "fixed"},
            "transpose-drop": BOTH,
            "learned-drop": PSI | BOTH,
            "fixed-drop": {"feedback": "fixed"} | BOTH,
        },
    ),
]
"""What the paper changes in each condition; everything else is Rule()."""


@pytest.mark.parametrize(("module", "words"), IN_WORDS, ids=["frozen", "scalability", "feedback"])
def test_conditions_are_those_of_the_paper(module, words):
    assert set(module.CONDITIONS) == set(words)
    for name, changed in words.items():
        condition = module.CONDITIONS[name]
        assert condition.method == ("bp" if changed is None else "ar")
        patterns = {k: v for k, v in (changed or {}).items() if isinstance(v, dict)}
        rule = {k: Rule(**v) for k, v in patterns.items()} or Rule(**(changed or {}))
        assert condition.rule == rule


def test_a_condition_has_the_solver_of_its_scheme():
    config = euler_equivalence.Config(step=0.2)
    rule = Rule()
    assert config.solver(rule, "exact") == ClosedForm()
    assert config.solver(rule, "euler") == ClosedForm(Fixed("euler", 0.2))
    assert config.solver(rule, "sweep") == ClosedForm(Sweep(0.2))
    assert config.solver(rule, "explicit_adams") == Fixed("explicit_adams", 0.2)
    assert config.solver(rule, "dopri5") == Adaptive("dopri5")
    nonlinear = frozen_pass.Config(nonlinear_scheme="heun3", nonlinear_step=0.7)
    assert nonlinear.solver(frozen_pass.CONDITIONS["a"].rule, "exact") == Fixed("heun3", 0.7)
    assert nonlinear.solver(rule, "exact") == ClosedForm()
