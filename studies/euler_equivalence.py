"""How close is the paper's Euler scheme to the ODE that it discretises?

Makes three comparisons: the weights of pulled-back errors in each scheme, as probability
distributions; distances of the states and gradients of each scheme to those of the ODE, predicted
by the closed form and measured by stepping, before and during training; and test accuracies after
training, paired over seeds.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import ardyn
from ardyn import ClosedForm, InputError
from ardyn.closed_form.propagator import Scheme, propagator
from ardyn.dynamics.learning import block_gradients, parameter_gradients
from ardyn.errors import check_choice, check_positive
from ardyn.solvers.system import Solver
from plots.euler_equivalence import PAPER, draw
from studies.problems import images, networks
from studies.running.checkpoints import Checkpoints
from studies.running.command_line import both_sets, main
from studies.running.flags import HiddenLayers, check_distinct, check_positive_settings
from studies.running.run_folder import RunFolder
from studies.running.solvers import OneStepSolver, is_one_step
from studies.running.variables import described_training, stacked, training_summary
from studies.training.loop import make_learner, train_conditions
from studies.training.settings import Condition, Training

if TYPE_CHECKING:
    import xarray as xr

SCHEMES = ("euler", "sweep", "midpoint", "heun3", "rk4")
CHAIN = 400
"""Units of the chain on which weights are compared; too many for an error to cross in
``LONGEST``."""
LONGEST = 200.0
"""Maximum duration of a relaxation that is compared, in units of τ."""


@dataclass(frozen=True)
class Config(HiddenLayers, Training):
    """Settings of the comparison and of training; times are in units of τ."""

    schemes: tuple[str, ...] = SCHEMES
    """Schemes to compare with the ODE: euler (the paper's Algorithm 1), sweep (the sequential
    scheme of the authors' code), midpoint, heun3, rk4."""
    steps: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 1.95)
    """Steps h to compare, in units of τ."""
    iterations: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    """Numbers of steps n to compare; a relaxation then lasts n h."""
    stages: tuple[int, ...] = (0, 1, 5)
    """Numbers of epochs of training after which states and gradients are compared; 0: before."""
    trained_with: tuple[str, ...] = ("exact", "euler", "sweep")
    """Schemes to train with, of step --step: exact (the ODE in closed form), or one of those above;
    final accuracies are compared with those of the first."""
    margin: float = 0.5
    """Margin of the equivalence test (two one-sided t tests), in percentage points of accuracy."""
    probe_size: int = 64
    """Number of training samples on which states and gradients are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_hidden()
        for name in ("schemes", "stages", "trained_with"):
            check_distinct(name, getattr(self, name))
        for name in ("steps", "iterations"):
            check_distinct(name, getattr(self, name), least=2)
        for name in self.schemes:
            check_choice("scheme", name, SCHEMES)
        for name in self.trained_with:
            check_choice("scheme to train with", name, ("exact", *SCHEMES))
        for value in (*self.steps, *self.iterations):
            check_positive("every step and number of iterations", value)
        check_positive_settings(self, "margin", "probe_size")
        if min(self.stages) < 0 or max(self.stages) > self.epochs:
            raise InputError(
                f"stages must lie in 0 … {self.epochs}, the number of epochs, got "
                f"{list(self.stages)}; use values such as 0 1"
            )


def run(config: Config, sets: images.Sets, folder: RunFolder) -> xr.Dataset:
    """Compare weights, states, gradients and accuracies of the schemes.

    Raises:
        InputError: a setting that cannot be used; nothing has been computed by then.
        DivergenceError: training diverged.
    """
    import xarray as xr

    from studies.measuring.paired_t import equivalence

    make = networks.mlp_for(config.dataset, config.hidden)
    conditions = {
        name: Condition("ODE" if name == "exact" else name, scheme=name)
        for name in config.trained_with
    }
    checkpoints = Checkpoints.of(folder.path, config, sets.checksum)
    trained = train_conditions(config, conditions, make, sets, checkpoints)
    found = xr.merge(
        [
            trained,
            equivalence(trained.accuracy.isel(epoch=-1), config.margin),
            weights(config),
            _stages(config, make, sets),
        ],
        join="exact",
    )
    return described_training(found, "euler_equivalence", config, sets.checksum)


def scheme_named(name: str, step: float) -> OneStepSolver:
    """One of ``SCHEMES``, with step h."""
    solver = ardyn.solver_named(name, step)
    assert is_one_step(solver)
    return solver


def weights(config: Config) -> xr.Dataset:
    """Distance of each scheme's weights P_k to the ODE's, Poisson(t / τ), at t = n h.

    Returns:
        "distance": ½ Σ_k |P_k(scheme) − P_k(ODE)|, the total variation, [scheme, step, iterations],
        NaN for h > τ, where some weights are negative and so not probabilities;
        "weight": P_k at the paper's step and number of iterations, [weighted_by, lag].
    """
    import xarray as xr

    grid: dict[str, list[Any]] = {"scheme": list(config.schemes), "step": list(config.steps)}
    rows = _empty({**grid, "iterations": list(config.iterations)})
    for name, step, n in itertools.product(config.schemes, config.steps, config.iterations):
        if n * step <= LONGEST and step <= 1:  # for h > τ some weights are negative
            rows.loc[name, step, n] = total_variation(scheme_named(name, step), n * step)
    step, n = PAPER
    at_paper = {"exact": _weights(None, step * n)} | {
        name: _weights(scheme_named(name, step), step * n) for name in config.schemes
    }
    lags = 31
    return xr.Dataset(
        {
            "distance": rows,
            "weight": (
                ("weighted_by", "lag"),
                torch.stack([each[:lags] for each in at_paper.values()]).numpy(),
            ),
        },
        {"weighted_by": list(at_paper), "lag": range(lags)},
    )


def total_variation(scheme: Scheme, time: float) -> float:
    """½ Σ_k |P_k(scheme) − P_k(ODE)|, for τ = 1; of Euler's scheme at most h / τ (Le Cam)."""
    return float((_weights(scheme, time) - _weights(None, time)).abs().sum() / 2)


def _weights(scheme: Scheme, time: float) -> Tensor:
    """P_k, the weight of an error that originates k units further up, for τ = 1, [k]."""
    return propagator(scheme, (1.0,) * CHAIN, torch.tensor([time], dtype=torch.float64))[0, 0]


def _is_stable(name: str, step: float) -> bool:
    return scheme_named(name, step).growth(step) < 1


def _stages(config: Config, make: networks.Make, sets: images.Sets) -> xr.Dataset:
    """Errors on the first seed's network, before and during training with the first scheme."""
    alone = replace(config, seeds=config.seeds[:1])
    first = Condition("stages", scheme=config.trained_with[0])
    learner = make_learner(alone, first, make)
    train = sets.to(torch.device(config.device)).train
    rows = {}
    with tqdm(total=len(config.stages), desc="stages", unit="stage") as progress:
        for epoch in range(max(config.stages) + 1):
            for batch in ardyn.batches(len(train.inputs), config.batch_size, alone.seeds, epoch):
                if epoch:
                    learner.step(train.inputs[batch], train.targets[batch])
            learner.check_finite()
            if epoch in config.stages:
                rows[epoch] = errors(config, ardyn.member(learner.model, 0), train)
                progress.update()
    return stacked(rows, "stage")


def errors(config: Config, model: nn.Module, train: images.Data) -> xr.Dataset:
    """Distance of each scheme's final states and gradients to the ODE's, and to backprop's.

    Returns:
        "state_error": ‖x − x_ODE‖ / ‖x_ODE‖ at the end of the relaxation, maximum over layers, and
        "gradient_error": the same of all weight and bias gradients together; [how, scheme, step],
        predicted by the closed form and measured by stepping. "bp_error": relative distance of the
        gradients to backprop's, predicted, [scheme, step, iterations]. NaN where a scheme is
        unstable.
    """
    import xarray as xr

    model = model.double()
    x, t = (each.double() for each in train.first(config.probe_size))
    sim = ardyn.Relaxation(model, x, t, config.loss, ardyn.Rule(output=config.output))
    exact = _final(sim, ClosedForm(), config.duration)
    ardyn.backprop(model, x, t, config.loss)
    backprop = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    grid: dict[str, list[Any]] = {"scheme": list(config.schemes), "step": list(config.steps)}
    both = {"how": ["predicted", "measured"], **grid}
    many = {**grid, "iterations": list(config.iterations)}
    found = xr.Dataset(
        {
            "state_error": _empty(both),
            "gradient_error": _empty(both),
            "bp_error": _empty(many),
        }
    )
    for name, step in itertools.product(config.schemes, config.steps):
        scheme = scheme_named(name, step)
        if not _is_stable(name, step):
            continue
        for how, solver in (("predicted", ClosedForm(scheme)), ("measured", scheme)):
            state, gradients = _final(sim, solver, config.duration)
            at = {"how": how, "scheme": name, "step": step}
            found.state_error.loc[at] = max(_relative(state[u], exact[0][u]) for u in state)
            found.gradient_error.loc[at] = _distance(gradients, exact[1])
        for n in config.iterations:
            if n * step <= LONGEST:
                _, gradients = _final(sim, ClosedForm(scheme), n * step)
                found.bp_error.loc[{"scheme": name, "step": step, "iterations": n}] = _distance(
                    gradients, backprop
                )
    return found


def _final(
    sim: ardyn.Relaxation, solver: Solver, time: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Activities at that time, and the gradients of weights and biases computed from them."""
    final = sim.solve([time], solver)
    state = {unit: final[unit][-1] for unit in final.units}
    return state, parameter_gradients(block_gradients(sim.dynamics, state, {}))


def _distance(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """Relative distance of gradients, of all parameters together."""
    names = list(truth)
    return _relative(*(torch.cat([x[name].flatten() for name in names]) for x in (found, truth)))


def _relative(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).norm() / truth.norm())


def _empty(coordinates: Mapping[str, list[Any]]) -> xr.DataArray:
    import xarray as xr

    sizes = [len(values) for values in coordinates.values()]
    return xr.DataArray(np.full(sizes, np.nan), coordinates, list(coordinates))


def summary(results: xr.Dataset) -> str:
    """A table of accuracies, distances at the paper's setting, and differences of accuracy."""
    import pandas as pd

    lines = [training_summary(results), ""]
    step, n = PAPER
    config = json.loads(results.attrs["config"])
    if step in results.step and n in results.iterations and config["duration"] == step * n:
        lines.append(
            f"Distances at the paper's step {step:g} τ and {n} iterations (t = {step * n:g} τ):"
        )
        last = results.isel(stage=-1).sel(step=step)
        table = pd.DataFrame(
            {
                "weights to the ODE's (total variation)": results.distance.sel(
                    step=step, iterations=n
                ),
                "gradients to the ODE's (relative)": last.gradient_error.sel(how="measured"),
                "gradients to backprop's (relative)": last.bp_error.sel(iterations=n),
            },
            index=pd.Index(results.scheme.values, name="scheme"),
        )
        lines += [table.to_string(float_format="{:.3g}".format), ""]
    for name in results.compared.values if "compared" in results else ():
        pair = results.sel(compared=name)
        difference = f"{name} − {results.condition.values[0]}: {float(pair.difference):+.3f} "
        if np.isnan(pair.equivalence_p):
            lines.append(f"{difference}percentage points for every seed, so that there is no test")
            continue
        verdict = "equivalent" if pair.equivalence_p < 0.05 else "not shown to be equivalent"
        lines.append(
            f"{difference}percentage points (95 % confidence interval "
            f"{float(pair.interval_low):+.3f} to {float(pair.interval_high):+.3f}), "
            f"{verdict} within ±{config['margin']:g} (p = {float(pair.equivalence_p):.2g})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main("euler_equivalence", Config, run, summary, draw, __doc__, both_sets)
