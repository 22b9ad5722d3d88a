"""Activities, traces, weights and feedback weights as one state of one ODE.

    τ_l ẋ^l = −x^l + pull_l(x^{l+1}),   τ_z ż = x − z,   τ_W Ẇ = −∂𝓛/∂W − λ_W W,   τ_ψ ψ̇ likewise

with the current W in the pull-back and in a current derivative. What is frozen at the feed-forward
pass, x̄ and f′, stays frozen.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ardyn.dynamics.activity import Activities, Dynamics
from ardyn.dynamics.learning import feedback_gradients, parameter_gradients, updates_at
from ardyn.dynamics.plasticity import Plasticity, check_is_plasticity, has_own_rates
from ardyn.errors import InputError
from ardyn.state import State

_NONLINEAR = "constant weights, as products of weights and activities are not linear"


@dataclass(frozen=True)
class Coupled:
    """The right-hand side with plastic weights, from any initial state."""

    dynamics: Dynamics
    plasticity: Plasticity
    start: State
    since: float = 0.0
    """The time at which it starts, in the time of the relaxation."""

    @staticmethod
    def of(
        dynamics: Dynamics, plasticity: Plasticity, fast: State, since: float = 0.0
    ) -> "Coupled":
        """From activities and traces, with the weights of ``dynamics`` as initial weights."""
        passed = dynamics.forward_pass
        learned = [
            block
            for block, psi in dynamics.feedback.items()
            if dynamics.rules[block].feedback == "learned"
        ]
        weights = {
            name: passed.parameters[name]
            for block in passed.network.blocks
            if block.layer.is_local
            for name in block.layer.names
            if name not in dynamics.held
        }
        return Coupled(
            dynamics,
            plasticity,
            State(
                fast.activity,
                fast.trace,
                weights if plasticity.tau_weights < math.inf else {},
                {block: dynamics.feedback[block] for block in learned}
                if plasticity.tau_feedback < math.inf
                else {},
            ),
            since,
        )

    @property
    def time_constants(self) -> Mapping[str, float]:
        """τ of the leaks; those of the weights are checked by ``check_plasticity``."""
        return self.dynamics.time_constants

    @property
    def nonlinearity(self) -> str:
        """Weights that change make the system nonlinear; see ``Dynamics.nonlinearity``."""
        return _NONLINEAR

    def initial(self) -> State:
        """The initial state."""
        return self.start

    def __call__(self, t: Tensor | float, state: State) -> State:
        """d(state)/dt."""
        rate = state.with_tensors([torch.empty_like(x) for x in state.tensors()])
        self.write_rate(t, state, rate)
        return rate

    def write_rate(self, t: Tensor | float, state: State, rate: State) -> None:
        """The same, written into ``rate``.

        No tensor as large as the plastic weights of a fully connected layer is made on the way.
        """
        now = self.at(state)
        x = now.activities(state.activity)
        now.write_rates(x, state.trace, rate)
        if not (state.weights or state.feedback):
            return
        if has_own_rates(self.plasticity):
            slow = self._slow_rate(now, state)
            for own, found in ((rate.weights, slow.weights), (rate.feedback, slow.feedback)):
                for name, each in found.items():
                    own[name].copy_(each)
        else:
            self._write_slow_rate(now, x, state, rate)

    def _write_slow_rate(self, now: Dynamics, x: Activities, state: State, rate: State) -> None:
        """τ_W Ẇ = −∂𝓛/∂W − λ_W W and τ_ψ ψ̇ = −(∂𝓛/∂W)ᵀ − λ_ψ ψ, as ``slow_rate`` gives them."""
        p, share = self.plasticity, _share(self.plasticity, now)
        tau = p.tau_weights if state.weights else p.tau_feedback
        # Eq. 2 is linear in x^{l+1}: with −x/τ in its place the product is the rate itself, and no
        # pass over the weights is needed to scale it.
        driving = {u: (-share / tau) * v for u, v in {**now.clamped, **state.activity}.items()}
        z = now.activities({**state.activity, **state.trace})
        room = {name: rate.weights[name] for name in self._used_once & state.weights.keys()}
        _, changes = updates_at(now, driving, x, z, room)
        descent, of_psi = parameter_gradients(changes), feedback_gradients(now, changes)
        for block, psi in state.feedback.items():  # first, as a decay is added to those of weights
            dpsi = torch.mul(of_psi[block], tau / p.tau_feedback, out=rate.feedback[block])
            _decay(dpsi, psi, p.feedback_decay, p.tau_feedback)
        for name, W in state.weights.items():
            dW = rate.weights[name].copy_(descent[name])  # nothing to do where it was written
            _decay(dW, W, p.weight_decay, p.tau_weights)

    @cached_property
    def _used_once(self) -> frozenset[str]:
        """Parameters of one block each; the gradients of others are sums."""
        blocks = self.dynamics.forward_pass.network.blocks
        uses = Counter(name for block in blocks for name in block.layer.names)
        return frozenset(name for name, count in uses.items() if count == 1)

    def _slow_rate(self, now: Dynamics, state: State) -> State:
        changes = self.plasticity.changes(now, state.activity, state.trace)
        return slow_rate(self.plasticity, now, state, changes)

    def sweep(self, state: State, step: float) -> State:
        """One sequential sweep of the activities, then an Euler step of the weights."""
        now = self.at(state)
        swept = now.sweep(State(state.activity, state.trace), step)
        slow = self._slow_rate(now, replace(state, activity=swept.activity, trace=swept.trace))
        return State(
            swept.activity,
            swept.trace,
            {name: W + step * slow.weights[name] for name, W in state.weights.items()},
            {block: psi + step * slow.feedback[block] for block, psi in state.feedback.items()},
        )

    def at(self, state: State) -> Dynamics:
        """The dynamics with the weights and feedback weights of a state."""
        passed = self.dynamics.forward_pass
        parameters = {**passed.parameters, **state.weights}
        return replace(
            self.dynamics,
            forward_pass=replace(passed, parameters=parameters),
            feedback={**self.dynamics.feedback, **state.feedback},
        )


def slow_rate(
    plasticity: Plasticity,
    now: Dynamics,
    state: State,
    changes: Mapping[str, Mapping[str, Tensor]],
    span: float = 1.0,
) -> State:
    """d(W, b, ψ)/dt, or their change over a time ``span`` where ``changes`` are integrals over it.

    Args:
        now: the dynamics with the current weights.
        state: the plastic weights.
        changes: Eq. 2, {block: {parameter: gradient}}, summed over the batch.
    """
    gradients, learned = parameter_gradients(changes), feedback_gradients(now, changes)
    share = _share(plasticity, now)
    return State(
        {},
        {},
        {
            name: plasticity.weight_rate(W, gradients[name], share, span)
            for name, W in state.weights.items()
        },
        {
            block: plasticity.feedback_rate(psi, learned[block], share, span)
            for block, psi in state.feedback.items()
        },
    )


def _share(plasticity: Plasticity, now: Dynamics) -> float:
    """The weight of one sample."""
    return members(now) / len(now.like) if plasticity.reduction == "mean" else 1.0


def _decay(dW: Tensor, W: Tensor, decay: float, tau: float) -> None:
    """Add −λ W / τ to a rate."""
    if decay:
        dW.add_(W, alpha=-decay / tau)


def members(dynamics: Dynamics) -> int:
    """The number of networks that share the batch: the members of an ensemble, else one."""
    passed = dynamics.forward_pass
    for block in passed.network.blocks:
        if block.layer.is_stacked:
            return len(passed.parameters[block.layer.names[0]])
    return 1


def check_moves(plasticity: Plasticity, dynamics: Dynamics) -> None:
    """Raise InputError for what is not plasticity, or for a setting of it that has no effect."""
    check_is_plasticity(plasticity)
    learns = any(rule.feedback == "learned" for rule in dynamics.rules.values())
    if plasticity.tau_feedback < math.inf and not learns:
        raise InputError(
            f"tau_feedback = {plasticity.tau_feedback:g} has no effect where no feedback weights "
            f"are learned; drop it, or use Rule(feedback='learned')"
        )
    if plasticity.weight_decay and plasticity.tau_weights == math.inf:
        raise InputError(
            f"weight_decay = {plasticity.weight_decay:g} has no effect on weights with an infinite "
            f"time constant; drop it, or pass tau_weights"
        )
    if plasticity.feedback_decay and plasticity.tau_feedback == math.inf:
        raise InputError(
            f"feedback_decay = {plasticity.feedback_decay:g} has no effect on feedback weights "
            f"with an infinite time constant; drop it, or pass tau_feedback"
        )


def check_untied(parameters: Mapping[str, Tensor]) -> None:
    """Raise InputError where one tensor has two names, as it would be updated twice."""
    seen: dict[tuple[int, torch.Size], str] = {}
    for name, W in parameters.items():
        other = seen.setdefault((W.data_ptr(), W.shape), name)
        if other != name and W.numel():
            raise InputError(
                f"plasticity integrates each parameter separately, but '{other}' and '{name}' are "
                f"one tensor; use the module itself twice, or train by ardyn.backward"
            )
