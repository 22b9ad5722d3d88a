"""Relaxation: the relaxation phase of one network on one batch."""

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ardyn.analysis import moving_gradients
from ardyn.analysis.references import KeptReferences, choose_reference
from ardyn.analysis.trajectory import Trajectory
from ardyn.closed_form.convergence_time import exact_convergence_time
from ardyn.closed_form.quasi_static import check_update_linear, integrated_gradients
from ardyn.closed_form.solver import ClosedForm, check_linear
from ardyn.dynamics.activity import Dynamics
from ardyn.dynamics.coupled import Coupled
from ardyn.dynamics.learning import parameter_gradients
from ardyn.dynamics.loss import Loss, loss_name
from ardyn.dynamics.plasticity import Plasticity, check_window
from ardyn.dynamics.rule import Rule
from ardyn.dynamics.windows import Learned, check_plasticity, relax_coupled
from ardyn.errors import InputError
from ardyn.network.agreement import uncut_gradients
from ardyn.network.network import Units
from ardyn.setup import Setup
from ardyn.solvers.system import Solution, Solver, Stop, as_times, check_is_solver

_CHANGED = (
    "the model's weights, the inputs or the targets changed after this Relaxation was made, or a "
    "hook or a new submodule changes what is computed; make a new one, or read its gradients "
    "before the optimiser's step"
)


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
            operation. The equilibrium is the same; with more leaks in series, convergence takes
            longer.
        plasticity: time constants of weights that change while activities relax; by default they
            are constant.

    Raises:
        InputError: an argument that cannot be used; raised before anything is integrated.
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
        setup = Setup(
            model, loss=loss, rule=rule, tau=tau, feedback=feedback, tau_trace=tau_trace,
            units=units, plasticity=plasticity,
        )  # fmt: skip
        self._begin(setup, inputs, targets)

    @classmethod
    def of(cls, setup: Setup, inputs: Any, targets: Any) -> "Relaxation":
        """The relaxation of a batch, where ``setup`` is shared by one batch after another.

        What was checked of a network and its Rule at one batch is not checked again at the next.
        """
        sim = cls.__new__(cls)
        sim._begin(setup, inputs, targets)
        return sim

    def _begin(self, setup: Setup, inputs: Any, targets: Any) -> None:
        """The feed-forward pass."""
        self.setup, self.inputs, self.targets = setup, inputs, targets
        driven = setup.feed_forward(inputs, targets)
        self.network = driven.forward_pass.network
        self.dynamics = setup.dynamics(driven)
        self.loss_value, self.penalty = driven.value, driven.penalty

    @property
    def model(self) -> nn.Module:
        """The module that is relaxed."""
        return self.setup.model

    @property
    def plasticity(self) -> Plasticity | None:
        """Time constants of weights that change while activities relax."""
        return self.setup.plasticity

    def dynamics_with(
        self, weights: Mapping[str, Tensor], feedback: Mapping[str, Tensor]
    ) -> Dynamics:
        """The dynamics on the same batch, after a feed-forward pass with other weights and ψ.

        Args:
            weights: by parameter; what isn't among them stays.
            feedback: ψ by block, likewise.
        """
        driven = self.setup.pass_with(weights, self.inputs, self.targets)
        now = self.dynamics
        return replace(
            now,
            forward_pass=replace(driven.forward_pass, network=now.forward_pass.network),
            drive=driven.drive,
            feedback={**now.feedback, **feedback},
        )

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
        """The fixed point of the rule's dynamics: the BP gradient, or a pseudo-gradient.

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
        """Rule, time constants and loss, as strings, as stored with a trajectory."""
        rules = self.dynamics.rules
        alike = len(set(rules.values())) == 1
        return {
            "rule": str(next(iter(rules.values())) if alike else rules),
            "tau": str(self.dynamics.tau),
            "tau_trace": str(self.dynamics.tau_trace),
            "loss": loss_name(self.setup.loss),
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
            stop: hold the state once every sample is steady, and stop integrating.
            weights_every: with plastic weights, record them at every so many of the times as well:
                with 2, at the second, the fourth, …; by default at the last alone, to save memory.

        Raises:
            InputError: times, a step or a solver that this relaxation cannot use.
            DivergenceError: the solution became non-finite; says when and in which unit.
        """
        t = as_times(times)
        if not isinstance(weights_every, int) or weights_every < 0:
            raise InputError(
                f"weights_every must be a whole number, 0 or more, got {weights_every!r}; use 1"
            )
        plasticity = self.setup.plasticity if self.setup.is_plastic else None
        if weights_every and plasticity is None:
            raise InputError(
                f"weights_every = {weights_every} needs plastic weights; drop it, or make the "
                f"Relaxation with plasticity"
            )
        self.check(solver, stop, None if plasticity is None else float(t[-1]))
        learned = None
        with torch.no_grad():
            if plasticity is not None:
                solution, learned = relax_coupled(
                    self.dynamics, plasticity, t, solver, weights_every
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
        if self.plasticity is None or not self.setup.is_plastic:
            solver.check(self.dynamics, stop)
            return
        check_plasticity(self.plasticity, self.dynamics, solver, end, stop)
        solver.check(Coupled.of(self.dynamics, self.plasticity, self.dynamics.initial()))

    def exact_convergence_time(
        self, tolerance: float = 1e-3, reference: str = "gradients", per_sample: bool = False
    ) -> dict[str, Tensor]:
        """Convergence times of the ODE, predicted as roots of its closed form.

        Returns:
            {unit: time}, [] each or [batch]; infinite where the error never falls to the tolerance.

        Raises:
            InputError: the rule has no closed form, or weights are plastic.
        """
        self._check_unchanged()
        if self.setup.is_plastic:
            raise InputError(
                "with plastic weights there is no exact convergence time; solve with such as "
                "Adaptive('dopri5'), and call convergence_time() of the trajectory"
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
            raise InputError(
                "the quasi-static change over an infinite window diverges; pass a finite end"
            )
        check_linear(self.dynamics)
        check_update_linear(self.dynamics)
        with torch.no_grad():
            gradients = parameter_gradients(integrated_gradients(self.dynamics, start, end))
        return {name: -gradient for name, gradient in gradients.items()}

    def equilibria(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """Fixed points of the activities for the weights of each record.

        The forward pass stays frozen; ψ and f′ are as the Rule has them.

        Returns:
            {unit: g(t)}, [record, batch, …].

        Raises:
            InputError: constant weights, or a rule that has no equilibrium in closed form.
        """
        plasticity, learned = self._moved(trajectory)
        check_linear(self.dynamics)
        with torch.no_grad():
            found = moving_gradients.equilibria(self.dynamics, plasticity, learned)
        return {unit: found[unit] for unit in self.network.units}

    def moving_gradients(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """∂𝓛/∂x̄ of every unit at each record of the weights, by autograd.

        After a new feed-forward pass with the current weights: nothing is frozen.

        Returns:
            {unit: gradient}, [record, batch, …].

        Raises:
            InputError: constant weights.
        """
        _, learned = self._moved(trajectory)
        found = moving_gradients.backprop_gradients(self.dynamics.forward_pass, learned)
        return {unit: found[unit] for unit in self.network.units}

    def _moved(self, trajectory: Trajectory) -> tuple[Plasticity, Learned]:
        self._check_unchanged()
        learned = trajectory.learned
        if self.plasticity is None or learned is None:
            raise InputError(
                "the weights of this trajectory are constant; use equilibrium, or gradients"
            )
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
            self
            if learned is None
            else KeptReferences(self.gradients, self.equilibrium, self.settings),
            solver,
            solution.is_exact,
            solution.record.trace,
            solution.evaluations,
            learned,
            solution.steady_at,
        )
