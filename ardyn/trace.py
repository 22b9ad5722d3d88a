"""Trace: what one frozen feed-forward pass leaves behind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from ardyn.evaluate import Evaluator
from ardyn.graph import output_node
from ardyn.layers import Operation, Parameters, activate, identity
from ardyn.network import Block, Network


@dataclass(frozen=True)
class Local:
    """One operation at the frozen pass, where autograd differentiates it."""

    sources: tuple[Tensor, ...]
    """What it read, cut off from what came before."""
    parameters: Parameters
    """The parameters that it read itself."""
    value: Tensor
    again: Callable[[Sequence[Tensor]], Tensor]
    """The operation on other values of its sources, as they relax."""

    def pull(self, v: Tensor) -> tuple[Tensor, ...]:
        """The vector–Jacobian product for each source; v is [entry, …] or shaped like the value."""
        if v.ndim > self.value.ndim:
            entries = [self.pull(each) for each in v]
            return tuple(torch.stack(each) for each in zip(*entries, strict=True))
        return self._gradients(self.sources, v)

    def update(self, v: Tensor) -> dict[str, Tensor]:
        """The same for each parameter, summed over the batch."""
        found = self._gradients(tuple(self.parameters.values()), v)
        return dict(zip(self.parameters, found, strict=True))

    def _gradients(self, of: tuple[Tensor, ...], v: Tensor) -> tuple[Tensor, ...]:
        if not of:
            return ()
        return torch.autograd.grad(self.value, of, v, retain_graph=True, materialize_grads=True)


@dataclass(frozen=True)
class Trace:
    """Feed-forward activities and local derivatives of one batch.

    Tensors are [batch, …].
    """

    network: Network
    parameters: Parameters
    inputs: tuple[Tensor, ...]
    activity: Mapping[str, Tensor]
    """x̄ of every block, and the network's inputs."""
    derivative: Mapping[str, Tensor]
    """f′(a) of every block that has an activation, at its true pre-activation, bias included."""
    local: Mapping[str, Local]
    """Every block whose layer is an Operation."""
    rest: Mapping[str, Any]
    """What the module returns beside its outputs, and no gradient reaches; by operation."""
    again: Callable[[tuple[Tensor, ...]], "Trace"]
    """The pass on other inputs."""

    def returning(self, outputs: Mapping[str, Tensor]) -> Any:
        """What the module would return if its outputs were these."""
        name = {self.network.block[each].node: each for each in self.network.outputs}
        return fx.map_arg(
            self.network.returned,
            lambda n: outputs[name[n.name]] if n.name in name else self.rest[n.name],
        )

    def samples(self, which: slice) -> "Trace":
        """The same pass, for some samples of the batch only."""
        inputs = tuple(x[which] for x in self.inputs)
        if self.local:
            return self.again(inputs)
        return replace(
            self,
            inputs=inputs,
            activity={name: x[which] for name, x in self.activity.items()},
            derivative={name: x[which] for name, x in self.derivative.items()},
        )


def feed_forward(
    network: Network, model: nn.Module, parameters: Parameters, inputs: Sequence[Tensor]
) -> Trace:
    """The first phase of AR: x̄^{l+1} = f(a^l), a^l = x̄^l Wᵀ + b, and whatever else a module does.

    Args:
        model: runs what is no block.
        parameters: by name, in place of the module's own.
        inputs: x⁰, [batch, …] each.

    Raises:
        InputError: the inputs do not fit a block.
    """
    run = _FrozenPass(network, model, parameters)
    run.run(*inputs)
    return Trace(
        network,
        parameters,
        tuple(inputs),
        dict(zip(network.inputs, inputs, strict=True)) | run.activity,
        run.derivative,
        run.local,
        {
            node.name: run.env[node]
            for node in output_node(network.graph).all_input_nodes
            if node.name not in run.ends
        },
        lambda others: feed_forward(network, model, parameters, others),
    )


class _FrozenPass(Evaluator):
    """Runs the blocks one by one, each cut off from the others."""

    def __init__(self, network: Network, model: nn.Module, parameters: Parameters) -> None:
        super().__init__(model, network.graph)
        self.parameters = parameters
        self.heads = {block.head: block for block in network.blocks}
        self.ends = {block.node: block for block in network.blocks}
        placeholders = [node.name for node in network.graph.nodes if node.op == "placeholder"]
        self.names = dict(zip(placeholders, network.inputs, strict=False))
        self.names |= {node: block.name for node, block in self.ends.items()}
        self.activity: dict[str, Tensor] = {}
        self.derivative: dict[str, Tensor] = {}
        self.local: dict[str, Local] = {}
        self.recorded: dict[str, _Recorded] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The value of one operation, cut off where a block ends."""
        starting, ending = self.heads.get(n.name), self.ends.get(n.name)
        if starting is not None:
            with self.telling(n):
                value = self._start(starting, n)
        elif ending is not None and ending.activation is not identity:
            value = self.env[n.all_input_nodes[0]]
        else:
            value = super().run_node(n)
        if n.op == "placeholder" and n.name in self.names:
            self.activity[self.names[n.name]] = value
        return value if ending is None else self._end(ending, value)

    def _start(self, block: Block, n: fx.Node) -> Any:
        if not isinstance(block.layer, Operation):
            return block.layer.forward(self.parameters, self.activity[block.sources[0]])
        self.recorded[n.name] = _Recorded.at(n, block, self)
        return self.recorded[n.name].value

    def _end(self, block: Block, a: Tensor) -> Tensor:
        if isinstance(block.layer, Operation):
            self.local[block.name] = self.recorded[block.head].part(a, block.layer.part)
        x = a.detach()
        if block.activation is not identity:
            x, self.derivative[block.name] = activate(block.activation, a)
        self.activity[block.name] = x
        return x


@dataclass(frozen=True)
class _Recorded:
    """An operation on leaves of its own: its value carries autograd's record."""

    sources: tuple[Tensor, ...]
    parameters: Parameters
    value: Any
    compute: Callable[[Sequence[Tensor], Parameters], Any]

    @staticmethod
    def at(n: fx.Node, block: Block, run: _FrozenPass) -> "_Recorded":
        compute = _operation(n, block.sources, run)
        sources = tuple(run.activity[source].detach().requires_grad_() for source in block.sources)
        names = block.layer.parameters if isinstance(block.layer, Operation) else ()
        parameters = {name: run.parameters[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():
            return _Recorded(sources, parameters, compute(sources, parameters), compute)

    def part(self, value: Tensor, path: tuple[Any, ...]) -> Local:
        def again(sources: Sequence[Tensor]) -> Tensor:
            found = self.compute(sources, self.parameters)
            for index in path:
                found = found[index]
            return found  # type: ignore[no-any-return]

        return Local(self.sources, self.parameters, value, again)


def _operation(
    n: fx.Node, sources: tuple[str, ...], run: _FrozenPass
) -> Callable[[Sequence[Tensor], Parameters], Any]:
    """A traced operation as a function of its sources and parameters; the rest stays as it was."""
    # Of the pass only what this operation reads is kept: it would hold on to itself, and to memory.
    fed = {node: run.names.get(node.name) for node in n.all_input_nodes}
    rest = {node: run.env[node] for node, name in fed.items() if name not in sources}
    module = run.fetch_attr(str(n.target)) if n.op == "call_module" else None

    def compute(xs: Sequence[Tensor], parameters: Parameters) -> Any:
        given = dict(zip(sources, xs, strict=True))

        def value(node: fx.Node) -> Any:
            name = fed[node]
            if name in given:
                return given[name].clone() if n.meta.get("in_place") else given[name]
            if node.op == "get_attr" and str(node.target) in parameters:
                return parameters[str(node.target)]
            return rest[node]

        args, kwargs = fx.map_arg((n.args, n.kwargs), value)
        if module is not None:
            own = {
                name.removeprefix(f"{n.target}."): p
                for name, p in parameters.items()
                if name.startswith(f"{n.target}.")
            }
            return functional_call(module, own, args, kwargs)
        if n.op == "call_method":
            return getattr(args[0], str(n.target))(*args[1:], **kwargs)
        return n.target(*args, **kwargs)  # type: ignore[operator]

    return compute
