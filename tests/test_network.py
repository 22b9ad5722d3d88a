import torch
from torch import fx

from ardyn.layers import PassThrough
from ardyn.network import Block, Network
from tests.problems import assert_same, generator, problem


def network(**sources: tuple[str, ...]) -> Network:
    blocks = (Block(name, below, PassThrough(), name) for name, below in sources.items())
    return Network(tuple(blocks), fx.Graph())


def test_units_come_in_feed_forward_order():
    diamond = network(a=("input",), b=("a",), c=("a",), d=("b", "c"))
    assert diamond.units == ("a", "b", "c", "d")
    assert diamond.output == "d"


def test_a_chain_is_a_chain_and_a_diamond_is_not():
    assert network(a=("input",), b=("a",)).is_chain
    assert not network(a=("input",), b=("a",), c=("a",), d=("b", "c")).is_chain
    assert not network(a=("input",), b=("input",)).is_chain


def test_a_block_that_reads_the_input_alone_sends_to_nobody():
    first, second = network(a=("input",), b=("input", "a")).blocks
    assert not first.reads_units
    assert second.reads_units


def test_descending_a_chain_visits_it_from_the_top():
    visited = []

    def send(unit, drive):
        visited.append(unit)
        return drive

    network(a=("input",), b=("a",), c=("b",)).descend(torch.ones(1), send, lambda block, v: (v,))
    assert visited == ["c", "b", "a"]


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

    def send(unit, drive):
        found[unit] = drive
        return drive

    diamond = network(a=("input",), b=("a",), c=("a",), d=("b", "c"))
    diamond.descend(2 * d.detach(), send, lambda block, v: back[block.name](v))
    assert_same(found, {"a": a.grad, "b": b.grad, "c": c.grad, "d": d.grad}, 1e-14)


def test_what_a_unit_passes_on_is_what_the_blocks_below_receive():
    chain = problem().relaxation().dynamics.trace.network
    seen = {}

    def pull(block, v):
        seen[block.name] = float(v)
        return (v + 1,)

    chain.descend(torch.tensor(1.0), lambda unit, drive: 10 * drive, pull)
    assert seen == {"fc3": 10.0, "fc2": 110.0}
