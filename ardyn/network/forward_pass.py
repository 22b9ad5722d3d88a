"""ForwardPass: activities and derivatives of one frozen feed-forward pass, and its pull-backs."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ardyn.errors import InputError
from ardyn.network.activations import TIMES_SLOPE, Slope, identity, scale
from ardyn.network.containers import swap_tensors, tensors_in
from ardyn.network.cuts import Below, Cut
from ardyn.network.layers import Parameters
from ardyn.network.network import Block, Network
from ardyn.network.run import Run, Watched
from ardyn.network.watching import Watch

_SMALL = 2**12
"""Size of a value up to which the entries of a stack are pulled back as one batch: above it,
calls no longer dominate the time."""
_LARGE = 2**18
"""Size of a value from which on it is freed early."""


@dataclass(frozen=True)
class ForwardPass:
    """Feed-forward activities and local derivatives of one batch.

    Tensors are [batch, …].
    """

    network: Network
    parameters: Parameters
    """By name, detached."""
    activity: Mapping[str, Tensor]
    """x̄ of every block, and the network's inputs."""
    derivative: Mapping[str, Slope]
    """f′(a) of every block that has an activation, at its true pre-activation, bias included."""
    below: Mapping[str, Tensor]
    """What each layer with a local rule reads, at the feed-forward activities."""
    cuts: Mapping[str, Cut]
    places: Sequence[str]
    """Of all cuts of the run, in order: the path it took."""
    leaves: dict[str, Tensor]
    """The parameters that gradients reach, themselves."""
    run: Run
    whole: frozenset[str]
    """Modules within which nothing was cut."""
    is_hooked: bool
    """Whether hooks on gradients take part."""

    def pull(
        self,
        block: Block,
        v: Tensor,
        sources: Sequence[str],
        psi: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """v W, or v ψᵀ, by source; whatever has no local rule by autograd, at the frozen pass.

        Args:
            v: x ⊙ f′, [entry, batch, …] or without the first axis.
            psi: feedback weights in place of Wᵀ.
        """
        if block.layer.is_local:
            v = block.layer.send_back(self.parameters, v, psi, self.below[block.name])
            return (v,) if block.reads_as_is else self._product(self._below(block), sources, v)
        return self._product(self._layer(block).value, sources, self._through(block, v))

    def _layer(self, block: Block) -> Cut:
        """The cut behind a block's layer, which an activation may follow."""
        cut = self.cuts[block.name]
        return cut.joins or cut

    def _below(self, block: Block) -> Tensor:
        """What a layer with a local rule reads, with the graph of all that lies below it."""
        below = self._layer(block).below.value
        assert below is not None
        return below

    def _through(self, block: Block, v: Tensor) -> Tensor:
        """v, pulled back through an activation that autograd differentiates too."""
        cut = self.cuts[block.name]
        if cut.joins is None or block.activation is not identity:
            return v
        return self._vector_product(cut.value, [cut.joins.leaf], v)[0]

    def _product(self, root: Tensor, sources: Sequence[str], v: Tensor) -> tuple[Tensor, ...]:
        return self._vector_product(root, [self.cuts[source].leaf for source in sources], v)

    def _vector_product(self, root: Tensor, leaves: list[Tensor], v: Tensor) -> tuple[Tensor, ...]:
        """Vector–Jacobian product; v is [entry, …], or shaped like the root."""
        v, is_stack = v.to(root.dtype), v.ndim > root.ndim
        if is_stack and len(v) > 1 and root.numel() <= _SMALL and not self.is_hooked:
            with contextlib.suppress(RuntimeError):  # not every operation can be batched
                return torch.autograd.grad(
                    root,
                    leaves,
                    v,
                    retain_graph=True,
                    materialize_grads=True,
                    is_grads_batched=True,
                )
        if is_stack:
            entries = [self._vector_product(root, leaves, each) for each in v]
            return tuple(torch.stack(each) for each in zip(*entries, strict=True))
        return torch.autograd.grad(root, leaves, v, retain_graph=True, materialize_grads=True)

    @property
    def takers(self) -> frozenset[str]:
        """All blocks, and the inputs whose gradient is wanted."""
        return frozenset(self.network.block) | frozenset(self.cuts) & frozenset(self.network.inputs)

    def of_inputs(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of activities, those of inputs whose gradient is wanted."""
        return {name: x[name] for name in self.network.inputs if name in self.cuts and name in x}

    def updates(
        self,
        above: Mapping[str, Tensor],
        slope: Callable[[Block], Slope | None],
        below: Callable[[Block], Tensor],
        into: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Eq. 2, ∂𝓛/∂W = (x^{l+1} ⊙ f′)ᵀ x^l and ∂𝓛/∂b = Σ x^{l+1} ⊙ f′, over the batch.

        By the local rule of each layer, {block: {parameter: gradient}}; and (x ⊙ f′) of the blocks
        whose parameters autograd differentiates. Weights descend, W ← W − lr · ∂𝓛/∂W, as x^{l+1}
        settles on +∂𝓛/∂x^{l+1}.

        Args:
            above: x of each block.
            slope: f′ of a block as the Rule takes it.
            below: the activity that a layer reads, as the Rule takes it.
            into: room for gradients, by parameter, for layers that write in place.
        """
        by_autograd, local = {}, {}
        for block in self.network.blocks:
            if block.name not in above or not block.layer.names:
                continue
            v = scale(above[block.name], slope(block))
            if block.layer.is_local:
                args = self.parameters, v, below(block), into or {}
                local[block.name] = block.layer.update_into(*args)
            else:
                by_autograd[block.name] = v
        return by_autograd, local

    def ends(
        self, above: Mapping[str, Tensor], local: Sequence[tuple[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Roots and root gradients of a pass of autograd that ends at parameters.

        Args:
            above: (x ⊙ f′) of each block that autograd differentiates, and ∂𝓛/∂x⁰ of inputs.
            local: names of parameters, and the gradients that local rules gave them.
        """
        starts = [
            (self._layer(block).value, self._through(block, v))
            if (block := self.network.block.get(name)) is not None
            else (self.cuts[name].value, v)
            for name, v in above.items()
        ]
        starts += [(self.leaves[name], v) for name, v in local if name in self.leaves]
        roots, gradients = [root for root, _ in starts], [v.to(root.dtype) for root, v in starts]
        return roots, gradients

    def free_preactivations(self) -> None:
        """Free pre-activations that no pull-back needs: those whose f′ is known from f(a)."""
        for block in self.network.blocks:
            cut = self.cuts[block.name]
            has_slope = block.layer.is_local and block.activation in TIMES_SLOPE
            if cut.joins and has_slope and cut.leaf.numel() > _LARGE:
                nothing = cut.leaf.new_empty(0)
                cut.joins.value = cut.joins.leaf = cut.joins.handed = nothing
                cut.below = Below()
                cut.value = cut.value.detach()  # its graph holds the pre-activation too

    def samples(self, which: slice) -> "ForwardPass":
        """The pass of some samples of the batch only.

        Raises:
            InputError: samples that depend on one another.
        """
        sizes = {len(x) if x.ndim else 0 for x in self.activity.values()}
        sizes |= {len(x) if x.ndim else 0 for x in tensors_in(self.run.arguments)}
        if len(sizes) > 1:
            raise InputError(
                "per_sample=True needs inputs and activities that are all [batch, …], of one "
                "batch size; drop it"
            )
        blocks = self.network.blocks
        if all(b.reads_as_is and b.layer.is_local for b in blocks):
            return self._sliced(which)
        arguments = swap_tensors(self.run.arguments, lambda x: x[which])
        run = replace(self.run, arguments=arguments)
        with run.from_start():
            watch = run.watch(self.whole)
            try:
                run.under(watch)
            except Exception as error:
                raise InputError(
                    f"per_sample=True runs the module on one sample alone, where it fails "
                    f"({error}); drop it"
                ) from error
        self.match(watch)
        part = collect(run, watch, self.network)
        for name, x in part.activity.items():
            own = self.activity[name][which]
            rounding = torch.finfo(x.dtype).eps ** 0.5
            if not torch.allclose(x, own, rounding, rounding * 1e-2 * float(own.abs().max())):
                raise InputError(
                    f"per_sample=True needs samples that do not depend on one another, but "
                    f"'{name}' of a sample is another with the rest of its batch than without, as "
                    f"by batch norm in training mode, a mean over the batch, or numbers drawn at "
                    f"random; drop it"
                )
        return part

    def _sliced(self, which: slice) -> "ForwardPass":
        """For layers and activations alone, which never mix samples."""
        return replace(
            self,
            activity={name: x[which] for name, x in self.activity.items()},
            derivative={name: f.samples(which) for name, f in self.derivative.items()},
            below={name: x[which] for name, x in self.below.items()},
        )

    def at(self, activity: Mapping[str, Tensor]) -> Mapping[str, Cut]:
        """The run repeated with these activities in place of the units' own; cuts by block.

        Raises:
            InputError: a module that takes another path then.
        """
        given = {}
        for unit in self.network.units:
            if unit in activity:
                given[self.cuts[unit].index] = activity[unit]
                if self.network.block[unit].layer.is_local:
                    given[self._layer(self.network.block[unit]).index] = activity[unit]
        with self.run.from_start():
            watch = self.run.watch(self.whole, given)
            self.run.under(watch)
        self.match(watch)
        return {cut.name: cut for cut in watch.cuts if cut.name}

    def match(self, watch: Watch) -> None:
        """Give the cuts of another run of the same path the names that they have in this one.

        Raises:
            InputError: another path.
        """
        if [cut.place for cut in watch.cuts] != self.places:
            raise InputError(
                f"{type(self.run.model).__name__} takes another path at other activities or on "
                f"other samples; use frozen derivatives and activities in its Rule, and drop "
                f"per_sample"
            )
        for name, cut in self.cuts.items():
            same = watch.cuts[cut.index]
            same.name, same.joins = name, cut.joins and watch.cuts[cut.joins.index]


def collect(run: Run, watch: Watch, network: Network) -> ForwardPass:
    """The forward pass of a watched run."""
    cuts = {cut.name: cut for cut in watch.cuts if cut.name}
    inputs = {name: x.value if isinstance(x, Cut) else x for name, x in watch.fed.items()}
    activity = {name: x.detach() for name, x in inputs.items()}
    derivative, below = {}, {}
    learning: set[str | None] = set()
    for block in network.blocks:
        learning.update(block.layer.names)
        cut = cuts[block.name]
        layer = cut.joins or cut
        activity[block.name] = cut.leaf.detach()
        if block.activation is not identity:
            a = layer.value if cut.below.value is None or cut.joins else cut.below.value
            derivative[block.name] = Slope.at(block.activation, a, activity[block.name])
        if block.layer.is_local and layer.below.value is not None:
            below[block.name] = layer.below.value.detach()
    leaves = {watch.name_of(key): leaf for key, leaf in watch.graph.leaves.items()}
    sources = {source for block in network.blocks for source in block.sources}
    for name, x in watch.fed.items():
        if isinstance(x, Cut) and (name in sources or x in watch.outputs):
            learning.update(map(watch.name_of, watch.graph.reached(x.value).leaves))
    return ForwardPass(
        network,
        {name: p.detach() for name, p in run.parameters.items()},
        activity,
        derivative,
        below,
        cuts,
        [cut.place for cut in watch.cuts],
        {name: leaf for name, leaf in leaves.items() if name in learning},
        run,
        watch.whole,
        watch.is_hooked,
    )


@dataclass(frozen=True)
class Driven:
    """A forward pass, its loss, and the loss gradients."""

    forward_pass: ForwardPass
    value: Tensor
    """𝓛, []."""
    drive: Mapping[str, Tensor]
    """∂𝓛/∂x̄ of every block whose value the loss reads, [batch, …]."""
    penalty: Mapping[str, Tensor]
    """∂𝓛/∂θ of the parameters that the loss itself reads."""


def driven_by_loss(watched: Watched, network: Network) -> Driven:
    """The pass, and the loss gradients with respect to all that the loss reads."""
    watch, value = watched.watch, watched.value
    passed = collect(watched.run, watch, network)
    reached = watch.graph.reached(value).leaves
    passed.leaves.update({watch.name_of(key): watch.graph.leaves[key] for key in reached})
    read = [watch.graph.leaves[key] for key in reached]
    leaves = [passed.cuts[name].leaf for name in network.outputs]
    fed = [name for name, x in watch.fed.items() if isinstance(x, Cut)]
    leaves += [passed.cuts[name].leaf for name in fed]
    found = torch.autograd.grad(
        value, [*leaves, *read], allow_unused=True, materialize_grads=True, retain_graph=True
    )
    drive = dict(zip((*network.outputs, *fed), found, strict=False))
    penalty = dict(zip(map(watch.name_of, reached), found[len(leaves) :], strict=True))
    return Driven(passed, value.detach(), drive, penalty)
