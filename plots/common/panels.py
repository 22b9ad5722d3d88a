"""Figures with one column of panels for each layer, and their axes."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from plots.common import style

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panels = np.ndarray[Any, Any]
TIME = "time [same unit as $\\tau$]"
TAU = "time constant $\\tau$\n[arbitrary unit]"


def layer_grid(
    results: xr.Dataset, rows: Sized, share_y: Literal["none", "row", "all"] = "none"
) -> tuple[Figure, Panels]:
    """A grid of panels, [row, layer]."""
    columns = results.sizes["layer"]
    return style.subplots(
        len(rows),
        columns,
        figsize=(max(1.9 * columns + 0.8, 4.8), 1.6 * len(rows) + 1.5),
        sharex=True,
        sharey=share_y,
        squeeze=False,
    )


def log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5, 10, …"""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def label_columns(results: xr.Dataset, grid: Panels, x_label: str) -> None:
    """The layer's name above each column, and the label of the horizontal axis below."""
    for layer, top, bottom in zip(results.layer.values, grid[0], grid[-1], strict=True):
        top.set_title(f"layer {layer}")
        bottom.set_xlabel(x_label)


def positive(values: xr.DataArray) -> xr.DataArray:
    """Positive values, others NaN, as a logarithmic axis cannot show them."""
    return values.where(values > 0)
