"""How fast, and how exactly, do activities relax onto the backprop gradient?

Relaxes one batch of real images with each solver and each time constant, and compares the
activities over time with the BP gradients, and with the exact trajectory.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Literal, Never

import pandas as pd
import torch
import xarray as xr
from tqdm import tqdm

import ardyn
from ardyn.errors import ArdynError, DivergenceError, InputError, check_choice, check_positive
from ardyn.relaxation import Solver
from ardyn.rule import Derivative, Feedback, Initial, Output, Rule
from plots.convergence import draw
from studies import data, measures
from studies.command_line import main
from studies.runs import check_device


@dataclass(frozen=True)
class Config:
    """What to relax, and how; times are in one unit of your choice, that of tau-x."""

    solver: tuple[str, ...] = ("exact", "dopri5", "rk4", "euler", "sweep")
    """Solvers to compare: exact (closed form), sweep (the authors' scheme), and torchdiffeq's own:
    euler, midpoint, heun2, heun3, rk4, explicit_adams, implicit_adams, dopri5, dopri8, bosh3, …"""
    tau_x: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Time constants τ of the activities in τ dx/dt = −x + drive; one relaxation each."""
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
    output: Output = "relaxed"
    """Whether the output relaxes onto the loss gradient, or is clamped to it."""
    initial: Initial = "feedforward"
    """Whether activities start at their feed-forward values, or at zero."""
    sizes: tuple[int, ...] = (64, 300, 300, 100, 10)
    """Neurons per layer, input first; the last layer is linear."""
    activation: Literal["tanh", "relu", "sigmoid", "gelu", "identity"] = "tanh"
    """Activation function of the hidden layers."""
    loss: Literal["sse", "mse", "cross_entropy"] = "sse"
    """Loss: sse is Σ (x − t)², the authors' choice."""
    dataset: data.DatasetName = "digits"
    """Images: digits is bundled; the others are read from --data-dir."""
    batch_size: int = 64
    """Samples in the batch."""
    neurons: int = 4
    """Neurons per layer whose activity is stored: those of the first sample with the largest BP
    gradients."""
    depths: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Layers of the networks whose convergence time is compared with the law."""
    seed: int = 0
    """Seed of the weights and of the batch."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, …"""

    def __post_init__(self) -> None:
        for name in ("solver", "tau_x", "depths"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name} needs one or more different values, got {list(values)}")
        for name in self.solver:
            check_choice("solver", name, ardyn.SOLVER_NAMES)
        for tau in self.tau_x:
            check_positive("tau-x", tau)
        for name in ("duration", "step", "rtol", "atol", "tolerance", "neurons", "batch_size"):
            check_positive(name, getattr(self, name))
        if len(self.sizes) < 2 or min(self.sizes) < 1 or self.neurons > min(self.sizes[1:]):
            raise InputError(
                f"sizes {list(self.sizes)} must be two or more positive numbers, none after the "
                f"first below neurons = {self.neurons}"
            )
        if min(self.depths) < 2:
            raise InputError(f"depths must be at least 2, got {min(self.depths)}; drop it")
        if self._takes_steps and self.duration / self.step > 1e6:
            raise InputError(
                f"a duration of {self.duration:g} takes {self.duration / self.step:.2g} steps of "
                f"{self.step:g}; use at most a million"
            )

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


def run(config: Config, images: data.Data) -> xr.Dataset:
    """Relax with every solver and time constant, compare, time, and vary the depth.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: no solver kept to the finite numbers.
    """
    device = check_device(config.device)
    _check_sizes(config, images)
    generator = torch.Generator().manual_seed(config.seed)
    inputs, targets = (x.to(device) for x in images.batch(config.batch_size, generator))
    model = ardyn.mlp(config.sizes, config.activation, generator=generator, dtype=inputs.dtype)
    model.to(device)
    feedback = None
    if config.feedback != "transpose":
        feedback = ardyn.random_feedback(model, generator=generator)
    sims = {
        tau: ardyn.Relaxation(model, inputs, targets, config.loss, config.rule, tau, feedback)
        for tau in config.tau_x
    }
    solvers = {
        name: ardyn.solver_named(name, config.step, config.rtol, config.atol)
        for name in config.solver
    }
    for sim in sims.values():
        for solver in solvers.values():
            sim.check(solver)
    work = len(sims) * len(solvers) + len(solvers) + len(config.depths)
    with tqdm(total=work, desc="convergence", unit="part") as progress:
        parts = [
            _relaxations(config, sims, solvers, progress),
            _work_precision(config, sims[config.tau_x[0]], progress),
            _depths(config, inputs[:8], targets[:8], progress),
        ]
    return _described(xr.merge(parts, join="exact"), config, images)


def _check_sizes(config: Config, images: data.Data) -> None:
    pixels, classes = images.inputs.shape[1], images.targets.shape[1]
    if (config.sizes[0], config.sizes[-1]) != (pixels, classes):
        raise InputError(
            f"sizes {list(config.sizes)} don't fit {config.dataset}, with {pixels} pixels and "
            f"{classes} classes; use --sizes {pixels} 300 300 100 {classes}"
        )


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
    solvers: dict[str, Solver],
    progress: "tqdm[Never]",
) -> xr.Dataset:
    times, per_tau, lost = _times(config), [], list[str]()
    for tau, sim in sims.items():
        exact, _ = measures.relax(sim, times, _reference(config, sim))
        neurons = measures.strongest_neurons(sim.gradients, config.neurons)
        per_solver: dict[str, xr.Dataset] = {}
        for name, solver in solvers.items():
            progress.set_postfix_str(f"{name}, tau {tau:g}")
            try:
                relaxed, seconds = measures.relax(sim, times, solver)
            except ArdynError as error:
                lost.append(f"{name} at tau-x {tau:g}: {error}")
                progress.write(f"warning: {lost[-1]}", file=sys.stderr)
            else:
                compared = measures.compare_to_gradients(relaxed, exact, neurons, config.tolerance)
                per_solver[name] = compared.assign(wall_time=seconds)
            progress.update()
        if not per_solver:
            raise DivergenceError(f"no solver got through; {lost[-1]}")
        together = xr.concat(per_solver.values(), pd.Index(per_solver, name="solver"))
        # A solver that failed keeps its place, with NaN.
        together = together.reindex(solver=list(solvers))
        if config.rule.is_linear:
            predicted = sim.exact_convergence_time(config.tolerance)
            together["predicted_time"] = measures.by_layer(predicted)
        per_tau.append(together)
    gradients = {u: g[0, neurons[u]] for u, g in sim.gradients.items()}
    return xr.concat(per_tau, pd.Index(sims, name="tau_x")).assign(
        gradient=measures.by_layer(gradients, "neuron"),
        neuron_number=measures.by_layer(neurons, "neuron"),
        lost=xr.DataArray("; ".join(lost)),
    )


def _work_precision(config: Config, sim: ardyn.Relaxation, progress: "tqdm[Never]") -> xr.Dataset:
    rows = []
    for name in config.solver:
        progress.set_postfix_str(f"{name}, work and precision")
        rows.append(measures.work_precision(sim, config.tau_x[0], name, _reference(config, sim)))
        progress.update()
    return xr.concat(rows, pd.Index(config.solver, name="solver"))


def _depths(
    config: Config, inputs: torch.Tensor, targets: torch.Tensor, progress: "tqdm[Never]"
) -> xr.Dataset:
    rows = []
    for depth in config.depths:
        progress.set_postfix_str(f"{depth} layers")
        rows.append(
            measures.convergence_at_depth(depth, inputs, targets, config.tolerance, config.seed)
        )
        progress.update()
    return xr.concat(rows, pd.Index(config.depths, name="depth"))


_TIME = "unit of tau_x"
_VARIABLES = {
    "time": ("time since the feed-forward pass", _TIME),
    "tau_x": ("time constant of the activities", _TIME),
    "solver": ("solver; exact is the closed form of the ODE, sweep the authors' scheme", ""),
    "layer": ("unit, named after its module, hidden to output", ""),
    "level": ("number of the step or tolerance, from coarse to fine", "1"),
    "neuron": ("chosen neurons, numbered within the network by neuron_number", "1"),
    "depth": ("layers of the network", "1"),
    "activity": ("activity x of the chosen neurons, first sample", "1"),
    "gradient": ("backprop gradient g of the chosen neurons, first sample", "1"),
    "neuron_number": ("number of the chosen neuron within its layer", "1"),
    "relative_error": ("relative error to backprop, |x - g| / |g| over the batch", "1"),
    "cosine": ("cosine between x and g over the batch", "1"),
    "norm_ratio": ("norm ratio |x| / |g| over the batch", "1"),
    "deviation": ("deviation from the exact trajectory, |x - x_exact| / |g|", "1"),
    "convergence_time": ("time after which the relative error stays within tolerance", _TIME),
    "predicted_time": ("the same, as a root of the closed form of the ODE", _TIME),
    "evaluations": ("evaluations of the right-hand side (sweeps; 0: closed form)", "1"),
    "lost": ("solvers that left the finite numbers, when and where; NaN stands for them", ""),
    "wall_time": ("wall time of the relaxation, all recorded times included", "s"),
    "work_setting": ("step over tau_x (fixed-step solvers) or rtol (adaptive solvers)", "1"),
    "work_error": ("relative error at t = 5 tau_x to the exact state, worst layer", "1"),
    "work_evaluations": ("evaluations of the right-hand side up to t = 5 tau_x", "1"),
    "work_wall_time": ("wall time up to t = 5 tau_x", "s"),
    "depth_law": ("law: inverse of the incomplete gamma function", "tau"),
    "depth_measured": ("from a zero state, output clamped: stepped with dopri5", "tau"),
    "depth_default": ("from the feed-forward state, output relaxing: closed form", "tau"),
}


def _described(results: xr.Dataset, config: Config, images: data.Data) -> xr.Dataset:
    for name, (long_name, units) in _VARIABLES.items():
        if name in results.variables:
            results[name].attrs = {"long_name": long_name} | ({"units": units} if units else {})
    results.attrs = {
        "study": "convergence",
        "title": "Relaxation of activities onto the backprop gradient",
        "tolerance": config.tolerance,
        "config": json.dumps(asdict(config)),
        "data_checksum": images.checksum,
    }
    return results


def summary(results: xr.Dataset) -> str:
    """A table: when the lowest layer converges, how far it is off, and what it cost."""
    lowest = results.isel(layer=0)
    columns = {
        "convergence_time": "converged at",
        "predicted_time": "predicted",
        "last_error": "last error",
        "evaluations": "evaluations",
        "wall_time": "wall time [s]",
    }
    table = lowest.assign(last_error=lowest.relative_error.isel(time=-1, drop=True))
    table = table[[name for name in columns if name in table]].drop_vars("layer").rename(columns)
    heading = (
        f"Lowest layer ({lowest.layer.item()}), relative error to the backprop gradient, tolerance "
        f"{results.attrs['tolerance']:g}\n(NaN: not within the duration; predicted: root of the "
        f"closed form, which may lie beyond it)"
    )
    frame = table.to_dataframe(dim_order=["tau_x", "solver"])
    return f"{heading}\n{frame.to_string(float_format='{:.4g}'.format)}"


if __name__ == "__main__":
    main("convergence", Config, run, summary, draw, __doc__)
