"""Relaxation: one batch, one network, one rule, ready to be solved."""

import copy
import math
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ardyn.analysis import moving_gradients
from ardyn.analysis.references import KeptReferences, choose_reference
from ardyn.analysis.trajectory import Trajectory
from ardyn.batch import as_inputs, check_differentiable, numbered, tau_of_each
from ardyn.closed_form.convergence_time import exact_convergence_time
from ardyn.closed_form.quasi_static import check_update_linear, integrated_gradients
from ardyn.closed_form.solver import ClosedForm, check_linear
from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.coupled import Coupled, check_moves
from ardyn.dynamics.feedback import checked_feedback
from ardyn.dynamics.learning import parameter_gradients
from ardyn.dynamics.loss import Loss, check_drive, evaluation, loss_name
from ardyn.dynamics.plasticity import Plasticity, check_window
from ardyn.dynamics.rule import Rule, check_rules_matter, check_tau_trace, rule_of_each_block
from ardyn.dynamics.windows import Learned, check_plasticity, relax_coupled
from ardyn.errors import InputError, check_finite, is_finite
from ardyn.network.agreement import Driven, feed_forward, named_parameters, uncut_gradients
from ardyn.network.containers import tensors_in
from ardyn.network.network import Network, Units
from ardyn.solvers.system import Solution, Solver, Stop, as_times, check_is_solver

_CHANGED = (
    "the model's weights, the inputs or the targets changed after this Relaxation was made, or a "
    "hook or a new part changes what its modules compute; make a new one, or read its gradients "
    "before the optimiser's step"
)


@dataclass(frozen=True)
class _Assigned:
    """What Rule and τ mean for the blocks and units of one network; checked."""

    network: Network
    relaxing: Network
    """The same, with its clamped outputs at once."""
    rules: Mapping[str, Rule]
    tau: Mapping[str, float]
    with_psi: tuple[str, ...] = ()
    """Blocks that have ψ."""

    @classmethod
    def of(
        cls,
        network: Network,
        rule: Rule | Mapping[str, Rule],
        tau: float | Sequence[float],
        tau_trace: float | None,
    ) -> "_Assigned":
        """Checked to fit."""
        rules = rule_of_each_block(rule, tuple(network.block))
        check_rules_matter(network, rule)
        check_tau_trace(tau_trace, rules.values())
        is_clamped = next(iter(rules.values())).output == "clamped"
        relaxing = network.clamped if is_clamped else network
        if not relaxing.units:
            why = (
                "one block and a clamped output; let it relax"
                if is_clamped
                else "the module returns its parameters as they are; return what it computes"
            )
            raise InputError(f"no unit relaxes: {why}")
        return cls(network, relaxing, rules, tau_of_each(tau, relaxing.units))

    def fed_back(self, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Blocks that have ψ, and their weights."""
        for block in self.with_psi:
            weight = self.network.block[block].layer.weight
            assert weight is not None
            yield block, parameters[weight]


class Relaxation:
    """The relaxation phase of AR on one batch, after the feed-forward pass.

    Args:
        model: any module that backprop trains; its own run is watched, in whatever mode it is.
        inputs: x⁰, [batch, …], in the model's type and on its device; for a module of several
            inputs a tuple, or by their names a dict.
        targets: what the loss compares the output with, [batch, output], or class indices [batch];
            arranged as the module arranges its outputs, with None where one bears no loss.
        loss: "sse" (Σ (x − t)²), "mse", "cross_entropy", each summed over outputs, or a callable
            (output, target) that sums over samples.
        rule: one Rule for every block, or {name pattern: Rule}.
        tau: τ of every relaxing unit, or one per unit in feed-forward order (the output among them
            when it relaxes). It sets the unit of time.
        feedback: ψ of each block whose Rule asks for feedback weights, {block: [n_l, n_{l+1}]}, for
            a convolution in the shape of its flattened kernel's transpose; ``random_feedback``
            draws them.
        tau_trace: τ_z of the activity trace, where the Rule's update activity is "trace".
        units: "block": a leak for every layer with its activation; "operation": for every torch
            operation. The equilibrium is the same; with more leaks on its way, a gradient takes
            longer to arrive.
        plasticity: weights that move while activities relax; by default they stand still.

    Raises:
        InputError: any of these that cannot be used; nothing has been integrated by then.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss: Loss = "sse",
        rule: Rule | Mapping[str, Rule] = Rule(),  # noqa: B008  (frozen)
        tau: float | Sequence[float] = 1.0,
        feedback: Mapping[str, Tensor] | None = None,
        tau_trace: float | None = None,
        units: Units = "block",
        plasticity: Plasticity | None = None,
    ) -> None:
        self.model, self.loss, self.plasticity, self.units = model, loss, plasticity, units
        self.inputs, self.targets = inputs, targets
        self._rule, self._tau, self._tau_trace = rule, tau, tau_trace
        self._feedback = feedback or {}
        named = named_parameters(model)
        check_differentiable(named, as_inputs(inputs), targets, loss)
        check_finite({f"parameter '{name}'": p for name, p in named.items()})
        self._assigned: list[_Assigned] = []
        self._settle(self._feed_forward())

    def again(self, inputs: Any, targets: Any) -> "Relaxation":
        """The same on another batch, with the weights as they are now.

        For training: where the network is one that was seen, so is what was checked of it.

        Raises:
            InputError: inputs or targets that hold NaN or infinity, or targets that don't fit.
        """
        other = self.without_batch()
        other.inputs, other.targets = inputs, targets
        check_differentiable({}, as_inputs(inputs), targets, self.loss)
        other._settle(other._feed_forward())
        return other

    def without_batch(self) -> "Relaxation":
        """What ``again`` needs of it: no activities, no copies of weights."""
        other = copy.copy(self)
        for name in ("inputs", "targets", "dynamics", "loss_value", "penalty"):
            other.__dict__.pop(name, None)
        for name in ("gradients", "equilibrium"):
            other.__dict__.pop(name, None)
        return other

    def _settle(self, driven: Driven) -> None:
        """Give every block of the network its Rule, ψ and time constant."""
        self.network = driven.forward_pass.network
        named = driven.forward_pass.run.parameters
        known = next((each for each in self._assigned if each.network is self.network), None)
        its = known or _Assigned.of(self.network, self._rule, self._tau, self._tau_trace)
        psi = (
            {block: self._feedback[block].detach().to(W) for block, W in known.fed_back(named)}
            if known
            else checked_feedback(its.relaxing, named, its.rules, self._feedback)
        )
        self.dynamics = Dynamics(
            replace(driven.forward_pass, network=its.relaxing),
            driven.drive,
            its.rules,
            psi,
            its.tau,
            self._tau_trace,
            frozenset(name for name, p in named.items() if not p.requires_grad),
        )
        if known is None:
            if self.plasticity is not None:
                check_moves(self.plasticity, self.dynamics)
            self._assigned.append(replace(its, with_psi=tuple(psi)))

    def _after(self, driven: Driven, feedback: Mapping[str, Tensor]) -> Dynamics:
        """The dynamics after another feed-forward pass of the same network, with these ψ."""
        forward_pass = replace(driven.forward_pass, network=self.dynamics.forward_pass.network)
        psi = {block: feedback[block] for block in self.dynamics.feedback}
        return replace(self.dynamics, forward_pass=forward_pass, drive=driven.drive, feedback=psi)

    def _feed_forward(self) -> Driven:
        """The frozen pass, and the loss gradients at its outputs."""
        inputs = tensors_in(self.inputs)
        try:
            driven = self._pass_with({})
        except InputError:
            check_finite(numbered("inputs", inputs))
            raise
        # Infinities are no fault where a softmax alone reads them, as those of a mask.
        below = driven.forward_pass.below.values()
        if not is_finite(inputs) and not is_finite(below):
            check_finite(numbered("inputs", inputs))
        self.loss_value, self.penalty = driven.value, driven.penalty
        run = driven.forward_pass.run
        buffers = (b for m in run.modules.values() for b in m._buffers.values() if b is not None)
        in_use = (*run.parameters.values(), *buffers, *inputs)
        run.unchanged.watch((*in_use, *tensors_in(self.targets)))
        return driven

    def _pass_with(self, weights: Mapping[str, Tensor]) -> Driven:
        """A feed-forward pass with these weights, the loss and its gradients at the outputs."""
        evaluate = evaluation(self.loss, self.targets)
        driven = feed_forward(self.model, self.inputs, evaluate, self.units, weights, self.loss)
        activity = driven.forward_pass.activity
        check_drive(self.loss, driven.drive, {n: activity[n] for n in driven.drive})
        return driven

    def dynamics_with(
        self, weights: Mapping[str, Tensor], feedback: Mapping[str, Tensor]
    ) -> Dynamics:
        """The dynamics on the same batch, after a feed-forward pass with other weights and ψ.

        Args:
            weights: by parameter; what isn't among them stays.
            feedback: ψ by block, likewise.
        """
        return self._after(self._pass_with(weights), {**self.dynamics.feedback, **feedback})

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """∂𝓛/∂x̄ of every unit, by autograd through the uncut module, [batch, …] each."""
        self._check_unchanged()
        passed = self.dynamics.forward_pass
        try:
            found, values = uncut_gradients(passed, passed.run)
        except InputError as error:
            raise InputError(_CHANGED) from error
        for unit in self.network.units:
            x, then = values[unit], passed.activity[unit]
            if x.shape != then.shape or not torch.allclose(x, then, rtol=1e-3, atol=1e-6):
                raise InputError(_CHANGED)
        return {unit: found[unit] for unit in self.network.units}

    @cached_property
    def equilibrium(self) -> dict[str, Tensor] | None:
        """Where the rule's dynamics settle: the BP gradient, or with ψ or f′ = 1 a pseudo-gradient.

        [batch, …] each; None for a nonlinear rule, which has no closed form.
        """
        if not self.dynamics.is_linear:
            return None
        self._check_unchanged()
        with torch.no_grad():
            found = self.dynamics.equilibrium()
        return {unit: found[unit] for unit in self.network.units}

    @property
    def settings(self) -> dict[str, str]:
        """Rule and time constants of each unit, and the loss, as a stored trajectory keeps them."""
        rules = self.dynamics.rules
        alike = len(set(rules.values())) == 1
        return {
            "rule": str(next(iter(rules.values())) if alike else rules),
            "tau": str(self.dynamics.tau),
            "tau_trace": str(self.dynamics.tau_trace),
            "loss": loss_name(self.loss),
            "plasticity": str(self.plasticity),
        }

    def solve(
        self,
        times: Sequence[float] | Tensor,
        solver: Solver = ClosedForm(),  # noqa: B008  (frozen)
        stop: Stop | None = None,
        weights_every: int = 0,
    ) -> Trajectory:
        """Relax from t = 0 and record the activities at ``times``.

        Args:
            times: increasing, not negative; ``[10.0]`` records the final state alone.
            solver: Adaptive, Fixed, Sweep or ClosedForm.
            stop: hold the state once every sample is steady, rather than relax to the last time.
            weights_every: where weights move, record them at every so many of the times too: with
                2, at the second, the fourth, …; by default at the last alone, as they take memory.

        Raises:
            InputError: times, a step or a solver that this relaxation cannot use.
            DivergenceError: the solution left the finite numbers; says when and where.
        """
        t = as_times(times)
        if not isinstance(weights_every, int) or weights_every < 0:
            raise InputError(
                f"weights_every must be a whole number, 0 or more, got {weights_every!r}; use 1"
            )
        if weights_every and not self._moves:
            raise InputError(
                f"weights_every = {weights_every} means nothing to weights that stand still; drop "
                f"it, or make the Relaxation with plasticity"
            )
        self.check(solver, stop, float(t[-1]))
        learned = None
        with torch.no_grad():
            if self.plasticity is not None and self._moves:
                solution, learned = relax_coupled(
                    self.dynamics, self.plasticity, t, solver, weights_every
                )
            else:
                solution = solver.solve(self.dynamics, t, stop)
        return self._trajectory(t, solver, solution, learned)

    def check(self, solver: Solver, stop: Stop | None = None, end: float | None = None) -> None:
        """Raise InputError if this relaxation cannot be solved so; costs nothing."""
        self._check_unchanged()
        check_is_solver(solver)
        if stop is not None and (isinstance(stop, type) or not hasattr(stop, "is_reached")):
            raise InputError(f"stop must be a SteadyState, got {stop!r}; use SteadyState(1e-6)")
        if self.plasticity is None or not self._moves:
            solver.check(self.dynamics, stop)
            return
        check_plasticity(self.plasticity, self.dynamics, solver, end, stop)
        solver.check(Coupled.of(self.dynamics, self.plasticity, self.dynamics.initial()))

    def exact_convergence_time(
        self, tolerance: float = 1e-3, reference: str = "gradients", per_sample: bool = False
    ) -> dict[str, Tensor]:
        """Convergence times of the ODE, predicted as roots of its closed form.

        Returns:
            {unit: time}, [] each or [batch]; infinite where it never comes that near.

        Raises:
            InputError: the rule has no closed form, or weights move.
        """
        self._check_unchanged()
        if self._moves:
            raise InputError(
                "weights that move leave no exact convergence time; solve with such as "
                "Adaptive('dopri5'), and ask the trajectory for its convergence_time()"
            )
        check_linear(self.dynamics)
        against = choose_reference(self, reference)
        with torch.no_grad():
            times = exact_convergence_time(self.dynamics, against, tolerance, per_sample)
        at_once = torch.zeros_like(next(iter(times.values())))
        return {unit: times.get(unit, at_once) for unit in self.network.units}

    def quasi_static_change(self, start: float, end: float) -> dict[str, Tensor]:
        """τ_W ΔW as τ_W → ∞: −∫ ∂𝓛/∂W dt over a window of plasticity, {parameter: change}.

        Summed over the batch; from the time integral of the closed form.

        Raises:
            InputError: no closed form, or an update that is not linear in x.
        """
        self._check_unchanged()
        check_window((start, end))
        if end == math.inf:
            raise InputError("the quasi-static change of an endless window has no end; pass one")
        check_linear(self.dynamics)
        check_update_linear(self.dynamics)
        with torch.no_grad():
            gradients = parameter_gradients(integrated_gradients(self.dynamics, start, end))
        return {name: -gradient for name, gradient in gradients.items()}

    def equilibria(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """Where activities would settle if the weights stood still, at each record of the weights.

        With what was frozen at the feed-forward pass, and with ψ or f′ as the Rule has them.

        Returns:
            {unit: g(t)}, [record, batch, …].

        Raises:
            InputError: weights that did not move, or a rule that has no equilibrium in closed form.
        """
        plasticity, learned = self._moved(trajectory)
        check_linear(self.dynamics)
        with torch.no_grad():
            found = moving_gradients.equilibria(self.dynamics, plasticity, learned)
        return {unit: found[unit] for unit in self.network.units}

    def moving_gradients(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """∂𝓛/∂x̄ of every unit at each record of the weights, by autograd.

        After a feed-forward pass with the weights of the moment: nothing in it is frozen.

        Returns:
            {unit: gradient}, [record, batch, …].

        Raises:
            InputError: weights that did not move.
        """
        _, learned = self._moved(trajectory)
        found = moving_gradients.backprop_gradients(self.dynamics.forward_pass, learned)
        return {unit: found[unit] for unit in self.network.units}

    @property
    def _moves(self) -> bool:
        """Whether weights move while activities relax."""
        return self.plasticity is not None and self.plasticity.moves

    def _moved(self, trajectory: Trajectory) -> tuple[Plasticity, Learned]:
        self._check_unchanged()
        learned = trajectory.learned
        if self.plasticity is None or learned is None:
            raise InputError("the weights stood still; read equilibrium, or gradients")
        parameters = self.dynamics.forward_pass.parameters
        moving_gradients.check_belongs(learned, parameters, self.dynamics.feedback)
        return self.plasticity, learned

    def __repr__(self) -> str:
        activity = self.dynamics.forward_pass.activity
        units = ", ".join(f"{unit} {list(activity[unit].shape)}" for unit in self.network.units)
        return f"<Relaxation of {type(self.model).__name__}: {units}>"

    def _check_unchanged(self) -> None:
        """Raise InputError if tensors were changed in place since the feed-forward pass."""
        if not self.dynamics.forward_pass.run.unchanged:
            raise InputError(_CHANGED)

    def _trajectory(
        self, t: Tensor, solver: Solver, solution: Solution, learned: Learned | None
    ) -> Trajectory:
        activities = solution.record.activity
        clamped = {
            unit: g.expand(len(t), *g.shape)
            for unit, g in self.dynamics.clamped.items()
            if unit in self.network.units
        }
        if clamped:
            activities = ChainMap(clamped, activities)  # type: ignore[arg-type]
        return Trajectory(
            t,
            activities,
            # The model may hold the learned weights before these are asked for.
            self if learned is None else self._kept_references(),
            solver,
            solution.is_exact,
            solution.record.trace,
            solution.evaluations,
            learned,
            solution.steady_at,
        )

    def _kept_references(self) -> KeptReferences:
        return KeptReferences(self.gradients, self.equilibrium, self.settings)
