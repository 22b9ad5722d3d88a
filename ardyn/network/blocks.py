"""The cuts of a run become the blocks of a network: which belong together, and their names."""

from ardyn.network.cuts import Cut
from ardyn.network.layers import Operation
from ardyn.network.network import Block, Network
from ardyn.network.watching import Watch


def network_of(watch: Watch, ends: frozenset[int]) -> Network:
    """The network of all blocks from which a gradient path leads to these cuts."""
    blocks = _blocks(watch, ends)
    names = {watch.cuts[index].name for index in ends}
    outputs = tuple(block.name for block in blocks if block.name in names)
    return Network(blocks, outputs, tuple(watch.fed))


def _blocks(watch: Watch, ends: frozenset[int]) -> tuple[Block, ...]:
    """In feed-forward order."""
    joined = _join(watch.cuts, ends)
    _name(watch, joined)
    wanted, found = set(ends), []
    for cut in reversed(watch.cuts):
        if cut.index not in wanted or cut.name in watch.fed:
            continue
        layer = cut.joins or cut
        reached = watch.graph.reached(
            layer.value if layer.below.value is None else layer.below.value
        )
        unseen = reached.cuts & joined
        if unseen:  # something reads a layer beside its activation, unseen
            for each in unseen:
                watch.cuts[each].readers += 1
            return _blocks(watch, ends)
        wanted |= reached.cuts
        below = [watch.cuts[i].name for i in sorted(reached.cuts)]
        fed = sorted({*layer.inputs, *(name for name in below if name in watch.fed)})
        rule = layer.layer
        if not rule.is_local:
            rule = Operation(tuple(sorted(map(watch.name_of, reached.leaves))))
        sources = (*fed, *(name for name in below if name not in watch.fed))
        as_is = layer.below.is_as_is
        found.append(Block(cut.name, sources, rule, cut.activation, cut.relaxes, as_is))
    return tuple(found[::-1])


def _join(cuts: list[Cut], ends: frozenset[int]) -> set[int]:
    """Layers that are one block with their activation, unless something else reads them too."""
    joined = set()
    for cut in cuts:
        layer = cut.joins
        if layer and (layer.readers > 1 or layer.index in ends):
            cut.joins = None
        elif layer:
            joined.add(layer.index)
    return joined


def _name(watch: Watch, joined: set[int]) -> None:
    """Name the cuts; parts of what one call returned share a base."""
    taken, bases = set(watch.fed), dict[int, str]()
    for cut in watch.cuts:
        if cut.index in joined or cut.name in watch.fed:
            continue
        layer = cut.joins or cut
        if layer.returned.call not in bases:
            bases[layer.returned.call] = _fresh(layer.place, taken)
        cut.name = bases[layer.returned.call]
        if layer.returned.part:
            cut.name = _fresh(cut.name + layer.returned.part, taken)


def _fresh(name: str, taken: set[str]) -> str:
    """``name``, numbered where another block has it."""
    fresh, number = name, 0
    while fresh in taken:
        number += 1
        fresh = f"{name}_{number}"
    taken.add(fresh)
    return fresh
