import math

import numpy as np
import pytest

from ardyn import ArdynError, DivergenceError, InputError
from ardyn.errors import check_choice, check_positive


def test_an_input_error_is_a_value_error_of_ardyn():
    assert issubclass(InputError, ValueError)
    assert issubclass(InputError, ArdynError)


def test_a_divergence_is_an_arithmetic_error_of_ardyn():
    assert issubclass(DivergenceError, ArithmeticError)
    assert issubclass(DivergenceError, ArdynError)


def test_a_choice_that_is_allowed_passes():
    check_choice("colour", "red", ["green", "red"])


def test_an_unknown_choice_is_answered_with_the_nearest():
    with pytest.raises(
        InputError, match=r"unknown colour 'gren': did you mean 'green'.*green, red"
    ):
        check_choice("colour", "gren", ["green", "red"])


def test_a_choice_near_to_nothing_is_answered_with_all():
    with pytest.raises(InputError, match="unknown colour 7: choose one of green, red"):
        check_choice("colour", 7, ["green", "red"])


@pytest.mark.parametrize("value", [np.array(["red"]), np.array(["red", "blue"]), ["red"]], ids=repr)
def test_what_only_compares_like_a_choice_is_none(value):
    with pytest.raises(InputError, match=r"unknown colour .*red.*: .*choose one of green, red"):
        check_choice("colour", value, ["green", "red"])


@pytest.mark.parametrize("value", [1, 1e-300, 1e300])
def test_a_positive_number_passes(value):
    check_positive("the step", value)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_positive_and_finite_is_refused(value):
    with pytest.raises(InputError, match=f"the step must be positive and finite, got {value}"):
        check_positive("the step", value)


@pytest.mark.parametrize("value", ["1", None, True, [1.0]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="the step must be a number, got"):
        check_positive("the step", value)
