"""Figures of studies/convergence.py: python plots/convergence.py RUN_FOLDER."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from plots.common import lag, panels, style
from plots.common.command_line import main
from plots.common.run_results import REFERENCES

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw every figure of a run into its folder."""
    figures = FIGURES | (lag.FIGURES if "bp_error" in results else {})
    return style.draw_each(figures, results, folder)


def activities(results: xr.Dataset) -> Figure:
    """Activities of some neurons over time, and their reference g, for each layer and τ."""
    figure, grid = panels.layer_grid(results, rows=results.tau_x.values)
    looks = style.of(results.solver.values)
    for tau, row in zip(results.tau_x.values, grid, strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            here = results.sel(tau_x=tau, layer=layer)
            for n, colour in zip(here.neuron, style.COLOURS * len(here.neuron), strict=False):
                axes.axhline(here.reference.isel(neuron=n), color=colour, ls="--", lw=0.8)
                for solver, look in looks.items():
                    x = here.activity.sel(solver=solver).isel(neuron=n)
                    axes.plot(results.time, x, color=colour, ls=look["linestyle"], lw=1.2)
        row[0].set_ylabel(f"$\\tau$ = {tau:g}\nactivity $x$")
    panels.label_columns(results, grid, panels.TIME)
    solvers = [style.handle(name, color="k", ls=look["linestyle"]) for name, look in looks.items()]
    goal = style.handle(_goal(results), color="k", ls="--", lw=0.8)
    style.legend_below(figure, [*solvers, goal])
    style.title(
        figure,
        f"Activities over time, and the {_goal(results)}\n"
        "colours: neurons with the largest gradients, first sample",
    )
    return figure


def relative_error(results: xr.Dataset) -> Figure:
    """Relative error over time for each layer and τ, with the convergence times marked."""
    figure, grid = panels.layer_grid(results, rows=results.tau_x.values, share_y="all")
    tolerance = results.attrs["tolerance"]
    for tau, row in zip(results.tau_x.values, grid, strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            here = results.sel(tau_x=tau, layer=layer)
            for solver, look in style.of(results.solver.values).items():
                curve = here.sel(solver=solver)
                error = panels.positive(curve.relative_error)
                axes.semilogy(results.time, error, **style.line(look))
                axes.plot(curve.convergence_time, tolerance, ms=5, **style.dots(look))
                axes.plot([], [], label=solver, ms=5, mfc="none", **look)
            axes.axhline(tolerance, color="k", lw=0.7, ls=":", label="tolerance")
            axes.set_xlim(0, float(results.time[-1]))
        row[0].set_ylabel(f"$\\tau$ = {tau:g}\n$\\|x - g\\| / \\|g\\|$")
    panels.label_columns(results, grid, panels.TIME)
    # Relative errors below 1e-16 are rounding errors of float64.
    grid[0, 0].set_ylim(bottom=max(grid[0, 0].get_ylim()[0], 1e-16))
    style.legend_below(figure, grid[0, 0].get_legend_handles_labels()[0])
    style.title(
        figure,
        f"Relative error of the activities to the {_goal(results)}\nmarkers: convergence time",
    )
    return figure


def direction_and_length(results: xr.Dataset) -> Figure:
    """Cosine and norm ratio over time: the error in direction and in length."""
    tau = results.tau_x.values[0]
    names = {"cosine": "cosine of $x$ and $g$", "norm_ratio": "$\\|x\\| / \\|g\\|$"}
    figure, grid = panels.layer_grid(results, rows=names, share_y="row")
    for (name, label), row in zip(names.items(), grid, strict=True):
        for layer, axes in zip(results.layer.values, row, strict=True):
            for solver, look in style.of(results.solver.values).items():
                curve = results[name].sel(tau_x=tau, layer=layer, solver=solver)
                axes.plot(results.time, curve, label=solver, **style.line(look))
            axes.axhline(1, color="k", lw=0.7, ls=":")
        row[0].set_ylabel(label)
    panels.label_columns(results, grid, panels.TIME)
    style.legend_below(figure, grid[0, 0].get_legend_handles_labels()[0])
    style.title(
        figure,
        f"Direction and length of activities relative to the {_goal(results)}, $\\tau$ = {tau:g}",
    )
    return figure


def work_precision(results: xr.Dataset) -> Figure:
    """Work–precision diagrams: error against evaluations and against wall time, all solvers."""
    figure, (left, right) = style.subplots(1, 2, figsize=(7.2, 3.6), sharey=True)
    for solver, look in style.of(results.solver.values).items():
        here = results.sel(solver=solver)
        error = panels.positive(here.work_error)
        left.loglog(panels.positive(here.work_evaluations), error, ms=4, **look)
        right.loglog(here.work_wall_time * 1e3, error, label=solver, ms=4, **look)
    left.set_xlabel("evaluations of the right-hand side\n(not shown: exact, which has none)")
    right.set_xlabel("wall time [ms]")
    left.set_ylabel("relative error at $t = 5\\tau$,\nmaximum over layers")
    style.legend_below(figure, right.get_legend_handles_labels()[0])
    style.title(
        figure,
        "Work and precision for steps $h = \\tau / 2^i$ or relative tolerances $10^{-i}$\n"
        "error to the exact state; of the exact solver, to dopri8 at a tight tolerance",
    )
    return figure


def depth(results: xr.Dataset) -> Figure:
    """Convergence time of the lowest unit against depth, measured and analytic."""
    figure, axes = style.subplots(figsize=(4.8, 3.6))
    law = (
        "analytic: $\\Gamma(k, t) / \\Gamma(k) =$ tolerance, $k$ relaxing units on the longest path"
    )
    measured = "measured: zero initial state, output clamped (dopri5)"
    default = "closed form: feed-forward initial state, output relaxing"
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
    panels.log_axis(axes, "y")
    axes.set_xlabel(results.attrs["depth_of"])
    axes.set_ylabel(f"time to {results.attrs['tolerance']:g} relative error [$\\tau$]")
    style.legend_below(figure, axes.get_legend_handles_labels()[0])
    style.title(
        figure, f"Convergence time against depth\nlowest unit of the {results.attrs['network']}"
    )
    return figure


def time_constant(results: xr.Dataset) -> Figure:
    """Convergence time against τ, measured and predicted, for each layer."""
    figure, grid = panels.layer_grid(results, rows=["time"], share_y="all")
    for layer, axes in zip(results.layer.values, grid[0], strict=True):
        here = results.sel(layer=layer)
        if "predicted_time" in here:
            axes.plot(
                results.tau_x,
                here.predicted_time,
                "k.-",
                lw=1,
                label="predicted by the closed form",
            )
        for solver, look in style.of(results.solver.values).items():
            reached = here.convergence_time.sel(solver=solver)
            axes.plot(results.tau_x, reached, label=solver, **style.dots(look))
        axes.axhline(float(results.time[-1]), color="k", lw=0.7, ls=":", label="duration")
        panels.log_axis(axes, "x")
        panels.log_axis(axes, "y")
        axes.set_xlim(0.7 * float(results.tau_x.min()), 1.4 * float(results.tau_x.max()))
    grid[0, 0].set_ylabel("convergence time\n[same unit as $\\tau$]")
    panels.label_columns(results, grid, panels.TAU)
    style.legend_below(figure, grid[0, 0].get_legend_handles_labels()[0])
    style.title(
        figure, f"Time to {results.attrs['tolerance']:g} relative error to the {_goal(results)}"
    )
    return figure


FIGURES: dict[str, Callable[[xr.Dataset], Figure]] = {
    "activities": activities,
    "relative_error": relative_error,
    "direction_and_length": direction_and_length,
    "work_precision": work_precision,
    "depth": depth,
    "time_constant": time_constant,
}


def _goal(results: xr.Dataset) -> str:
    """The name of the reference g."""
    return f"{REFERENCES[results.attrs['reference']]} $g$"


if __name__ == "__main__":
    main("convergence", draw, __doc__)
