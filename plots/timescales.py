"""Figures of studies/timescales.py: python plots/timescales.py RUN_FOLDER."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plots import style
from plots.command_line import main

PREDICTED: dict[str, Any] = {"lw": 6, "alpha": 0.25, "zorder": 0, "solid_capstyle": "butt"}
"""Predictions lie as broad bands under the curves."""


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the figures of a run into its folder."""
    figures = {"one_stimulus": one_stimulus(results), "phase_map": phase_map(results)}
    if _learns_feedback(results):
        figures["angle_map"] = angle_map(results)
    paths = []
    for name, figure in figures.items():
        paths += style.save(figure, folder, name)
        plt.close(figure)
    return paths


def one_stimulus(results: xr.Dataset) -> Figure:
    """The weight change of one stimulus against the backprop step, with the quasi-static limit."""
    columns = results.tau_psi.values
    figure, panels = plt.subplots(
        2,
        len(columns),
        figsize=(max(2.2 * len(columns) + 1, 5), 5),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    rows = {"cosine": "cosine to the BP step", "norm_ratio": "norm over that of\nthe BP step"}
    looks = style.of(results.window.values.tolist())
    for row, (name, label) in zip(panels, rows.items(), strict=True):
        row[0].set_ylabel(label)
        for tau_psi, axes in zip(columns, row, strict=True):
            for share, look in looks.items():
                here = results.sel(window=share, tau_psi=tau_psi)
                (line,) = axes.plot(here.tau_w, here[name], ms=4)
                line.set(**look)
                quasi = here[f"quasi_static_{name}"]
                axes.plot(here.tau_w, quasi, color=look["color"], **PREDICTED)
            axes.set_xscale("log")
    for tau_psi, top, bottom in zip(columns, panels[0], panels[1], strict=True):
        bottom.set(yscale="log", xlabel="$\\tau_W / \\tau$")
        if _learns_feedback(results):
            top.set_title(f"$\\tau_\\psi / \\tau$ = {tau_psi:g}")
    handles = [_handle(f"plastic from {share:g} T", look) for share, look in looks.items()]
    limit = Line2D([], [], color="k", label="quasi-static prediction", **PREDICTED)
    style.legend_below(figure, [*handles, limit])
    duration = json.loads(results.attrs["config"])["duration"]
    figure.suptitle(f"Weight change of one stimulus of T = {duration:g} $\\tau$")
    return figure


def phase_map(results: xr.Dataset) -> Figure:
    """Accuracy after a stream of stimuli, simulated and predicted."""
    return _maps(results, "accuracy", "test accuracy [%]", 100, str(results.attrs["title"]))


def angle_map(results: xr.Dataset) -> Figure:
    """Angle between ψ and Wᵀ after a stream of stimuli, simulated and predicted."""
    return _maps(results, "angle", "angle between $\\psi$ and $W^T$ [°]", 90, "Feedback weights")


def _maps(results: xr.Dataset, what: str, label: str, most: float, title: str) -> Figure:
    """A row of maps per quantity: τ_W × window; where ψ learns, τ_W × τ_ψ for each window."""
    names = {f"stream_{what}": "coupled ODE", f"quasi_static_{what}": "quasi-static prediction"}
    if _learns_feedback(results):
        upwards, y_label = "tau_psi", "$\\tau_\\psi / \\tau$"
        columns = {f"plastic from {w:g} T": results.sel(window=w) for w in results.window.values}
    else:
        upwards, y_label = "window", "plasticity begins at [T]"
        columns = {"": results.isel(tau_psi=0)}
    shape = (len(names), len(columns)) if len(columns) > 1 else (1, len(names))
    figure, panels = plt.subplots(
        *shape,
        figsize=(3.4 * shape[1] + 1.4, 2.6 * shape[0] + 1),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    places = iter(panels.flat)
    for name, kind in names.items():
        for when, here in columns.items():
            axes = next(places)
            mesh = _map(axes, here, name, upwards, most)
            axes.set_title(f"{kind}\n{when}" if when else kind)
    for axes in panels[-1]:
        axes.set_xlabel("$\\tau_W / \\tau$")
    for axes in panels[:, 0]:
        axes.set_ylabel(y_label)
    figure.colorbar(mesh, ax=panels.ravel().tolist(), label=label)
    stimuli = json.loads(results.attrs["config"])["stimuli"]
    figure.suptitle(f"{title} after {stimuli} stimuli; ×: learning was lost")
    return figure


def _map(axes: Axes, here: xr.Dataset, name: str, upwards: str, most: float) -> QuadMesh:
    values = here[name].transpose(upwards, "tau_w")
    mesh = axes.pcolormesh(values, vmin=0, vmax=most, cmap="viridis")
    for axis, ticks in ((axes.xaxis, here.tau_w.values), (axes.yaxis, here[upwards].values)):
        axis.set_ticks(np.arange(len(ticks)) + 0.5, [_short(t) for t in ticks])
    for (j, i), value in np.ndenumerate(values):
        text = "×" if np.isnan(value) else f"{value:.0f}"
        colour = "k" if np.isnan(value) or value > 0.6 * most else "w"
        axes.text(i + 0.5, j + 0.5, text, ha="center", va="center", fontsize=6, color=colour)
    return mesh


def _learns_feedback(results: xr.Dataset) -> bool:
    """Whether ψ learns in time; else Wᵀ is in its place."""
    return bool(np.isfinite(results.tau_psi).all())


def _short(value: float) -> str:
    """1000 as 10³: long numbers would run into each other."""
    power = np.log10(value) if value > 0 else 0.5
    return f"$10^{{{power:.0f}}}$" if power >= 3 and power % 1 == 0 else f"{value:g}"


def _handle(name: str, look: dict[str, object]) -> Line2D:
    handle = Line2D([], [], label=name)
    handle.set(**look)
    return handle


if __name__ == "__main__":
    main("timescales", draw, __doc__)
