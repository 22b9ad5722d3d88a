"""Dynamics: the right-hand side of the relaxation, d(state)/dt; independent of the solver."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ardyn.dynamics.rule import Derivative, Rule
from ardyn.network.activations import Slope, identity, scale
from ardyn.network.cuts import Cut
from ardyn.network.forward_pass import ForwardPass
from ardyn.network.network import Block
from ardyn.state import State


def relax(x: Tensor, drive: Tensor, tau: float, out: Tensor | None = None) -> Tensor:
    """τ dx/dt = −x + drive (paper, Eq. 1; on a graph, Eq. 7)."""
    return _over(torch.sub(drive, x, out=out), tau)


def low_pass(x: Tensor, z: Tensor, tau: float, out: Tensor | None = None) -> Tensor:
    """τ_z dz/dt = x − z: the decaying trace z of an activity."""
    return _over(torch.sub(x, z, out=out), tau)


def _over(change: Tensor, tau: float) -> Tensor:
    """Change / τ, in place; with τ = 1 as it is, which saves a pass over memory."""
    return change if tau == 1 else change.div_(tau)


@dataclass(frozen=True)
class Dynamics:
    """The relaxation after one feed-forward pass, under a Rule.

    τ_l dx^l/dt = −x^l + pull_l(x^{l+1}) for hidden units, τ_L dx^L/dt = −x^L + g^L for the output.
    Time is in whatever unit the time constants are given in.
    """

    forward_pass: ForwardPass
    drive: Mapping[str, Tensor]
    """∂𝓛/∂x̄ of each output, [batch, …]: frozen, never recomputed from the relaxing output."""
    rules: Mapping[str, Rule]
    """The Rule of each block."""
    feedback: Mapping[str, Tensor]
    """ψ of each block whose feedback is not Wᵀ, in the shape of Wᵀ; for a convolution, in that of
    the transposed, flattened kernel."""
    tau: Mapping[str, float]
    """Time constant of each relaxing unit, in feed-forward order."""
    tau_trace: float | None = None
    """Time constant of the activity trace z, where a Rule uses one."""
    held: frozenset[str] = frozenset()
    """Parameters that stay constant, as they require no gradient."""
    is_autonomous = True
    """Its rates do not depend on time."""
    since = 0.0
    """The time at which it starts; see ``System``."""

    @property
    def is_linear(self) -> bool:
        """Whether the whole system is linear in x."""
        is_linear = self.forward_pass.network.is_linear
        return is_linear and all(rule.is_linear for rule in self.rules.values())

    @property
    def nonlinearity(self) -> str:
        """The condition of a closed form that does not hold here, for a message; "" if all hold."""
        for block, rule in self.rules.items():
            if not rule.is_linear:
                return (
                    f"a frozen or dropped relaxation derivative, got "
                    f"{rule.relaxation_derivative!r} for block '{block}'"
                )
        tau = sorted(set(self.tau.values()))
        if len(tau) > 1 and not self.forward_pass.network.is_chain:
            return f"one tau where paths of several lengths meet, got {tau[0]:g} to {tau[-1]:g}"
        return ""

    @property
    def recurrence(self) -> str:
        """The condition of drives from above alone that does not hold, for a message; "" if all do.

        A current derivative makes a unit's drive depend on the unit itself.
        """
        network = self.forward_pass.network
        for block in network.blocks:
            choice = self.rules[block.name].relaxation_derivative
            is_read = block.activation is not identity
            if choice == "current" and is_read and network.towards_units & {*block.sources}:
                return (
                    f"drives that depend on the units above alone, got the relaxation derivative "
                    f"{choice!r} for block '{block.name}'"
                )
        return ""

    @property
    def like(self) -> Tensor:
        """One of its tensors, as an example of the type and device of all."""
        return next(iter(self.drive.values()))

    @cached_property
    def starts_at_zero(self) -> bool:
        """Whether x(0) = 0 rather than the feed-forward activity."""
        return next(iter(self.rules.values())).initial == "zero"

    @cached_property
    def time_constants(self) -> dict[str, float]:
        """τ of every leak: those of the units, and of the trace where there is one."""
        trace = {"trace z": self.tau_trace} if self.traced and self.tau_trace else {}
        return dict(self.tau) | trace

    @cached_property
    def traced(self) -> tuple[str, ...]:
        """Units whose activity trace z the weight update reads."""
        network = self.forward_pass.network
        wanted: set[str] = set()
        for block in reversed(network.blocks):
            traced = self.rules[block.name].update_activity == "trace" and block.layer.names
            if traced or (block.name in wanted and not block.relaxes):
                wanted.update(block.sources)
        return tuple(unit for unit in network.units if unit in wanted)

    @cached_property
    def clamped(self) -> dict[str, Tensor]:
        """Outputs that don't relax, x^L ≡ g^L, [batch, …] each."""
        ends = self.forward_pass.network.terminal
        return {unit: g for unit, g in self.drive.items() if unit in ends and unit not in self.tau}

    def initial(self) -> State:
        """x(0), feed-forward or zero, and z(0) = x̄."""
        x = {unit: self.forward_pass.activity[unit] for unit in self.tau}
        if self.starts_at_zero:
            x = {unit: torch.zeros_like(value) for unit, value in x.items()}
        return State(x, {unit: self.forward_pass.activity[unit] for unit in self.traced})

    def __call__(self, t: Tensor | float, state: State) -> State:
        """d(state)/dt, all units in parallel; autonomous, so that ``t`` is not used."""
        rate = state.with_tensors([torch.empty_like(x) for x in state.tensors()])
        self.write_rate(t, state, rate)
        return rate

    def write_rate(self, t: Tensor | float, state: State, rate: State) -> None:
        """The same, written into ``rate``."""
        self.write_rates(self.activities(state.activity), state.trace, rate)

    def write_rates(self, x: "Activities", traces: Mapping[str, Tensor], rate: State) -> None:
        """The same, from activities that a weight update reads as well."""

        def send(block: Block, drive: Tensor) -> Tensor:
            if not block.relaxes:
                return drive
            unit = block.name
            relax(x[unit], drive, self.tau[unit], out=rate.activity[unit])
            return x[unit]

        self.descend(send, x)
        for unit, z in traces.items():
            assert self.tau_trace is not None
            low_pass(x[unit], z, self.tau_trace, out=rate.trace[unit])

    def sweep(self, state: State, step: float) -> State:
        """One sequential sweep from the top, each unit driven by the already updated one above."""
        x = self.activities(state.activity)

        def send(block: Block, drive: Tensor) -> Tensor:
            if not block.relaxes:
                return drive
            unit = block.name
            x[unit] = x[unit] + step * relax(x[unit], drive, self.tau[unit])
            return x[unit]

        self.descend(send, x)
        z = {
            unit: z + step * low_pass(x[unit], z, self.tau_trace or math.inf)
            for unit, z in state.trace.items()
        }
        return State({unit: x[unit] for unit in self.tau}, z)

    def cascade(self, start: State, relax: Callable[[Tensor, Tensor, float], Tensor]) -> State:
        """All units over time, from the output down; see ``Cascade``."""
        x = self.activities({})

        def send(block: Block, drive: Tensor) -> Tensor:
            if not block.relaxes:
                return drive
            x[block.name] = relax(start.activity[block.name], drive, self.tau[block.name])
            return x[block.name]

        self.descend(send, x)
        z = {unit: relax(z, x[unit], self.tau_trace or math.inf) for unit, z in start.trace.items()}
        return State({unit: x[unit] for unit in self.tau}, z)

    def descend(
        self,
        send: Callable[[Block, Tensor], Tensor],
        x: "Activities | None" = None,
        top: Mapping[str, Tensor] | None = None,
    ) -> None:
        """``Network.descend`` from the loss gradient or ``top``, with this Rule's pull-backs."""
        top = self.drive if top is None else top
        self.forward_pass.network.descend(
            top, send, lambda block, v, sources: self.pull(block, v, sources, x)
        )

    def pull(
        self, block: Block, v: Tensor, sources: tuple[str, ...], x: "Activities | None" = None
    ) -> tuple[Tensor, ...]:
        """pull_l(v) = (v ⊙ f′(a^l)) W, or with ψᵀ in place of W: the drive of a block's sources.

        Args:
            v: [entry, batch, …], or without the first axis.
            x: the current activities, for a derivative taken there.

        Returns:
            One tensor for each of ``sources``.
        """
        slope = self.derivative(self.rules[block.name].relaxation_derivative, block, x)
        psi = self.feedback.get(block.name)
        return self.forward_pass.pull(block, scale(v, slope), sources, psi)

    def derivative(self, choice: Derivative, block: Block, x: "Activities | None") -> Slope | None:
        """f′ of a block, taken where the Rule says; None stands for f′ = 1."""
        if block.activation is identity:
            return None
        if choice == "dropped":
            return None
        if choice == "frozen":
            return self.forward_pass.derivative[block.name]
        assert x is not None
        if (choice, block.name) not in x.slopes:
            a = self.preactivation(block, x) if choice == "current" else x[block.name]
            x.slopes[choice, block.name] = Slope.at(block.activation, a)
        return x.slopes[choice, block.name]

    def preactivation(self, block: Block, x: "Activities") -> Tensor:
        """a = layer(h) at these activities."""
        if not block.layer.is_local:
            cut = x.repeated[block.name]
            return (cut.joins or cut).value.detach()
        return block.layer.forward(self.forward_pass.parameters, self.presynaptic(block, x))

    def presynaptic(self, block: Block, x: "Activities") -> Tensor:
        """h, the input of a layer with a local rule, at these activities."""
        if all(source in self.forward_pass.network.inputs for source in block.sources):
            return self.forward_pass.below[block.name]
        if block.reads_as_is:
            return x[block.sources[0]]
        cut = x.repeated[block.name]
        below = (cut.joins or cut).below.value
        assert below is not None
        return below.detach()

    def activities(self, activity: Mapping[str, Tensor]) -> "Activities":
        """Activities of all units: those of the state, the inputs and clamped outputs x^L ≡ g^L."""
        inputs = {
            name: self.forward_pass.activity[name] for name in self.forward_pass.network.inputs
        }
        return Activities(self, inputs | self.clamped | dict(activity))

    def equilibrium(self) -> dict[str, Tensor]:
        """Equilibrium of a linear system, x^l = pull_l(x^{l+1}), [batch, …] each.

        With the default Rule it is ∂𝓛/∂x̄^l.
        """
        x: dict[str, Tensor] = {}

        def send(block: Block, drive: Tensor) -> Tensor:
            x[block.name] = drive
            return drive

        self.descend(send)
        return {unit: x[unit] for unit in self.tau} | self.clamped

    def samples(self, which: slice) -> "Dynamics":
        """The same dynamics, for some samples of the batch only."""
        drive = {unit: g[which] for unit, g in self.drive.items()}
        return replace(self, forward_pass=self.forward_pass.samples(which), drive=drive)


class Activities(dict[str, Tensor]):
    """Current activities by name, [batch, …] each.

    Those of blocks without a leak are computed when first read, by a repeated run of the module in
    which the units have their current activities.
    """

    def __init__(self, dynamics: Dynamics, known: Mapping[str, Tensor]) -> None:
        super().__init__(known)
        self._dynamics = dynamics
        self.slopes: dict[tuple[Derivative, str], Slope] = {}
        """f′ at these activities, where known: Eq. 1 and 2 may read the same."""

    def __missing__(self, name: str) -> Tensor:
        self[name] = x = self.repeated[name].leaf.detach()
        return x

    @cached_property
    def repeated(self) -> Mapping[str, Cut]:
        """Every block of the repeated run, by name."""
        return self._dynamics.forward_pass.at(self)
