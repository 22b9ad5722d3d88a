"""Figures of studies/timescales.py: python plots/timescales.py RUN_FOLDER."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plots import style
from plots.command_line import main


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the figures of a run into its folder."""
    paths = []
    for name, figure_of in {"one_stimulus": one_stimulus, "phase_map": phase_map}.items():
        figure = figure_of(results)
        paths += style.save(figure, folder, name)
        plt.close(figure)
    return paths


def one_stimulus(results: xr.Dataset) -> Figure:
    """The weight change of one stimulus against the backprop step, with the quasi-static limit."""
    figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.8), sharex=True)
    rows = {"cosine": "cosine to the BP step", "norm_ratio": "norm over that of the BP step"}
    looks = style.of(results.window.values.tolist())
    for axes, (name, label) in zip(panels, rows.items(), strict=True):
        for share, look in looks.items():
            here = results.sel(window=share)
            (line,) = axes.plot(here.tau_w, here[name], ms=4)
            line.set(**look)
            axes.plot(here.tau_w, here[f"quasi_static_{name}"], color=look["color"], ls=":", lw=1)
        axes.set(xscale="log", xlabel="$\\tau_W / \\tau$", ylabel=label)
    panels[1].set_yscale("log")
    handles = [_handle(f"plastic from {share:g} T", look) for share, look in looks.items()]
    limit = Line2D([], [], color="k", ls=":", lw=1, label="quasi-static prediction")
    style.legend_below(figure, [*handles, limit])
    duration = json.loads(results.attrs["config"])["duration"]
    figure.suptitle(f"Weight change of one stimulus of T = {duration:g} $\\tau$")
    return figure


def phase_map(results: xr.Dataset) -> Figure:
    """Accuracy after a stream of stimuli, simulated and predicted."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    config = json.loads(results.attrs["config"])
    names = {"stream_accuracy": "coupled ODE", "quasi_static_accuracy": "quasi-static prediction"}
    for axes, (name, title) in zip(panels, names.items(), strict=True):
        mesh = _map(axes, results[name], config["duration"])
        axes.set_title(title)
        axes.set_xlabel("$\\tau_W / \\tau$")
    panels[0].set_ylabel("plasticity begins at [T]")
    figure.colorbar(mesh, ax=panels.tolist(), label="test accuracy [%]")
    figure.suptitle(
        f"{results.attrs['title']} after {config['stimuli']} stimuli; ×: the numbers were lost; "
        f"numbers: learning rate, window / $\\tau_W$"
    )
    return figure


def _map(axes: Axes, accuracy: xr.DataArray, duration: float) -> QuadMesh:
    mesh = axes.pcolormesh(accuracy.T, vmin=0, vmax=100, cmap="viridis")
    axes.set_xticks(np.arange(len(accuracy.tau_w)) + 0.5, [f"{t:g}" for t in accuracy.tau_w.values])
    axes.set_yticks(
        np.arange(len(accuracy.window)) + 0.5, [f"{w:g}" for w in accuracy.window.values]
    )
    for i, tau in enumerate(accuracy.tau_w.values):
        for j, share in enumerate(accuracy.window.values):
            value = float(accuracy[i, j])
            text = "×" if np.isnan(value) else f"{(1 - share) * duration / tau:.0e}"
            colour = "k" if np.isnan(value) or value > 60 else "w"
            axes.text(i + 0.5, j + 0.5, text, ha="center", va="center", fontsize=6, color=colour)
    return mesh


def _handle(name: str, look: dict[str, object]) -> Line2D:
    handle = Line2D([], [], label=name)
    handle.set(**look)
    return handle


if __name__ == "__main__":
    main("timescales", draw, __doc__)
