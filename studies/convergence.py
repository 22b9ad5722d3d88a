"""How fast, and how exactly, do activities relax onto the backprop (BP) gradient?

Relaxes one batch of images with each solver and each time constant, and compares the activities
over time with the BP gradients and with the exact trajectory; measures the error of each solver
against its cost, and the convergence time against the depth of the network.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import ardyn
from ardyn.analysis.references import choose_reference
from ardyn.dynamics.rule import Derivative, Feedback, Initial, Rule
from ardyn.errors import ArdynError, DivergenceError, InputError, check_choice
from ardyn.network.network import Units
from ardyn.solvers.system import Solver
from plots.convergence import draw
from studies.measuring import lag, trajectories
from studies.problems import images, networks
from studies.running import flags, variables
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import main, training_set
from studies.running.run_folder import RunFolder, check_device
from studies.running.solvers import STEPLESS, takes_steps

if TYPE_CHECKING:
    import xarray as xr

_DEPTH = {"transformer": 2, "lstm": 8}
"""Encoder layers, and segments that the lstm reads, of the networks to compare solvers on."""
_SIZES = (64, 300, 300, 100, 10)


@dataclass(frozen=True)
class Config(flags.Objective, flags.SolvedOnce):
    """Settings of the relaxation; all times are in the unit of tau-x, which is arbitrary."""

    solver: tuple[str, ...] = ("exact", "dopri5", "rk4", "euler", "sweep")
    """Solvers to compare: exact (closed form), sweep (the authors' scheme), collocation, or
    euler, midpoint, heun2, heun3, rk4, explicit_adams, implicit_adams, dopri5, dopri8, bosh3, …"""
    tau_x: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Time constants τ of the activities in τ dx/dt = −x + (x_above ⊙ f′) W (paper, Eq. 1), one
    relaxation for each."""
    tau_w: tuple[float, ...] = ()
    """Time constants τ_W of plastic weights of fully connected layers and convolutions, in the unit
    of tau-x; updates (paper, Eq. 2) are averaged over the batch. By default weights are constant.
    With plastic weights the gradient changes during the relaxation: the tracking error and lag of
    the activities are measured with every solver but exact, and drawn in moving_gradient and
    moving_lag; all other figures are of constant weights."""
    tau_psi: tuple[float, ...] = ()
    """Time constants τ_ψ of plastic feedback weights (paper, Eq. 3), in the unit of tau-x; needs
    --feedback learned. By default feedback weights are constant."""
    tau_z: tuple[float, ...] = ()
    """Time constants τ_z of the presynaptic activity trace in the weight update,
    τ_z dz/dt = x − z, in the unit of tau-x. By default the weight update uses the frozen
    feed-forward activity."""
    duration: float = 30.0
    """Duration of the relaxation, in the unit of tau-x (paper: 10 τ)."""
    tolerance: float = 1e-3
    """Relative tolerance of the convergence time, after which ‖x − g‖ ≤ tolerance · ‖g‖ always
    holds, g being the reference; below 1."""
    feedback: Feedback = "transpose"
    """Feedback weights: transpose (Wᵀ), or random ψ in its place, constant (fixed) or plastic with
    --tau-psi (learned)."""
    relaxation_derivative: Derivative = "frozen"
    """Where f′ in τ dx/dt = −x + (x_above ⊙ f′) W is evaluated: at the feed-forward pass (frozen,
    paper, Eq. 1), at the current x (current), at the current x_above (postsynaptic), or nowhere,
    f′ = 1 (dropped, paper, Eq. 4)."""
    reference: Literal["gradients", "equilibrium"] = "gradients"
    """Reference g that activities are compared with: the BP gradients, or the equilibrium of the
    rule, which differs from them with feedback weights ψ or a dropped derivative."""
    initial: Initial = "feedforward"
    """Initial activities: those of the feed-forward pass, or zero."""
    network: Literal["mlp", "cnn", "transformer", "lstm"] = "mlp"
    """Network to relax: mlp, a chain of fully connected layers; cnn, the paper's convolutional
    network, with 3 × 3 kernels on digits; transformer, an encoder with attention; lstm, an LSTM
    cell unrolled over segments of an image."""
    units: Units = "block"
    """Leaky integrators: one for each block, which is a layer with its activation function, or one
    for each operation of the module."""
    sizes: tuple[int, ...] = _SIZES
    """Neurons per layer of the mlp, from input to output; the output layer is linear."""
    activation: Literal["tanh", "relu", "sigmoid", "gelu", "identity"] = "tanh"
    """Activation function of the mlp's hidden layers."""
    layers: int = 6
    """Maximum number of layers that are stored, evenly spaced from the lowest to the output."""
    neurons: int = 4
    """Number of neurons per layer whose activity is stored: those with the largest BP gradients in
    the first sample."""
    depths: tuple[int, ...] = ()
    """Depths of the networks whose convergence time is compared with the analytic one: layers of an
    mlp or a cnn, encoder layers of a transformer, segments that an lstm reads. By default, depths
    that take seconds: 2 to 64 layers of an mlp."""

    def __post_init__(self) -> None:
        super().__post_init__()
        flags.check_distinct("solver", self.solver)
        for name in self.solver:
            check_choice("solver", name, ardyn.SOLVER_NAMES)
        flags.check_time_constants("tau_x", self.tau_x, least=1, such_as=1)
        for name in ("tau_w", "tau_psi", "tau_z"):
            flags.check_time_constants(name, getattr(self, name))
        flags.check_positive_settings(self, "tolerance", "layers", "neurons")
        self._check_plasticity()
        self._check_network()
        if self.tolerance >= 1:
            raise InputError(
                f"tolerance must be below 1, the relative error of zero activities, got "
                f"{self.tolerance:g}; use a value such as 0.001"
            )
        if self._takes_steps and self.duration / self.step > 1e6:
            raise InputError(
                f"a duration of {self.duration:g} takes {self.duration / self.step:.2g} steps of "
                f"{self.step:g}, more than a million; use a longer step or a shorter duration"
            )

    def _check_plasticity(self) -> None:
        if self.tau_psi and self.feedback != "learned":
            raise InputError(
                f"tau-psi needs learned feedback weights, but feedback is '{self.feedback}'; use "
                f"--feedback learned"
            )
        if self.tau_z and not self.is_plastic:
            raise InputError(
                f"tau-z {list(self.tau_z)} has no effect, as only plastic weights use the trace; "
                f"pass --tau-w too"
            )
        if self.is_plastic and STEPLESS.issuperset(self.solver):
            raise InputError(
                "solvers exact and collocation need constant weights, as the dynamics with plastic "
                "weights are nonlinear (W and x are both state variables); add --solver dopri5, or "
                "drop --tau-w and --tau-psi"
            )

    def _check_network(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise InputError(
                f"sizes must be two or more positive numbers, got {list(self.sizes)}; use values "
                f"such as 64 300 300 100 10"
            )
        if self.network != "mlp" and (self.sizes, self.activation) != (_SIZES, "tanh"):
            raise InputError(
                f"sizes and activation have no effect on the network {self.network!r}, only on "
                f"'mlp'; drop them"
            )
        least = 2 if self.network in ("mlp", "cnn") else 1
        if len(set(self.depths)) < len(self.depths) or min(self.depths, default=least) < least:
            raise InputError(
                f"depths of the network '{self.network}' must be different and at least {least}, "
                f"got {list(self.depths)}; pass others"
            )

    @property
    def is_plastic(self) -> bool:
        """Whether weights or feedback weights change while activities relax."""
        return bool(self.tau_w or self.tau_psi)

    @property
    def _takes_steps(self) -> bool:
        return bool({"sweep", *ardyn.FIXED_METHODS} & set(self.solver))

    @property
    def rule(self) -> Rule:
        """The modelling choices of the relaxation."""
        return Rule(
            feedback=self.feedback,
            relaxation_derivative=self.relaxation_derivative,
            output=self.output,
            initial=self.initial,
        )


def run(config: Config, data: images.Data, folder: RunFolder | None = None) -> xr.Dataset:
    """Relax with every solver and time constant, and measure work, precision and depth dependence.

    Args:
        folder: where checkpoints are saved; by default none are.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: the relaxations of every solver diverged.
    """
    import xarray as xr

    device = check_device(config.device)
    generator = torch.Generator().manual_seed(config.seed)
    inputs, targets = (x.to(device) for x in data.batch(config.batch_size, generator))
    model = _network(config, data, generator).to(device, inputs.dtype)
    deep = networks.at_depths(
        config.network, config.depths, data.inputs.shape[1], data.targets.shape[1], config.seed
    )
    feedback = None
    if config.feedback != "transpose":
        feedback = ardyn.random_feedback(model, generator=generator)
    relaxation = partial(
        ardyn.Relaxation,
        model,
        inputs,
        targets,
        config.loss,
        feedback=feedback,
        units=config.units,
    )
    sims = {tau: relaxation(config.rule, tau) for tau in config.tau_x}
    slow = (config.tau_w, config.tau_psi, config.tau_z)
    plastic = (
        lag.relaxations(relaxation, config.rule, config.tau_x, *slow) if config.is_plastic else {}
    )
    shown = _shown_layers(config, next(iter(sims.values())))
    solvers = {
        name: ardyn.solver_named(name, config.step, config.rtol, config.atol)
        for name in config.solver
    }
    stepping = {name: each for name, each in solvers.items() if takes_steps(each)}
    for kind, able in ((sims, solvers), (plastic, stepping)):
        for sim, solver in itertools.product(kind.values(), able.values()):
            sim.check(solver)
    relaxed, failures = _relaxations(config, sims, shown, solvers)
    found = [
        relaxed,
        _work_precision(config, sims[config.tau_x[0]]),
        _depths(config, deep, inputs[:8], targets[:8]),
    ]
    if plastic:
        checkpoints = Checkpoints.of(folder.path, config, data.checksum) if folder else None
        tracked, more = lag.track(plastic, stepping, config.duration, shown, checkpoints)
        failures += more
        found.append(tracked.reindex(solver=list(solvers)))  # exact has NaN
    results = xr.merge(found, join="exact").assign(lost=xr.DataArray("; ".join(failures)))
    attributes = {
        "study": "convergence",
        "title": "Relaxation of activities onto the backprop gradient",
        "tolerance": config.tolerance,
        "reference": config.reference,
        "network": config.network,
        "depth_of": networks.DEPTH_OF[config.network],
    }
    return variables.described(results, variables.RELAXATION, attributes, config, data.checksum)


def _network(config: Config, data: images.Data, generator: torch.Generator) -> nn.Module:
    """The network on which solvers are compared; its inputs are flattened images."""
    pixels, classes = data.inputs.shape[1], data.targets.shape[1]
    if config.network == "cnn":
        return networks.cnn_for(config.dataset, "paper")(generator)
    if config.network != "mlp":
        return networks.deep(config.network, pixels, _DEPTH[config.network], classes, generator)
    if (config.sizes[0], config.sizes[-1]) != (pixels, classes):
        raise InputError(
            f"sizes must begin with {pixels}, the pixels of {config.dataset}, and end with "
            f"{classes}, its classes, got {list(config.sizes)}; change the first and the last"
        )
    return ardyn.mlp(config.sizes, config.activation, generator=generator)


def _shown_layers(config: Config, sim: ardyn.Relaxation) -> list[str]:
    """The layers that are stored."""
    goal = choose_reference(sim, config.reference)
    units = list(goal)
    count = min(config.layers, len(units))
    shown = [units[round(i)] for i in np.linspace(0, len(units) - 1, count)]
    smallest = min(shown, key=lambda unit: goal[unit][0].numel())
    if config.neurons > goal[smallest][0].numel():
        raise InputError(
            f"neurons must be at most {goal[smallest][0].numel()}, the size of the layer "
            f"'{smallest}', got {config.neurons}; use --neurons {goal[smallest][0].numel()}"
        )
    return shown


def _relaxations(
    config: Config,
    sims: dict[float, ardyn.Relaxation],
    shown: list[str],
    solvers: dict[str, Solver],
) -> tuple[xr.Dataset, list[str]]:
    """Measures of every relaxation with every solver, and a message for each failure."""
    times, failures = trajectories.recorded_times(config.duration, config.step), list[str]()
    per_tau: dict[float, xr.Dataset] = {}
    for tau, sim in sims.items():
        exact, _ = trajectories.relax(sim, times, trajectories.exact_solver(sim))
        goal = choose_reference(sim, config.reference)
        largest = trajectories.strongest_neurons(
            {u: sim.gradients[u] for u in shown}, config.neurons
        )
        per_solver: dict[str, xr.Dataset] = {}
        for name, solver in tqdm(solvers.items(), desc=f"tau {tau:g}", unit="solver"):
            try:
                relaxed, seconds = trajectories.relax(sim, times, solver)
            except ArdynError as error:
                failures.append(f"{name} at tau-x {tau:g}: {error}")
                tqdm.write(f"warning: {failures[-1]}", file=sys.stderr)
            else:
                compared = trajectories.compare(relaxed, exact, goal, largest, config.tolerance)
                per_solver[name] = compared.assign(wall_time=seconds)
        if not per_solver:
            raise DivergenceError(f"every solver failed; {failures[-1]}")
        # A solver that failed stays on the axis, with NaN.
        together = variables.stacked(per_solver, "solver").reindex(solver=list(solvers))
        if sim.dynamics.is_linear:
            predicted = sim.exact_convergence_time(config.tolerance, config.reference)
            together["predicted_time"] = trajectories.by_layer({u: predicted[u] for u in shown})
        per_tau[tau] = together
    # Gradients and equilibria do not depend on τ: those of the last τ are stored for all.
    gradients = {u: sim.gradients[u][0].flatten()[n] for u, n in largest.items()}
    goals = {u: goal[u][0].flatten()[n] for u, n in largest.items()}
    measured = variables.stacked(per_tau, "tau_x").assign(
        gradient=trajectories.by_layer(gradients, "neuron"),
        reference=trajectories.by_layer(goals, "neuron"),
        neuron_number=trajectories.by_layer(largest, "neuron"),
    )
    return measured, failures


def _work_precision(config: Config, sim: ardyn.Relaxation) -> xr.Dataset:
    """Work and precision of every solver, at the first τ."""
    exact = trajectories.exact_solver(sim)
    rows = {
        name: trajectories.work_precision(sim, config.tau_x[0], name, exact)
        for name in tqdm(config.solver, desc="work and precision", unit="solver")
    }
    return variables.stacked(rows, "solver")


def _depths(
    config: Config, deep: dict[int, nn.Module], inputs: torch.Tensor, targets: torch.Tensor
) -> xr.Dataset:
    """Convergence times of networks of several depths."""
    rows = {
        depth: trajectories.convergence_at_depth(
            model.to(inputs), inputs, targets, config.tolerance, config.units
        )
        for depth, model in tqdm(deep.items(), desc="depths", unit="depth")
    }
    return variables.stacked(rows, "depth")


if __name__ == "__main__":
    summary = variables.relaxation_summary
    main("convergence", Config, run, summary, draw, __doc__, training_set)
