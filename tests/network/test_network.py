from collections.abc import Mapping

import torch
from torch import Tensor

from ardyn.network.layers import PassThrough
from ardyn.network.network import Block, Network
from tests.oracles.problems import assert_same, generator, problem

DIAMOND = {"a": ("input",), "b": ("a",), "c": ("a",), "d": ("b", "c")}


def network(
    sources: Mapping[str, tuple[str, ...]], without_leak: str = "", outputs: str = ""
) -> Network:
    """Blocks that pass through what they read; the last is the output, unless named otherwise."""
    blocks = tuple(
        Block(name, below, PassThrough(), relaxes=name not in without_leak)
        for name, below in sources.items()
    )
    return Network(blocks, tuple(outputs or blocks[-1].name))


def through(block: Block, v: Tensor, sources: tuple[str, ...]) -> tuple[Tensor, ...]:
    return tuple(v for _ in sources)


def as_it_is(block: Block, drive: Tensor) -> Tensor:
    return drive


def test_units_come_in_feed_forward_order_without_what_has_no_leak():
    assert network(DIAMOND).units == ("a", "b", "c", "d")
    assert network(DIAMOND, without_leak="bc").units == ("a", "d")


def test_a_chain_is_a_chain_and_a_diamond_is_not():
    assert network({"a": ("input",), "b": ("a",)}).is_chain
    assert network({"a": ("input",), "b": ("a",)}, without_leak="a").is_chain
    assert not network(DIAMOND).is_chain
    assert not network({"a": ("input",), "b": ("input",)}).is_chain
    assert not network({"a": ("input",), "b": ("a",)}, outputs="ab").is_chain


def test_levels_and_heights_count_units_on_the_longest_path():
    skip = network({"a": ("input",), "b": ("a",), "c": ("b",), "d": ("c", "a")}, without_leak="c")
    assert skip.level == {"input": 0, "a": 1, "b": 2, "c": 2, "d": 3}
    assert skip.height == {"d": 1, "c": 1, "b": 2, "a": 3, "input": 3}
    assert skip.depth == 3


def test_only_outputs_that_nothing_reads_can_be_clamped():
    both = network(DIAMOND, outputs="bd")
    assert both.terminal == {"d"}
    assert both.clamped.units == ("a", "b", "c")
    assert both.clamped.depth == 2


def test_descending_a_chain_visits_it_from_the_top():
    visited = []

    def send(block, drive):
        visited.append(block.name)
        return drive

    chain = network({"a": ("input",), "b": ("a",), "c": ("b",)})
    chain.descend({"c": torch.ones(1)}, send, through)
    assert visited == ["c", "b", "a"]


def test_nothing_is_pulled_back_where_nobody_waits_for_it():
    pulled = []

    def pull(block, v, sources):
        pulled.append((block.name, sources))
        return through(block, v, sources)

    mixed = network({"a": ("input",), "b": ("input", "a")}, without_leak="a")
    mixed.descend({"b": torch.ones(1)}, as_it_is, pull)
    assert pulled == []
    network({"a": ("input",), "b": ("input", "a")}).descend({"b": torch.ones(1)}, as_it_is, pull)
    assert pulled == [("b", ("a",))]


def test_what_arrives_at_inputs_is_returned_where_it_is_asked_for():
    two = network({"a": ("input",), "b": ("other", "a"), "c": ("input", "b")}, without_leak="a")

    def pull(block, v, sources):
        return tuple(3 * v if source == "input" else 10 * v for source in sources)

    top = {"c": torch.tensor(1.0)}
    everyone = frozenset({"a", "b", "c", "input", "other"})
    found = two.descend(top, as_it_is, pull, everyone)
    assert {name: float(v) for name, v in found.items()} == {"input": 303.0, "other": 100.0}
    assert two.descend(top, as_it_is, pull) == {}
    assert list(two.descend(top, as_it_is, pull, everyone - {"other"})) == ["input"]


def test_a_units_drive_is_the_sum_of_what_its_children_pull_back():
    g = generator()
    W = {name: torch.randn(3, 3, generator=g).double() for name in ("b", "c", "db", "dc")}
    a = torch.randn(2, 3, generator=g).double().requires_grad_()
    b, c = torch.tanh(a @ W["b"]), a @ W["c"]
    d = b @ W["db"] + c @ W["dc"]
    for each in (b, c, d):
        each.retain_grad()
    d.square().sum().backward()
    back = {
        "d": lambda v: (v @ W["db"].T, v @ W["dc"].T),
        "c": lambda v: (v @ W["c"].T,),
        "b": lambda v: ((v * (1 - b.detach() ** 2)) @ W["b"].T,),
    }
    found = {}

    def send(block, drive):
        found[block.name] = drive
        return drive

    network(DIAMOND).descend(
        {"d": 2 * d.detach()}, send, lambda block, v, sources: back[block.name](v)
    )
    assert_same(found, {"a": a.grad, "b": b.grad, "c": c.grad, "d": d.grad}, 1e-14)


def test_what_a_unit_passes_on_is_what_the_blocks_below_receive():
    chain = problem().relaxation().dynamics.forward_pass.network
    seen = {}

    def pull(block, v, sources):
        seen[block.name] = float(v)
        return (v + 1,)

    chain.descend({"fc3": torch.tensor(1.0)}, lambda block, drive: 10 * drive, pull)
    assert seen == {"fc3": 10.0, "fc2": 110.0}
