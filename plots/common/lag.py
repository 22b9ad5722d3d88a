"""Figures of activities that track a gradient moving with plastic weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from plots.common import panels, style
from plots.common.run_results import SLOW, slow_axes

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def moving_gradient(results: xr.Dataset) -> Figure:
    """Tracking error, lag, and change of the gradient over time, for each layer."""
    labels = {
        "g_error": "$\\|x - g(t)\\| / \\|g(t)\\|$",
        "g_lag": "lag behind $g(t)$\n[same unit as $\\tau$]",
        "bp_error": "$\\|x - \\mathrm{BP}(t)\\| / \\|\\mathrm{BP}(t)\\|$",
        "bp_lag": "lag behind BP$(t)$\n[same unit as $\\tau$]",
        "bp_drift": "change of BP$(t)$\n"
        "$\\|\\mathrm{BP}(t) - \\mathrm{BP}(0)\\|$\n$/ \\|\\mathrm{BP}(0)\\|$",
    }
    rows = {name: label for name, label in labels.items() if name in results}
    tau, solver = float(results.tau_x[0]), _first_with_results(results)
    cells, looks = _slow_cells(results.sel(tau_x=tau, solver=solver))
    figure, grid = panels.layer_grid(results, rows, share_y="row")
    for row, (name, label) in zip(grid, rows.items(), strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            for cell, (kind, look) in zip(cells, looks.items(), strict=True):
                curve = cell[name].sel(layer=layer)
                curve = curve if name.endswith("lag") else panels.positive(curve)
                axes.plot(results.record, curve, label=kind, **style.line(look))
            if name.endswith("lag"):
                _note_if_undefined(axes, results[name].sel(layer=layer))
        row[0].set_ylabel(label)
        row[0].set(**{"ylim": (0, None)} if name.endswith("lag") else {"yscale": "log"})
    panels.label_columns(results, grid, panels.TIME)
    style.legend_below(figure, grid[0, 0].get_legend_handles_labels()[0])
    style.title(
        figure,
        f"Tracking of a gradient that moves with plastic weights: $\\tau$ = {tau:g}, {solver}\n"
        f"{_subtitle(results)}",
    )
    return figure


def moving_lag(results: xr.Dataset) -> Figure:
    """Tracking lag at the end of the relaxation against τ, for each layer and solver."""
    rows = [name for name in ("g_lag", "bp_lag") if name in results]
    labels = {"g_lag": "behind $g(t)$", "bp_lag": "behind BP$(t)$"}
    cells, looks = _slow_cells(results.isel(record=-1))
    marks = style.of(results.solver.values)
    figure, grid = panels.layer_grid(results, rows, share_y="row")
    for row, name in zip(grid, rows, strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            for cell, look in zip(cells, looks.values(), strict=True):
                for solver, mark in marks.items():
                    lag = cell[name].sel(layer=layer, solver=solver)
                    own = look | {"marker": mark["marker"], "mfc": "none"}
                    axes.plot(results.tau_x, lag, ms=5, clip_on=False, **own)
            panels.log_axis(axes, "x")
            axes.set_xlim(0.7 * float(results.tau_x.min()), 1.4 * float(results.tau_x.max()))
            _note_if_undefined(axes, results[name].sel(layer=layer))
        row[0].set_ylabel(f"lag {labels[name]}\n[same unit as $\\tau$]")
        row[0].set_ylim(bottom=0)
    panels.label_columns(results, grid, panels.TAU)
    lines = [style.handle(kind, **style.line(look)) for kind, look in looks.items()]
    dots = [
        style.handle(solver, **style.dots(look) | {"color": "k"})
        for solver, look in marks.items()
        if results.bp_lag.sel(solver=solver).notnull().any()
    ]
    style.legend_below(figure, [*lines, *dots])
    style.title(figure, f"Tracking lag at $t$ = {results.record[-1]:g}\n{_subtitle(results)}")
    return figure


def _note_if_undefined(axes: Axes, lag: xr.DataArray) -> None:
    """Say that the lag is undefined, where all of it is NaN."""
    if lag.isnull().all():
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", color="0.4")


_MOST_CURVES = 6
"""Maximum number of curves in one panel, so that they can be distinguished."""


def _subtitle(results: xr.Dataset) -> str:
    count = math.prod(results.sizes[axis] for axis in SLOW)
    left_out = (
        f"\n{_MOST_CURVES} of {count} combinations of time constants"
        if count > _MOST_CURVES
        else ""
    )
    return (
        f"$g(t)$: equilibrium at constant weights $W(t)$; BP$(t)$: backprop gradient at $W(t)$\n"
        f"lag undefined: gradient constant, or $x$ not near its past path{left_out}"
    )


def _slow_cells(results: xr.Dataset) -> tuple[list[xr.Dataset], dict[str, dict[str, Any]]]:
    """Combinations of slow time constants, at most ``_MOST_CURVES``, and their curve styles."""
    letters = dict(zip(SLOW, ("W", "\\psi", "z"), strict=True))
    cells = results.stack(cell=list(SLOW))
    moving = slow_axes(results)
    chosen = np.unique(np.linspace(0, cells.sizes["cell"] - 1, _MOST_CURVES).round().astype(int))
    picked = [cells.isel(cell=i) for i in chosen]
    names = [
        ", ".join(f"$\\tau_{{{letters[axis]}}}$ = {float(cell[axis]):g}" for axis in moving)
        for cell in picked
    ]
    return picked, style.of(names)


def _first_with_results(results: xr.Dataset) -> str:
    """The first solver that has results."""
    has_any = results.bp_error.notnull().any([*set(results.bp_error.dims) - {"solver"}])
    return str(results.solver.values[has_any][0])


FIGURES = {"moving_gradient": moving_gradient, "moving_lag": moving_lag}
