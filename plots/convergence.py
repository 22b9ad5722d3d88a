"""Figures of studies/convergence.py: python plots/convergence.py RUN_FOLDER."""

from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from plots import style
from plots.command_line import main

Panels = np.ndarray[Any, Any]


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw every figure of a run into its folder."""
    paths = []
    figures = FIGURES | (MOVING if "bp_error" in results else {})
    for name, figure_of in figures.items():
        figure = figure_of(results)
        paths += style.save(figure, folder, name)
        plt.close(figure)
    return paths


def activities(results: xr.Dataset) -> Figure:
    """Activity trajectories of some neurons against their BP gradients, layer by layer."""
    figure, panels = _panels(results, rows=results.tau_x.values)
    looks = style.of(results.solver.values)
    for tau, row in zip(results.tau_x.values, panels, strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            here = results.sel(tau_x=tau, layer=layer)
            for n, colour in zip(here.neuron, style.COLOURS * len(here.neuron), strict=False):
                axes.axhline(here.reference.isel(neuron=n), color=colour, ls="--", lw=0.8)
                for solver, look in looks.items():
                    x = here.activity.sel(solver=solver).isel(neuron=n)
                    axes.plot(results.time, x, color=colour, ls=look["linestyle"], lw=1.2)
        row[0].set_ylabel(f"$\\tau$ = {tau:g}\nactivity $x$")
    _label_columns(results, panels, _TIME)
    solvers = [
        Line2D([], [], color="k", ls=look["linestyle"], label=name) for name, look in looks.items()
    ]
    goal = Line2D([], [], color="k", ls="--", lw=0.8, label=_goal(results))
    style.legend_below(figure, [*solvers, goal])
    figure.suptitle(
        f"Activities relax onto the {_goal(results)}\n"
        "colours: the neurons of the largest gradients, first sample"
    )
    return figure


def relative_error(results: xr.Dataset) -> Figure:
    """Relative error over time per layer, with the convergence times marked."""
    figure, panels = _panels(results, rows=results.tau_x.values, share_y="all")
    tolerance = results.attrs["tolerance"]
    for tau, row in zip(results.tau_x.values, panels, strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            here = results.sel(tau_x=tau, layer=layer)
            for solver, look in style.of(results.solver.values).items():
                curve = here.sel(solver=solver)
                error = _positive(curve.relative_error)
                axes.semilogy(results.time, error, **style.line(look))
                axes.plot(curve.convergence_time, tolerance, ms=5, **style.dots(look))
                axes.plot([], [], label=solver, ms=5, mfc="none", **look)
            axes.axhline(tolerance, color="k", lw=0.7, ls=":", label="tolerance")
            axes.set_xlim(0, float(results.time[-1]))
        row[0].set_ylabel(f"$\\tau$ = {tau:g}\n$\\|x - g\\| / \\|g\\|$")
    _label_columns(results, panels, _TIME)
    # float64 has no more to say below.
    panels[0, 0].set_ylim(bottom=max(panels[0, 0].get_ylim()[0], 1e-16))
    style.legend_below(figure, panels[0, 0].get_legend_handles_labels()[0])
    figure.suptitle(f"Relative error to the {_goal(results)}\nmarkers: convergence time")
    return figure


def direction_and_length(results: xr.Dataset) -> Figure:
    """Cosine and norm ratio over time: the two halves of an error."""
    tau = results.tau_x.values[0]
    names = {"cosine": "cosine of $x$ and $g$", "norm_ratio": "$\\|x\\| / \\|g\\|$"}
    figure, panels = _panels(results, rows=names, share_y="row")
    for (name, label), row in zip(names.items(), panels, strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            for solver, look in style.of(results.solver.values).items():
                curve = results[name].sel(tau_x=tau, layer=layer, solver=solver)
                axes.plot(results.time, curve, label=solver, **style.line(look))
            axes.axhline(1, color="k", lw=0.7, ls=":")
        row[0].set_ylabel(label)
    _label_columns(results, panels, _TIME)
    style.legend_below(figure, panels[0, 0].get_legend_handles_labels()[0])
    figure.suptitle(f"Direction and length beside the {_goal(results)}, $\\tau$ = {tau:g}")
    return figure


def work_precision(results: xr.Dataset) -> Figure:
    """Error against evaluations and against wall time, for all solvers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6), sharey=True)
    for solver, look in style.of(results.solver.values).items():
        here = results.sel(solver=solver)
        error = _positive(here.work_error)
        left.loglog(_positive(here.work_evaluations), error, ms=4, **look)
        right.loglog(here.work_wall_time * 1e3, error, label=solver, ms=4, **look)
    left.set_xlabel("evaluations of the right-hand side (exact: none)")
    right.set_xlabel("wall time [ms]")
    left.set_ylabel("relative error at $t = 5\\tau$, worst layer")
    style.legend_below(figure, right.get_legend_handles_labels()[0])
    figure.suptitle(
        "Work and precision: steps $h = \\tau / 2^i$ or tolerances $10^{-i}$, against the exact "
        "state\n(the exact solver: against dopri8 at its tightest)",
        fontsize=9,
    )
    return figure


def depth(results: xr.Dataset) -> Figure:
    """Convergence time of the lowest layer against depth, with the law."""
    figure, axes = plt.subplots(figsize=(4.8, 3.6))
    law = "chain of $k$ units, the longest path: $\\Gamma(k, t) / \\Gamma(k) =$ tolerance"
    measured = "zero start, output clamped (dopri5)"
    default = "feed-forward start, output relaxing (closed form)"
    axes.plot(results.depth, results.depth_law, "k-", label=law)
    axes.plot(results.depth, results.depth_measured, "o", color=style.COLOURS[0], label=measured)
    axes.plot(
        results.depth,
        results.depth_default,
        "s:",
        color=style.COLOURS[1],
        mfc="none",
        label=default,
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(results.depth.values, [str(each) for each in results.depth.values])
    _log_axis(axes, "y")
    axes.set_xlabel(results.attrs["depth_of"])
    axes.set_ylabel(f"time to {results.attrs['tolerance']:g} relative error [$\\tau$]")
    style.legend_below(figure, axes.get_legend_handles_labels()[0])
    figure.suptitle(f"Depth costs time: the lowest unit of the {results.attrs['network']}")
    return figure


def time_constant(results: xr.Dataset) -> Figure:
    """Convergence time against τ, measured and predicted, layer by layer."""
    figure, panels = _panels(results, rows=["time"], share_y="all")
    for layer, axes in zip(results.layer.values, panels[0], strict=True):
        here = results.sel(layer=layer)
        if "predicted_time" in here:
            axes.plot(results.tau_x, here.predicted_time, "k.-", lw=1, label="predicted (root)")
        for solver, look in style.of(results.solver.values).items():
            reached = here.convergence_time.sel(solver=solver)
            axes.plot(results.tau_x, reached, label=solver, **style.dots(look))
        axes.axhline(float(results.time[-1]), color="k", lw=0.7, ls=":", label="duration")
        _log_axis(axes, "x")
        _log_axis(axes, "y")
        axes.set_xlim(0.7 * float(results.tau_x.min()), 1.4 * float(results.tau_x.max()))
    panels[0, 0].set_ylabel("convergence time\n[same unit as $\\tau$]")
    _label_columns(results, panels, "time constant $\\tau$\n[your unit of time]")
    style.legend_below(figure, panels[0, 0].get_legend_handles_labels()[0])
    figure.suptitle(
        f"Time to {results.attrs['tolerance']:g} relative error to the {_goal(results)}"
    )
    return figure


def moving_gradient(results: xr.Dataset) -> Figure:
    """Activities behind a gradient that moves with the weights: error, drift and lag over time."""
    labels = {
        "g_error": "$\\|x - g(t)\\| / \\|g(t)\\|$",
        "g_lag": "lag behind $g(t)$\n[same unit as $\\tau$]",
        "bp_error": "$\\|x - \\mathrm{BP}(t)\\| / \\|\\mathrm{BP}(t)\\|$",
        "bp_lag": "lag behind BP$(t)$\n[same unit as $\\tau$]",
        "bp_drift": "drift\n$\\|\\mathrm{BP}(t) - \\mathrm{BP}(0)\\|$\n$/ \\|\\mathrm{BP}(0)\\|$",
    }
    rows = {name: label for name, label in labels.items() if name in results}
    tau, solver = float(results.tau_x[0]), _first_that_followed(results)
    cells, looks = _slow_cells(results.sel(tau_x=tau, solver=solver))
    figure, panels = _panels(results, rows, share_y="row")
    for row, (name, label) in zip(panels, rows.items(), strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            for cell, (kind, look) in zip(cells, looks.items(), strict=True):
                curve = cell[name].sel(layer=layer)
                curve = curve if name.endswith("lag") else _positive(curve)
                axes.plot(results.record, curve, label=kind, **style.line(look))
            if name.endswith("lag"):
                _say_if_empty(axes, results[name].sel(layer=layer))
        row[0].set_ylabel(label)
        row[0].set(**{"ylim": (0, None)} if name.endswith("lag") else {"yscale": "log"})
    _label_columns(results, panels, _TIME)
    style.legend_below(figure, panels[0, 0].get_legend_handles_labels()[0])
    figure.suptitle(
        f"Activities follow the gradient of weights that learn: $\\tau$ = {tau:g}, {solver}\n"
        f"{_subtitle(results)}"
    )
    return figure


def moving_lag(results: xr.Dataset) -> Figure:
    """How far activities are behind at the end, against τ, solver by solver."""
    rows = [name for name in ("g_lag", "bp_lag") if name in results]
    labels = {"g_lag": "behind $g(t)$", "bp_lag": "behind BP$(t)$"}
    cells, looks = _slow_cells(results.isel(record=-1))
    marks = style.of(results.solver.values)
    figure, panels = _panels(results, rows, share_y="row")
    for row, name in zip(panels, rows, strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            for cell, look in zip(cells, looks.values(), strict=True):
                for solver, mark in marks.items():
                    lag = cell[name].sel(layer=layer, solver=solver)
                    axes.plot(
                        results.tau_x, lag, ms=5, mfc="none", **look | {"marker": mark["marker"]}
                    )
            _log_axis(axes, "x")
            _say_if_empty(axes, results[name].sel(layer=layer))
        row[0].set_ylabel(f"lag {labels[name]}\n[same unit as $\\tau$]")
        row[0].set_ylim(bottom=0)
    _label_columns(results, panels, "time constant $\\tau$\n[your unit of time]")
    lines = [style.handle(kind, **style.line(look)) for kind, look in looks.items()]
    dots = [
        style.handle(solver, **style.dots(look) | {"color": "k"})
        for solver, look in marks.items()
        if results.bp_lag.sel(solver=solver).notnull().any()
    ]
    style.legend_below(figure, [*lines, *dots])
    figure.suptitle(
        f"Lag behind a moving gradient, at t = {results.record[-1]:g}\n{_subtitle(results)}"
    )
    return figure


def _say_if_empty(axes: Axes, lag: xr.DataArray) -> None:
    """A gradient that rests is never behind itself."""
    if lag.isnull().all():
        axes.text(0.5, 0.5, "does not move", transform=axes.transAxes, ha="center", color="0.4")


_MOST_CURVES = 6
"""More in one panel could not be told apart."""


def _subtitle(results: xr.Dataset) -> str:
    count = results.sizes["tau_w"] * results.sizes["tau_psi"] * results.sizes["tau_z"]
    left_out = f"\n{_MOST_CURVES} of {count} combinations" if count > _MOST_CURVES else ""
    return (
        f"$g(t)$: where they would settle if weights stood still now; "
        f"BP$(t)$: backprop after a new forward pass{left_out}"
    )


def _slow_cells(results: xr.Dataset) -> tuple[list[xr.Dataset], dict[str, dict[str, Any]]]:
    """Combinations of slow time constants, evenly chosen where there are many, and their looks."""
    letters = {"tau_w": "W", "tau_psi": "\\psi", "tau_z": "z"}
    cells = results.stack(cell=list(letters))
    moving = [axis for axis in letters if np.isfinite(results[axis]).any()]
    chosen = np.unique(np.linspace(0, cells.sizes["cell"] - 1, _MOST_CURVES).round().astype(int))
    picked = [cells.isel(cell=i) for i in chosen]
    names = [
        ", ".join(f"$\\tau_{{{letters[axis]}}}$ = {float(cell[axis]):g}" for axis in moving)
        for cell in picked
    ]
    return picked, style.of(names)


def _first_that_followed(results: xr.Dataset) -> str:
    """The first solver that stepped through."""
    has_any = results.bp_error.notnull().any([*set(results.bp_error.dims) - {"solver"}])
    return str(results.solver.values[has_any][0])


FIGURES: dict[str, Callable[[xr.Dataset], Figure]] = {
    "activities": activities,
    "relative_error": relative_error,
    "direction_and_length": direction_and_length,
    "work_precision": work_precision,
    "depth": depth,
    "time_constant": time_constant,
}
MOVING = {"moving_gradient": moving_gradient, "moving_lag": moving_lag}


_TIME = "time [same unit as $\\tau$]"


def _goal(results: xr.Dataset) -> str:
    """What activities are compared with."""
    equilibrium = results.attrs["reference"] == "equilibrium"
    return f"{'equilibrium of the rule' if equilibrium else 'backprop gradient'} $g$"


def _panels(
    results: xr.Dataset, rows: Sized, share_y: Literal["none", "row", "all"] = "none"
) -> tuple[Figure, Panels]:
    """A column per layer."""
    columns = results.sizes["layer"]
    return plt.subplots(
        len(rows),
        columns,
        figsize=(max(1.9 * columns + 0.8, 4.8), 1.6 * len(rows) + 1.5),
        sharex=True,
        sharey=share_y,
        squeeze=False,
    )


def _log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5, 10, …"""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _label_columns(results: xr.Dataset, panels: Panels, x_label: str) -> None:
    for layer, top, bottom in zip(results.layer.values, panels[0], panels[-1], strict=True):
        top.set_title(f"layer {layer}")
        bottom.set_xlabel(x_label)


def _positive(values: xr.DataArray) -> xr.DataArray:
    """Zeros left out, as a logarithmic axis has no place for them."""
    return values.where(values > 0)


if __name__ == "__main__":
    main("convergence", draw, __doc__)
