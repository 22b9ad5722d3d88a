"""Curves over epochs, for all studies that train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plots.common import style
from plots.common.run_results import seeds, standard_error, table

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


def curves(axes: Axes, results: xr.Dataset, name: str) -> list[Line2D]:
    """A variable over epochs: one curve for each condition, mean ± standard error over seeds.

    Args:
        name: of a variable [condition, seed, epoch].

    Returns:
        The curves, for a legend.
    """
    from matplotlib.ticker import MaxNLocator

    lines = []
    for condition, look in style.of(results.condition.values).items():
        here = results.sel(condition=condition)
        mean, error = here[name].mean("seed"), standard_error(here[name])
        label = str(here.label.item()).replace("τ_z", "$\\tau_z$")
        (line,) = axes.plot(here.epoch, mean, label=label)
        line.set(**style.line(look))
        axes.fill_between(
            here.epoch, mean - error, mean + error, color=look["color"], alpha=0.2, lw=0
        )
        lines.append(line)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return lines


def accuracy(results: xr.Dataset) -> Figure:
    """Test accuracy over epochs, and the same enlarged near the highest accuracy."""
    figure, (full, upper) = style.subplots(1, 2, figsize=(8, 3.6))
    lines = curves(full, results, "accuracy")
    curves(upper, results, "accuracy")
    full.set_ylabel("test accuracy [%]")
    best = float(results.accuracy.mean("seed").max())
    upper.set_ylim(best - 6, best + 0.5)
    upper.set_title("enlarged")
    style.legend_below(figure, lines)
    figure.suptitle(f"{results.attrs['title']}, {seeds(results)}")
    return figure


def draw_accuracy(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the accuracies, and write the table of those after the last epoch."""
    paths = style.draw_each({"accuracy": accuracy}, results, folder)
    return [*paths, style.write(table(results).to_csv(float_format="%.3f"), folder / "table.csv")]
