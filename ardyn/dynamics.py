"""Dynamics: the right-hand side of the relaxation, d(state)/dt. Knows no solver."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ardyn import plasticity
from ardyn.layers import activate
from ardyn.network import INPUT, Block
from ardyn.rule import Derivative, Rule
from ardyn.state import State
from ardyn.trace import Trace


def relax(x: Tensor, drive: Tensor, tau: float) -> Tensor:
    """τ dx/dt = −x + drive (paper, Eq. 1; on a graph, Eq. 7)."""
    return (drive - x) / tau


@dataclass(frozen=True)
class Dynamics:
    """The relaxation after one feed-forward pass, under a Rule.

    τ_l dx^l/dt = −x^l + pull_l(x^{l+1}) for hidden units, τ_L dx^L/dt = −x^L + g^L for the output.
    Time is in whatever unit the time constants are given in.
    """

    trace: Trace
    drive: Tensor
    """g^L = ∂𝓛/∂x̄^L, [batch, output]: frozen, never recomputed from the relaxing x^L."""
    rules: Mapping[str, Rule]
    """The Rule of each block."""
    feedback: Mapping[str, Tensor]
    """ψ of each block that does not send back through Wᵀ, [n_l, n_{l+1}], the shape of Wᵀ."""
    tau: Mapping[str, float]
    """Time constant of each relaxing unit, in feed-forward order."""
    tau_trace: float | None = None
    """Time constant of the activity trace z, where a Rule asks for one."""

    @property
    def is_linear(self) -> bool:
        """Whether the whole system is linear in x."""
        return all(rule.is_linear for rule in self.rules.values())

    @cached_property
    def starts_at_zero(self) -> bool:
        """Whether x(0) = 0 rather than the feed-forward activity."""
        return self.rules[self.trace.network.output].initial == "zero"

    @cached_property
    def time_constants(self) -> dict[str, float]:
        """Of every leak in the system: the units', and the trace's where there is one."""
        trace = {"trace z": self.tau_trace} if self.remembered and self.tau_trace else {}
        return dict(self.tau) | trace

    @cached_property
    def remembered(self) -> tuple[str, ...]:
        """Units whose activity trace z the weight update reads."""
        sources = {
            source
            for block in self.trace.network.blocks
            if self.rules[block.name].update_activity == "trace"
            for source in block.sources
        }
        return tuple(unit for unit in self.trace.network.units if unit in sources)

    def initial(self) -> State:
        """x(0), feed-forward or zero, and z(0) = x̄."""
        x = {unit: self.trace.activity[unit] for unit in self.tau}
        if self.starts_at_zero:
            x = {unit: torch.zeros_like(value) for unit, value in x.items()}
        return State(x, {unit: self.trace.activity[unit] for unit in self.remembered})

    def __call__(self, t: Tensor | float, state: State) -> State:
        """d(state)/dt, all units in parallel; autonomous, so ``t`` plays no part."""
        x = self.with_clamped(state.activity)
        rate: dict[str, Tensor] = {}

        def send(unit: str, drive: Tensor) -> Tensor:
            if unit in self.tau:
                rate[unit] = relax(x[unit], drive, self.tau[unit])
            return x[unit]

        self.trace.network.descend(self.drive, send, lambda block, v: self.pull(block, v, x))
        return State({unit: rate[unit] for unit in self.tau}, self._trace_rate(x, state.trace))

    def sweep(self, state: State, step: float) -> State:
        """One sequential sweep from the top, each unit driven by the already updated one above."""
        x = self.with_clamped(state.activity)

        def send(unit: str, drive: Tensor) -> Tensor:
            if unit in self.tau:
                x[unit] = x[unit] + step * relax(x[unit], drive, self.tau[unit])
            return x[unit]

        self.trace.network.descend(self.drive, send, lambda block, v: self.pull(block, v, x))
        rate = self._trace_rate(x, state.trace)
        z = {unit: z + step * rate[unit] for unit, z in state.trace.items()}
        return State({unit: x[unit] for unit in self.tau}, z)

    def pull(self, block: Block, v: Tensor, x: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """pull_l(v) = (v ⊙ f′(a^l)) W, or with ψᵀ in W's place: what a block sends back.

        ``v`` is [..., batch, n_{l+1}]; ``x`` the current activities, for a derivative taken there.
        """
        slope = self.derivative(self.rules[block.name].relaxation_derivative, block, x)
        psi = self.feedback.get(block.name)
        return (block.layer.send_back(self.trace.parameters, v * slope, psi),)

    def derivative(
        self, choice: Derivative, block: Block, x: Mapping[str, Tensor]
    ) -> Tensor | float:
        """f′ of a block as the Rule takes it, shaped like its unit."""
        match choice:
            case "frozen":
                return self.trace.derivative[block.name]
            case "current":
                a = block.layer.forward(self.trace.parameters, x[block.sources[0]])
                return activate(block.activation, a)[1]
            case "postsynaptic":
                return activate(block.activation, x[block.name])[1]
            case "dropped":
                return 1.0

    def with_clamped(self, activity: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Activities of all units: the input and a clamped output (x^L ≡ g^L) join the state."""
        fixed = {INPUT: self.trace.activity[INPUT], self.trace.network.output: self.drive}
        return fixed | dict(activity)

    def equilibrium(self) -> dict[str, Tensor]:
        """Where a linear system settles, x^l = pull_l(x^{l+1}): with the default Rule, ∂𝓛/∂x̄^l."""
        x: dict[str, Tensor] = {}

        def send(unit: str, drive: Tensor) -> Tensor:
            x[unit] = drive
            return drive

        self.trace.network.descend(self.drive, send, lambda block, v: self.pull(block, v, {}))
        return {unit: x[unit] for unit in self.trace.network.units}

    def samples(self, which: slice) -> "Dynamics":
        """The same dynamics, for some samples of the batch only."""
        return replace(self, trace=self.trace.samples(which), drive=self.drive[which])

    def _trace_rate(self, x: Mapping[str, Tensor], z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tau = self.tau_trace
        return {} if tau is None else {u: plasticity.remember(x[u], z[u], tau) for u in z}
