from dataclasses import fields
from typing import get_args

import pytest

from ardyn import InputError, Rule
from ardyn.dynamics.rule import rule_of_each_block

CHOICES = {field.name: get_args(field.type) for field in fields(Rule)}


def test_the_default_is_the_paper():
    assert Rule() == Rule("transpose", "frozen", "frozen", "frozen", "relaxed", "feedforward")


def test_the_choices_are_those_of_the_design():
    assert CHOICES == {
        "feedback": ("transpose", "learned", "fixed"),
        "relaxation_derivative": ("frozen", "current", "postsynaptic", "dropped"),
        "update_derivative": ("frozen", "current", "postsynaptic", "dropped"),
        "update_activity": ("frozen", "current", "trace"),
        "output": ("relaxed", "clamped"),
        "initial": ("feedforward", "zero"),
    }


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in CHOICES.items() for v in vs])
def test_every_choice_is_kept(name, value):
    assert getattr(Rule(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("feedback", "transposed", "transpose"),
        ("relaxation_derivative", "frosen", "frozen"),
        ("update_derivative", "post-synaptic", "postsynaptic"),
        ("update_activity", "traces", "trace"),
        ("output", "clamp", "clamped"),
        ("initial", "feed-forward", "feedforward"),
    ],
)
def test_an_unknown_value_is_refused_with_the_nearest(name, value, nearest):
    with pytest.raises(InputError, match=f"unknown {name} '{value}': did you mean '{nearest}'"):
        Rule(**{name: value})


@pytest.mark.parametrize("value", [None, 3])
def test_a_value_of_another_type_is_refused(value):
    with pytest.raises(InputError, match=f"unknown output {value}: choose one of relaxed, clamped"):
        Rule(output=value)


@pytest.mark.parametrize(
    ("derivative", "is_linear"),
    [("frozen", True), ("dropped", True), ("current", False), ("postsynaptic", False)],
)
def test_a_rule_is_linear_when_its_relaxation_derivative_stands_still(derivative, is_linear):
    assert Rule(relaxation_derivative=derivative).is_linear is is_linear
    assert Rule(update_derivative=derivative).is_linear


def test_one_rule_holds_for_every_block():
    rule = Rule(output="clamped")
    assert rule_of_each_block(rule, ["a", "b"]) == {"a": rule, "b": rule}


def test_the_first_pattern_that_matches_counts():
    dropped, current = Rule(relaxation_derivative="dropped"), Rule(update_activity="current")
    rules = rule_of_each_block({"fc1": dropped, "fc*": current}, ["fc1", "fc2", "out"])
    assert rules == {"fc1": dropped, "fc2": current, "out": Rule()}


def test_patterns_are_case_sensitive():
    with pytest.raises(InputError, match="'FC\\*' matches no block"):
        rule_of_each_block({"FC*": Rule()}, ["fc1"])


def test_a_pattern_that_matches_nothing_is_refused_with_the_blocks():
    with pytest.raises(InputError, match="'conv\\*' matches no block; the blocks are fc1, fc2"):
        rule_of_each_block({"conv*": Rule()}, ["fc1", "fc2"])


@pytest.mark.parametrize(("name", "value"), [("output", "clamped"), ("initial", "zero")])
def test_rules_may_not_disagree_on_what_belongs_to_the_network(name, value):
    with pytest.raises(InputError, match=f"disagree on '{name}'.*same {name}"):
        rule_of_each_block({"fc1": Rule(**{name: value})}, ["fc1", "fc2"])
    rules = rule_of_each_block({"*": Rule(**{name: value})}, ["fc1", "fc2"])
    assert {getattr(rule, name) for rule in rules.values()} == {value}
