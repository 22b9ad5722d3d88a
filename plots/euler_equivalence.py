"""Figures of studies/euler_equivalence.py: python plots/euler_equivalence.py RUN_FOLDER."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plots.common import style
from plots.common.command_line import main
from plots.common.learning_curves import draw_accuracy

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = (0.1, 100)
"""Step h [τ] and number of iterations n of the paper, marked in every panel."""
STAR: dict[str, Any] = {"marker": "*", "color": "k", "ls": "", "ms": 10, "zorder": 5}


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the figures of a run into its folder."""
    figures = FIGURES | ({"training": training} if "compared" in results else {})
    return draw_accuracy(results, folder) + style.draw_each(figures, results, folder)


def weights(results: xr.Dataset) -> Figure:
    """Weights P_k of the schemes at the paper's setting, and their distance to the ODE's."""
    figure, (left, right) = style.subplots(1, 2, figsize=(9, 3.8))
    step, n = PAPER
    looks = style.of(results.weighted_by.values)
    for name, look in looks.items():
        here = results.weight.sel(weighted_by=name)
        (line,) = left.plot(results.lag, here, label=_label(name), ms=3)
        line.set(**look)
    left.set(xlabel="number of units that an error is pulled back, $k$", ylabel="weight $P_k$")
    left.set_title(f"{n} steps of {step:g} $\\tau$ (paper)")
    for name in results.scheme.values:
        _distances(right, results.distance.sel(scheme=name), looks[name])
    right.axvline(PAPER[0], color="k", ls=":", lw=1)
    curves = list(left.get_lines())
    left.axvline(PAPER[0] * n, color="k", ls=":", lw=1)
    bounded = results.step[results.step <= 1]
    right.plot(bounded, bounded, "k--", lw=1, label="bound for Euler: $h / \\tau$ (Le Cam)")
    right.set(xscale="log", yscale="log", ylim=(1e-13, 3), xlabel="step $h$ [$\\tau$]")
    right.set_ylabel("total variation distance\nto the ODE's weights")
    right.set_title("after about 10 $\\tau$")
    bound = style.handle("bound for Euler: $h / \\tau$ (Le Cam)", color="k", ls="--", lw=1)
    mark = style.handle("paper: $h$ = 0.1 $\\tau$, $t$ = 10 $\\tau$", color="k", ls=":", lw=1)
    style.legend_below(figure, [*curves, bound, mark])
    style.title(figure, "Weights of pulled-back errors as probability distributions, equal $\\tau$")
    return figure


def _distances(axes: Axes, distance: xr.DataArray, look: dict[str, Any]) -> None:
    """Distance against the step, for the number of steps whose duration is nearest to 10 τ."""
    steps, nearest = distance.step.values, []
    for step in steps:
        lengths = np.abs(np.log(distance.iterations.values * step / 10))
        nearest.append(float(distance.sel(step=step)[int(lengths.argmin())]))
    (line,) = axes.plot(steps, nearest, ms=4)
    line.set(**look)


def errors(results: xr.Dataset) -> Figure:
    """Errors of state and gradient against the step, predicted (lines) and measured (markers)."""
    stages = results.stage.values
    size = (2.6 * len(stages) + 1, 5)
    figure, panels = style.subplots(
        2, len(stages), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    labels = {"state_error": "final state", "gradient_error": "gradient"}
    looks = style.of(results.scheme.values)
    is_paper = json.loads(results.attrs["config"])["duration"] == PAPER[0] * PAPER[1]
    for row, (variable, label) in zip(panels, labels.items(), strict=True):
        for stage, axes in zip(stages, row, strict=True):
            for name, look in looks.items():
                here = results[variable].sel(stage=stage, scheme=name)
                axes.plot(here.step, here.sel(how="predicted"))[0].set(**style.line(look))
                axes.plot(here.step, here.sel(how="measured"), ms=5)[0].set(**style.dots(look))
                if name == "euler" and PAPER[0] in here.step and is_paper:
                    at = here.sel(step=PAPER[0], how="measured")
                    axes.plot(PAPER[0], at, **STAR)
        row[0].set_ylabel(f"{label}: relative\ndistance to the ODE's")
    for stage, top, bottom in zip(stages, *panels, strict=True):
        top.set_title(f"after {stage} epoch{'' if stage == 1 else 's'}")
        bottom.set_xlabel("step $h$ [$\\tau$]")
    panels[0][0].set(xscale="log", yscale="log", ylim=(1e-13, 10))
    handles = [style.handle(name, **style.line(look)) for name, look in looks.items()]
    handles += [
        style.handle("predicted by the closed form", color="k"),
        style.handle("measured by stepping", color="k", ls="", marker="o", mfc="none"),
        style.handle("paper's setting", **STAR),
    ]
    style.legend_below(figure, handles)
    style.title(figure, "Distance of each scheme's final state and gradients to those of the ODE")
    return figure


def to_backprop(results: xr.Dataset) -> Figure:
    """Predicted distance of the gradients to backprop's, against steps and iterations."""
    from matplotlib.colors import LogNorm

    last = results.bp_error.isel(stage=-1)
    names = last.scheme.values
    size = (2 * len(names) + 1.2, 2.9)
    figure, panels = style.subplots(1, len(names), figsize=size, sharey=True, squeeze=False)
    norm = LogNorm(1e-4, 1, clip=True)
    for name, axes in zip(names, panels[0], strict=True):
        mesh = axes.pcolormesh(
            last.step, last.iterations, last.sel(scheme=name).T, norm=norm, cmap="viridis_r"
        )
        axes.plot(results.step, 10 / results.step, color="w", lw=1)
        axes.plot(*PAPER, **STAR | {"color": "r"})
        axes.set(xscale="log", yscale="log", title=name, xlabel="step $h$ [$\\tau$]")
        axes.set_ylim(float(last.iterations.min()) / 1.5, float(last.iterations.max()) * 1.5)
    panels[0][0].set_ylabel("iterations $n$")
    figure.colorbar(
        mesh,
        ax=panels[0].tolist(),
        label="relative distance to\nthe backprop gradient",
        extend="both",
    )
    stage = int(results.stage[-1])
    style.title(
        figure,
        f"AR gradients compared with backprop, predicted by the closed form, after {stage} "
        f"epoch{'' if stage == 1 else 's'}\n"
        f"white line: $n h$ = 10 $\\tau$; star: paper; empty: unstable or not computed",
    )
    return figure


def training(results: xr.Dataset) -> Figure:
    """Differences of final accuracy to the first scheme, paired over seeds."""
    first = results.condition.values[0]
    names = results.compared.values
    figure, axes = style.subplots(figsize=(6, 0.7 * len(names) + 1.8))
    final = results.accuracy.isel(epoch=-1)
    margin = json.loads(results.attrs["config"])["margin"]
    axes.axvspan(-margin, margin, color="0.92", label="equivalence margin")
    axes.axvline(0, color="0.6", lw=0.8)
    for i, name in enumerate(names):
        pair = results.sel(compared=name)
        pairs = final.sel(condition=name) - final.sel(condition=first)
        axes.plot(pairs, np.full(len(pairs), i), "o", color="0.5", ms=4, mfc="none")
        axes.plot([pair.interval_low, pair.interval_high], [i, i], "k-", lw=2)
        axes.plot(pair.difference, i, "ks", ms=6)
    axes.set_yticks(range(len(names)), [f"{name} − {_label(first)}" for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("difference of final test accuracy [percentage points]")
    handles = [
        axes.patches[0],
        style.handle("one seed", color="0.5", ls="", marker="o", mfc="none"),
        style.handle("mean and 95 % confidence interval", color="k", marker="s"),
    ]
    style.legend_below(figure, handles)
    step = json.loads(results.attrs["config"])["step"]
    style.title(
        figure,
        f"Final accuracy of training with each scheme\n$h$ = {step:g} $\\tau$, paired over seeds",
    )
    return figure


def _label(name: str) -> str:
    """The name of a scheme in figures."""
    return "ODE" if name == "exact" else name


FIGURES = {"weights": weights, "errors": errors, "to_backprop": to_backprop}

if __name__ == "__main__":
    main("euler_equivalence", draw, __doc__)
