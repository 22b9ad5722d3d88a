"""How fast, and how exactly, do activities relax onto the backprop gradient?

Relaxes one batch of real images with each solver and each time constant, and compares the
activities over time with the BP gradients, and with the exact trajectory.
"""

import itertools
import sys
from dataclasses import dataclass
from functools import partial
from typing import Literal, Never

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn
from tqdm import tqdm

import ardyn
from ardyn.analysis.references import choose_reference
from ardyn.dynamics.rule import Derivative, Feedback, Initial, Output, Rule
from ardyn.errors import ArdynError, DivergenceError, InputError, check_choice, check_positive
from ardyn.network.network import Units
from ardyn.solvers.system import Solver
from plots.convergence import draw
from studies.measuring import lag as following
from studies.measuring import trajectories as measures
from studies.problems import images as data
from studies.problems import networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import main, training_set
from studies.running.run_folder import RunFolder, check_device
from studies.running.variables import described, summary

_DEPTH = {"transformer": 2, "lstm": 8}
"""Encoder layers, and pieces of an image, of the networks that solvers are compared on."""
_SIZES = (64, 300, 300, 100, 10)
_POSITIVE = {
    "duration": 30,
    "step": 0.1,
    "rtol": 1e-6,
    "atol": 1e-9,
    "tolerance": 1e-3,
    "layers": 6,
    "neurons": 4,
    "batch_size": 64,
}
"""Settings that must be positive, with values that could stand for them."""


@dataclass(frozen=True)
class Config:
    """What to relax, and how; times are in one unit of your choice, that of tau-x."""

    solver: tuple[str, ...] = ("exact", "dopri5", "rk4", "euler", "sweep")
    """Solvers to compare: exact (closed form), sweep (the authors' scheme), and torchdiffeq's own:
    euler, midpoint, heun2, heun3, rk4, explicit_adams, implicit_adams, dopri5, dopri8, bosh3, …"""
    tau_x: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Time constants τ of the activities in τ dx/dt = −x + drive; one relaxation each."""
    tau_w: tuple[float, ...] = ()
    """Time constants τ_W of the weights of fully connected layers and convolutions, which learn
    meanwhile, averaged over the batch, in the unit of tau-x: the gradient then moves, and
    activities follow it, with every solver but exact and every tau-x. By default weights stand
    still, as they do in all figures but moving_gradient and moving_lag."""
    tau_psi: tuple[float, ...] = ()
    """Time constants τ_ψ of feedback weights that learn (--feedback learned)."""
    tau_z: tuple[float, ...] = ()
    """Time constants τ_z of the trace of the activity that the learning weights read; by default
    they read the frozen one."""
    duration: float = 30.0
    """Length of the relaxation, in the unit of tau-x (the paper's is 10 τ)."""
    step: float = 0.1
    """Step h of the fixed-step solvers and the sweep, in the unit of tau-x (paper: 0.1 τ)."""
    rtol: float = 1e-6
    """Relative tolerance of the adaptive solvers."""
    atol: float = 1e-9
    """Absolute tolerance of the adaptive solvers, in the unit of the activities."""
    tolerance: float = 1e-3
    """Converged when ‖x − g‖ ≤ tolerance · ‖g‖ for good, g being the BP gradient."""
    feedback: Feedback = "transpose"
    """What sends activity back: transpose (Wᵀ), or fixed or learned ψ, random here."""
    relaxation_derivative: Derivative = "frozen"
    """Where f′ in τ dx/dt = −x + (x_above ⊙ f′) W is taken: frozen at the forward pass (Eq. 1), at
    the current x, postsynaptic (at the current x_above), or dropped (f′ = 1, Eq. 4)."""
    reference: Literal["gradients", "equilibrium"] = "gradients"
    """What activities are compared with: the BP gradients, or the rule's own equilibrium, which
    differs where there are feedback weights or a dropped derivative."""
    output: Output = "relaxed"
    """Whether the output relaxes onto the loss gradient, or is clamped to it."""
    initial: Initial = "feedforward"
    """Whether activities start at their feed-forward values, or at zero."""
    network: Literal["mlp", "cnn", "transformer", "lstm"] = "mlp"
    """What to relax: a chain of layers; the paper's convolutional network, its kernels 3 × 3 on
    digits; an encoder with attention; an LSTM cell unrolled over the pieces of an image."""
    units: Units = "block"
    """What has a leak: each block, a layer with its activation, or each operation of the module."""
    sizes: tuple[int, ...] = _SIZES
    """Neurons per layer of the mlp, input first; the last layer is linear."""
    activation: Literal["tanh", "relu", "sigmoid", "gelu", "identity"] = "tanh"
    """Activation function of the mlp's hidden layers."""
    loss: Literal["sse", "mse", "cross_entropy"] = "sse"
    """Loss: sse is Σ (x − t)², the authors' choice."""
    dataset: data.DatasetName = "digits"
    """Images: digits is bundled; the others are read from --data-dir."""
    batch_size: int = 64
    """Samples in the batch."""
    layers: int = 6
    """Layers that are stored at most, spread evenly from the lowest to the output."""
    neurons: int = 4
    """Neurons per layer whose activity is stored: those of the first sample with the largest BP
    gradients."""
    depths: tuple[int, ...] = ()
    """Depths at which convergence time is compared with the law: layers of an mlp or a cnn, encoder
    layers of a transformer, pieces that an lstm reads. By default such as take seconds: 2 to 64
    layers, for the mlp."""
    seed: int = 0
    """Seed of the weights and of the batch."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, …"""

    def __post_init__(self) -> None:
        for name in ("solver", "tau_x"):
            values, flag = getattr(self, name), name.replace("_", "-")
            if not values or len(set(values)) < len(values):
                raise InputError(
                    f"{flag} needs one or more different values, got {list(values)}; give each once"
                )
        for name in ("tau_w", "tau_psi", "tau_z"):
            values, flag = getattr(self, name), name.replace("_", "-")
            if len(set(values)) < len(values):
                raise InputError(f"{flag} must be different, got {list(values)}; give each once")
            for tau in values:
                check_positive(flag, tau, 1000)
        if self.tau_psi and self.feedback != "learned":
            raise InputError(
                "tau-psi is of feedback weights that learn, and there are none; use --feedback "
                "learned"
            )
        if self.tau_z and not (self.tau_w or self.tau_psi):
            raise InputError(
                "tau-z is of a trace that learning weights read, and none learn; pass --tau-w too"
            )
        if self.moves and set(self.solver) == {"exact"}:
            raise InputError(
                "exact has no closed form of weights that move, as what they send back is a "
                "product of two unknowns, W and x; add --solver dopri5, or drop --tau-w and "
                "--tau-psi"
            )
        for name in self.solver:
            check_choice("solver", name, ardyn.SOLVER_NAMES)
        for tau in self.tau_x:
            check_positive("tau-x", tau)
        for name, such_as in _POSITIVE.items():
            check_positive(name.replace("_", "-"), getattr(self, name), such_as)
        if self.tolerance >= 1:
            raise InputError(
                f"tolerance must be below 1, which even zero activities keep, got "
                f"{self.tolerance:g}; use one such as 0.001"
            )
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must lie in 0 … 2⁶³ − 1, got {self.seed}; use one such as 0")
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise InputError(
                f"sizes must be two or more positive numbers, got {list(self.sizes)}; use such as "
                f"64 300 300 100 10"
            )
        if self.network != "mlp" and (self.sizes, self.activation) != (_SIZES, "tanh"):
            raise InputError(
                f"sizes and activation belong to the network 'mlp', got them for {self.network!r}; "
                f"drop them"
            )
        least = 2 if self.network in ("mlp", "cnn") else 1
        if len(set(self.depths)) < len(self.depths) or min(self.depths, default=least) < least:
            raise InputError(
                f"depths of the network '{self.network}' must be different and at least {least}, "
                f"got {list(self.depths)}; drop what is not"
            )
        if self._takes_steps and self.duration / self.step > 1e6:
            raise InputError(
                f"a duration of {self.duration:g} takes {self.duration / self.step:.2g} steps of "
                f"{self.step:g}; use at most a million"
            )

    @property
    def moves(self) -> bool:
        """Whether weights learn while activities relax."""
        return bool(self.tau_w or self.tau_psi)

    @property
    def _takes_steps(self) -> bool:
        return bool({"sweep", *ardyn.FIXED_METHODS} & set(self.solver))

    @property
    def rule(self) -> Rule:
        """The modelling choices that matter to a relaxation."""
        return Rule(
            feedback=self.feedback,
            relaxation_derivative=self.relaxation_derivative,
            output=self.output,
            initial=self.initial,
        )


def run(config: Config, images: data.Data, folder: RunFolder | None = None) -> xr.Dataset:
    """Relax with every solver and time constant, compare, time, and vary the depth.

    Args:
        folder: where to keep what takes long, and to go on from; nowhere by default.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: no solver kept to the finite numbers.
    """
    device = check_device(config.device)
    generator = torch.Generator().manual_seed(config.seed)
    inputs, targets = (x.to(device) for x in images.batch(config.batch_size, generator))
    model = _network(config, images, generator).to(device, inputs.dtype)
    deep = _deep_networks(config, images)
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
    coupled = (
        following.relaxations(relaxation, config.rule, config.tau_x, *slow) if config.moves else {}
    )
    shown = _shown_layers(config, next(iter(sims.values())))
    solvers = {
        name: ardyn.solver_named(name, config.step, config.rtol, config.atol)
        for name in config.solver
    }
    stepping = {
        name: each for name, each in solvers.items() if not isinstance(each, ardyn.ClosedForm)
    }
    for kind, able in ((sims, solvers), (coupled, stepping)):
        for sim, solver in itertools.product(kind.values(), able.values()):
            sim.check(solver)
    lost: list[str] = []
    parts = len(sims) * len(solvers) + len(solvers) + len(deep) + len(coupled) * len(stepping)
    with tqdm(total=parts, desc="convergence", unit="part") as progress:
        found = [
            _relaxations(config, sims, shown, solvers, lost, progress),
            _work_precision(config, sims[config.tau_x[0]], progress),
            _depths(config, deep, inputs[:8], targets[:8], progress),
        ]
        if coupled:
            kept = Checkpoints.of(folder.path, config, images.checksum) if folder else None
            followed = following.follow(
                coupled, stepping, config.duration, shown, lost, progress, kept
            )
            axes = zip(following.Taus._fields, zip(*coupled, strict=True), strict=True)
            # A combination that was lost keeps its place, with NaN.
            whole = {axis: list(dict.fromkeys(taus)) for axis, taus in axes}
            found.append(followed.reindex(whole | {"solver": list(solvers)}))
    results = xr.merge(found, join="exact").assign(lost=xr.DataArray("; ".join(lost)))
    return described(results, config, images.checksum)


def _network(config: Config, images: data.Data, generator: torch.Generator) -> nn.Module:
    """The network whose relaxation is compared over solvers, from flat pixels."""
    pixels, classes = images.inputs.shape[1], images.targets.shape[1]
    if config.network == "cnn":
        return networks.cnn_for(config.dataset, "paper")(generator)
    if config.network != "mlp":
        return networks.deep(config.network, pixels, _DEPTH[config.network], classes, generator)
    if (config.sizes[0], config.sizes[-1]) != (pixels, classes):
        raise InputError(
            f"sizes {list(config.sizes)} don't fit {config.dataset}, with {pixels} pixels and "
            f"{classes} classes; begin with {pixels} and end with {classes}"
        )
    return ardyn.mlp(config.sizes, config.activation, generator=generator)


def _deep_networks(config: Config, images: data.Data) -> dict[int, nn.Module]:
    """Networks of several depths."""
    pixels, classes = images.inputs.shape[1], images.targets.shape[1]
    return {
        depth: networks.deep(
            config.network, pixels, depth, classes, torch.Generator().manual_seed(config.seed)
        )
        for depth in config.depths or networks.DEPTHS[config.network]
    }


def _shown_layers(config: Config, sim: ardyn.Relaxation) -> list[str]:
    """The layers to store."""
    goal = choose_reference(sim, config.reference)
    units = list(goal)
    count = min(config.layers, len(units))
    shown = [units[round(i)] for i in np.linspace(0, len(units) - 1, count)]
    smallest = min(shown, key=lambda unit: goal[unit][0].numel())
    if config.neurons > goal[smallest][0].numel():
        raise InputError(
            f"layer '{smallest}' has fewer than neurons = {config.neurons}; use --neurons "
            f"{goal[smallest][0].numel()}"
        )
    return shown


def _reference(config: Config, sim: ardyn.Relaxation) -> Solver:
    """What counts as exact: the closed form, or a tight solve where there is none."""
    return ardyn.ClosedForm() if config.rule.is_linear else measures.tight_solver(sim)


def _times(config: Config) -> list[float]:
    """About 200 recorded times, on the step grid; the last is the duration."""
    stride = config.step * max(1, round(config.duration / config.step / 200))
    whole = int(config.duration / stride * (1 - 1e-9))
    return [*(stride * i for i in range(whole + 1)), config.duration]


def _relaxations(
    config: Config,
    sims: dict[float, ardyn.Relaxation],
    shown: list[str],
    solvers: dict[str, Solver],
    lost: list[str],
    progress: "tqdm[Never]",
) -> xr.Dataset:
    times, per_tau = _times(config), []
    for tau, sim in sims.items():
        exact, _ = measures.relax(sim, times, _reference(config, sim))
        goal = choose_reference(sim, config.reference)
        neurons = measures.strongest_neurons({u: sim.gradients[u] for u in shown}, config.neurons)
        per_solver: dict[str, xr.Dataset] = {}
        for name, solver in solvers.items():
            progress.set_postfix_str(f"{name}, tau {tau:g}")
            try:
                relaxed, seconds = measures.relax(sim, times, solver)
            except ArdynError as error:
                lost.append(f"{name} at tau-x {tau:g}: {error}")
                progress.write(f"warning: {lost[-1]}", file=sys.stderr)
            else:
                compared = measures.compare(relaxed, exact, goal, neurons, config.tolerance)
                per_solver[name] = compared.assign(wall_time=seconds)
            progress.update()
        if not per_solver:
            raise DivergenceError(f"no solver got through; {lost[-1]}")
        together = xr.concat(per_solver.values(), pd.Index(per_solver, name="solver"))
        # A solver that failed keeps its place, with NaN.
        together = together.reindex(solver=list(solvers))
        if config.rule.is_linear:
            predicted = sim.exact_convergence_time(config.tolerance, config.reference)
            together["predicted_time"] = measures.by_layer({u: predicted[u] for u in shown})
        per_tau.append(together)
    gradients = {u: sim.gradients[u][0].flatten()[n] for u, n in neurons.items()}
    goals = {u: goal[u][0].flatten()[n] for u, n in neurons.items()}
    return xr.concat(per_tau, pd.Index(sims, name="tau_x")).assign(
        gradient=measures.by_layer(gradients, "neuron"),
        reference=measures.by_layer(goals, "neuron"),
        neuron_number=measures.by_layer(neurons, "neuron"),
    )


def _work_precision(config: Config, sim: ardyn.Relaxation, progress: "tqdm[Never]") -> xr.Dataset:
    rows = []
    for name in config.solver:
        progress.set_postfix_str(f"{name}, work and precision")
        rows.append(measures.work_precision(sim, config.tau_x[0], name, _reference(config, sim)))
        progress.update()
    return xr.concat(rows, pd.Index(config.solver, name="solver"))


def _depths(
    config: Config,
    deep: dict[int, nn.Module],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    progress: "tqdm[Never]",
) -> xr.Dataset:
    rows = []
    for depth, model in deep.items():
        progress.set_postfix_str(f"depth {depth}")
        model.to(inputs)
        rows.append(
            measures.convergence_at_depth(model, inputs, targets, config.tolerance, config.units)
        )
        progress.update()
    return xr.concat(rows, pd.Index(deep, name="depth"))


if __name__ == "__main__":
    main("convergence", Config, run, summary, draw, __doc__, training_set)
