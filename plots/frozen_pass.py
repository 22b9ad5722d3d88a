"""Figures of studies/frozen_pass.py: python plots/frozen_pass.py RUN_FOLDER …"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plots.common import style
from plots.common.command_line import main
from plots.common.learning_curves import draw_accuracy
from plots.common.run_results import seeds, standard_error

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the figures of a run into its folder."""
    has_traces = "tau_z" in results and np.isfinite(results.tau_z).sum() > 1
    figures = {"trace": trace} if has_traces else {}
    return draw_accuracy(results, folder) + style.draw_each(figures, results, folder)


def trace(results: xr.Dataset) -> Figure:
    """Accuracy and gradient cosine against τ_z, from the current activity to the frozen one."""
    figure, (left, right) = style.subplots(1, 2, figsize=(8.5, 3.8))
    last = results.isel(epoch=-1).dropna("condition", subset=["tau_z"]).sortby("tau_z")
    _against_tau(left, last.accuracy, {"color": "k", "marker": "o"})
    left.set_ylabel("test accuracy [%]")
    cosine = np.cos(np.deg2rad(last.gradient_angle))
    looks = style.of(last.layer.values)
    for layer, look in looks.items():
        _against_tau(right, cosine.sel(layer=layer), look)
    right.set_ylabel("cosine of AR and BP gradients")
    right.axhline(0, color="0.7", lw=0.8)
    handles = [style.handle(f"layer {layer}", **look) for layer, look in looks.items()]
    style.legend_below(figure, handles)
    figure.suptitle(
        f"Effect of the time constant of the activity trace\n"
        f"{results.attrs['title']}, {int(last.epoch)} epochs, {seeds(results)}"
    )
    return figure


def _against_tau(axes: Axes, x: xr.DataArray, look: dict[str, object]) -> None:
    """Mean ± standard error against τ_z; 0 and ∞ are drawn at the ends of the axis."""
    tau = x.tau_z.values
    inner = tau[(tau > 0) & np.isfinite(tau)]
    low, high = inner.min() / 4, inner.max() * 4
    at = np.clip(tau, low, high)
    axes.errorbar(at, x.mean("seed"), standard_error(x), ms=4, capsize=2, **look)  # type: ignore[arg-type]
    axes.set_xscale("log")
    ticks = sorted({*at})
    names = ["0" if t == 0 else "∞" if np.isinf(t) else f"{t:g}" for t in sorted(tau)]
    axes.set_xticks(ticks, names, fontsize=7)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("time constant of the trace, $\\tau_z$ [$\\tau$]")


if __name__ == "__main__":
    main("frozen_pass", draw, __doc__)
