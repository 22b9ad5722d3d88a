"""Test accuracy over epochs, which every study that trains draws."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from plots import style


def learning_curves(axes: Axes, results: xr.Dataset) -> list[Line2D]:
    """One curve for each condition, with a band of one standard error on each side.

    Returns:
        The curves, for a legend.
    """
    lines = []
    count = results.sizes["seed"]
    for name, look in style.of(results.condition.values).items():
        here = results.sel(condition=name)
        mean = here.accuracy.mean("seed")
        (line,) = axes.plot(here.epoch, mean, label=str(here.label.item()))
        line.set(**style.line(look))
        if count > 1:
            error = here.accuracy.std("seed", ddof=1) / count**0.5
            axes.fill_between(
                here.epoch, mean - error, mean + error, color=look["color"], alpha=0.2, lw=0
            )
        lines.append(line)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy [%]")
    return lines


def seeds(results: xr.Dataset) -> str:
    """How many seeds a curve is the mean of, in words."""
    count = results.sizes["seed"]
    return f"mean ± standard error over {count} seeds" if count > 1 else "one seed"
