"""Figures of studies/timescales.py: python plots/timescales.py RUN_FOLDER."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plots.common import style
from plots.common.command_line import main

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

DIVERGED = 100
"""Training counts as diverged when the test loss has grown by this factor."""
PREDICTED: dict[str, Any] = {"lw": 6, "alpha": 0.25, "zorder": 0, "solid_capstyle": "butt"}
"""Style of predictions: broad bands under the curves."""


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the figures of a run into its folder."""
    figures = {"one_stimulus": one_stimulus, "phase_map": phase_map, "loss_map": loss_map}
    if _has_plastic_feedback(results):
        figures["angle_map"] = angle_map
    return style.draw_each(figures, results, folder)


def one_stimulus(results: xr.Dataset) -> Figure:
    """Weight change of one stimulus compared with the backprop step, and its quasi-static limit.

    With plastic ψ, activities depend on ψ but not on W, so that τ_W only scales the change: it is
    then drawn against τ_ψ.
    """
    axis, label = "tau_w", "$\\tau_W / \\tau$"
    if _has_plastic_feedback(results):
        axis, label = "tau_psi", "$\\tau_\\psi / \\tau$, for any $\\tau_W$"
    here = results.isel({"tau_psi": -1, "tau_w": -1} | {axis: slice(None)})
    rows = {
        "cosine": "cosine to the\nbackprop step",
        "norm_ratio": "norm ratio to the\nbackprop step",
    }
    looks = style.of(results.window.values.tolist())
    figure, panels = style.subplots(len(rows), 1, figsize=(5, 5), sharex=True)
    for axes, (name, y_label) in zip(panels, rows.items(), strict=True):
        for share, look in looks.items():
            (line,) = axes.plot(here[axis], here[name].sel(window=share), ms=4)
            line.set(**look)
            quasi = here[f"quasi_static_{name}"].sel(window=share)
            axes.plot(here[axis], quasi, color=look["color"], **PREDICTED)
        axes.set(xscale="log", ylabel=y_label)
    panels[-1].set(yscale="log", xlabel=label)
    handles = [style.handle(f"onset at {share:g} $T$", **look) for share, look in looks.items()]
    limit = style.handle("quasi-static prediction", color="k", **PREDICTED)
    style.legend_below(figure, [*handles, limit])
    duration = json.loads(results.attrs["config"])["duration"]
    style.title(
        figure,
        f"Weight change of one stimulus, $T$ = {duration:g} $\\tau$\n"
        "for several onsets of plasticity",
    )
    return figure


def phase_map(results: xr.Dataset) -> Figure:
    """Accuracy after a stream of stimuli, simulated and predicted, and the difference.

    Both are low where weights are too slow to change much within the stream; the difference is
    large where the quasi-static prediction does not hold.
    """
    scale = Scale("test accuracy [%]", (0, 100))
    difference = Scale("difference\n[percentage points]", (-50, 50), "RdBu", "both")
    return _maps(results, "accuracy", scale, difference, str(results.attrs["title"]))


def loss_map(results: xr.Dataset) -> Figure:
    """Loss after a stream of stimuli, simulated and predicted, and the difference."""
    scale = Scale("loss per sample", (0.1, 10), extend="both", norm="log")
    difference = Scale("difference", (-1, 1), "RdBu_r", "both")
    return _maps(results, "loss", scale, difference, "Loss on the test set")


def angle_map(results: xr.Dataset) -> Figure:
    """Angle between ψ and Wᵀ after a stream of stimuli, simulated and predicted."""
    scale = Scale("angle between $\\psi$ and $W^T$,\nmean of layers [°]", (0, 90), extend="max")
    difference = Scale("difference [°]", (-30, 30), "RdBu_r", "both")
    return _maps(results, "angle", scale, difference, "Feedback alignment")


@dataclass(frozen=True)
class Scale:
    """Colour scale of a map, and the label of its colour bar."""

    label: str
    limits: tuple[float, float]
    colours: str = "viridis"
    extend: str = "neither"
    """Whether values may lie beyond the bar: "min", "max" or "both"."""
    norm: str = "linear"
    """"linear" or "log"."""


def _maps(results: xr.Dataset, what: str, scale: Scale, difference: Scale, title: str) -> Figure:
    """Maps of the coupled ODE, the quasi-static prediction, and their difference.

    Over τ_W and the window; with plastic ψ, over τ_W and τ_ψ, in a column for each window.
    """
    coupled, predicted = results[what], results[f"quasi_static_{what}"]
    kinds = {
        "coupled ODE": (coupled, scale),
        "quasi-static prediction": (predicted, scale),
        "coupled − prediction": (_difference(coupled, predicted), difference),
    }
    if _has_plastic_feedback(results):
        upwards, y_label = "tau_psi", "$\\tau_\\psi / \\tau$"
        columns = {f"onset at {w:g} $T$": {"window": w} for w in results.window.values}
        shape = len(kinds), len(columns)
    else:
        upwards, y_label = "window", "onset of plasticity [$T$]"
        columns = {"": {"tau_psi": results.tau_psi.values[0]}}
        shape = 1, len(kinds)
    size = (3 * shape[1] + 1.4, 2.6 * shape[0] + 1)
    figure, panels = style.subplots(*shape, figsize=size, sharex=True, sharey=True, squeeze=False)
    for row, (kind, (values, its_scale)) in zip(
        panels.reshape(len(kinds), -1), kinds.items(), strict=True
    ):
        for axes, (when, place) in zip(row, columns.items(), strict=True):
            mesh = _map(axes, values.sel(place).transpose(upwards, "tau_w"), its_scale)
            axes.set_title(f"{kind}\n{when}" if when else kind)
        figure.colorbar(mesh, ax=row.tolist(), label=its_scale.label, extend=its_scale.extend)
    for axes in panels[-1]:
        axes.set_xlabel("$\\tau_W / \\tau$")
    for axes in panels[:, 0]:
        axes.set_ylabel(y_label)
    stimuli = json.loads(results.attrs["config"])["stimuli"]
    style.title(
        figure,
        f"{title} after {stimuli} stimuli\n×: training diverged (loss not finite, or more than "
        f"{DIVERGED} times that at the start)\nin the difference, ×: both diverged; "
        f"× ODE: the coupled ODE alone; × pred.: the prediction alone",
    )
    return figure


def _map(axes: Axes, values: xr.DataArray, scale: Scale) -> QuadMesh:
    low, high = scale.limits
    mesh = axes.pcolormesh(values, norm=scale.norm, vmin=low, vmax=high, cmap=scale.colours)
    for axis, name in ((axes.xaxis, values.dims[1]), (axes.yaxis, values.dims[0])):
        ticks = [_tick(t) for t in values[name].values]
        axis.set_ticks(np.arange(len(ticks)) + 0.5, ticks)
    for (j, i), value in np.ndenumerate(values):
        red, green, blue, _ = mesh.to_rgba(value)
        is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 and np.isfinite(value)
        axes.text(
            *(i + 0.5, j + 0.5, _cell_text(value)),
            ha="center",
            va="center",
            fontsize=6,
            color="w" if is_dark else "k" if not np.isinf(value) else "r",
        )
    return mesh


def _difference(coupled: xr.DataArray, predicted: xr.DataArray) -> xr.DataArray:
    """Coupled − predicted; −∞ where the coupled ODE alone diverged, ∞ where the prediction did."""
    only_coupled, only_predicted = coupled.isnull(), predicted.isnull()
    difference = (coupled - predicted).where(~only_coupled | only_predicted, -np.inf)
    return difference.where(~only_predicted | only_coupled, np.inf)


def _cell_text(value: float) -> str:
    words = {-np.inf: "×\nODE", np.inf: "×\npred."}
    if not np.isfinite(value):
        return words.get(value, "×")
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}" if abs(value) >= 0.01 else "0"


def _has_plastic_feedback(results: xr.Dataset) -> bool:
    """Whether feedback weights ψ are plastic; otherwise feedback is through Wᵀ."""
    return bool(np.isfinite(results.tau_psi).all())


def _tick(value: float) -> str:
    """A tick label; 1000 as 10³, as long numbers would overlap."""
    power = np.log10(value) if value > 0 else 0.5
    return f"$10^{{{power:.0f}}}$" if power >= 3 and power % 1 == 0 else f"{value:g}"


if __name__ == "__main__":
    main("timescales", draw, __doc__)
