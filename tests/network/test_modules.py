"""The catalogue of modules, as far as it needs torch alone: gradients are backprop's."""

import inspect
import re

import pytest
import torch
from torch import nn

from tests import catalogue
from tests.catalogue import torch_modules
from tests.catalogue.entries import Entry, Group, normal
from tests.catalogue.judging import judge

ENTRIES = catalogue.of_torch()
REFUSED = {
    "CheckpointedReentrant": "use_reentrant=False",
    "GaussianPolicy": "returns a Normal, in which ardyn finds no tensor",
    "LazyNetwork": "run the model on one batch first",
    "NamespaceOutput": "returns a SimpleNamespace, in which ardyn finds no tensor",
}
"""Modules that ardyn cannot relax, and what it must say."""
BASES = {"Module", "Container", "RNNBase", "RNNCellBase", "NLLLoss2d"}
"""What torch.nn lists, but nobody runs: bases, and a deprecated name."""

pytestmark = [
    # torch's own: of a layer without elements, of an older name, of sparse tensors.
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly:UserWarning"),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.group}: {entry.name}")
def test_gradients_are_those_of_backprop(entry: Entry) -> None:
    found = judge(entry, is_counting_units=False)
    if entry.name in REFUSED:
        assert found.verdict == "refused", found.sentence
        assert REFUSED[entry.name] in found.sentence
    else:
        assert found.verdict == "right", f"{found.verdict}: {found.sentence}"


def test_every_name_is_one_entry() -> None:
    names = [(entry.group, entry.name) for entry in catalogue.all_entries()]
    assert len(set(names)) == len(names)
    assert set(REFUSED) <= {name for _, name in names}
    assert len(names) >= 250


def test_all_of_torch_is_in_the_catalogue() -> None:
    listed = inspect.getsource(torch_modules)
    for name, kind in vars(nn).items():
        if isinstance(kind, type) and issubclass(kind, nn.Module) and name not in BASES:
            by_dimension = name[:-2] if name[-2:] in ("1d", "2d", "3d") else name
            assert re.search(rf"\b({name}|{by_dimension})\b", listed), name


class Halved(torch.autograd.Function):
    """A gradient that depends on how often it is asked for."""

    asked = 0

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        Halved.asked += 1
        return gradient * (1.0 if Halved.asked == 1 else 0.5)


def test_the_judge_sees_a_wrong_gradient() -> None:
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x):
            return Halved.apply(self.a(x)).tanh()

    Halved.asked = 0
    group = Group("of this test")
    group.add("wrong", Wrong, normal((3, 4)))
    assert judge(group.entries[0]).verdict == "wrong"
