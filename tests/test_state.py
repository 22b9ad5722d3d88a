import pytest
import torch

from ardyn.state import State


def state() -> State:
    activity = {"b": torch.tensor([[1.0]]), "a": torch.tensor([[2.0]])}
    return State(activity, {"b": torch.tensor([[3.0]])})


def test_tensors_come_activities_first_in_the_order_of_their_names():
    assert [float(x) for x in state().tensors()] == [1.0, 2.0, 3.0]


def test_a_state_is_rebuilt_from_its_tensors():
    rebuilt = state().with_tensors([10 * x for x in state().tensors()])
    assert {name: float(x) for name, x in rebuilt.activity.items()} == {"b": 10.0, "a": 20.0}
    assert {name: float(z) for name, z in rebuilt.trace.items()} == {"b": 30.0}


def test_a_state_without_traces_has_none():
    assert len(State({"a": torch.ones(1, 1)}).tensors()) == 1


def test_too_few_tensors_are_not_a_state():
    with pytest.raises((StopIteration, RuntimeError)):
        state().with_tensors([torch.ones(1, 1)])
