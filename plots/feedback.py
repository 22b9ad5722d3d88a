"""Figures of studies/feedback.py: python plots/feedback.py RUN_FOLDER."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plots.common import style
from plots.common.command_line import main
from plots.common.learning_curves import curves, draw_accuracy
from plots.common.run_results import seeds

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the figures of a run into its folder."""
    return draw_accuracy(results, folder) + style.draw_each({"angles": angles}, results, folder)


def angles(results: xr.Dataset) -> Figure:
    """Angles over epochs for each layer: between AR and BP gradients, and between ψ and Wᵀ."""
    layers = results.layer.values
    size = (2.2 * len(layers) + 0.6, 5)
    figure, panels = style.subplots(
        2, len(layers), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    rows = {
        "gradient_angle": "angle between AR and\nBP gradients [degrees]",
        "feedback_angle": "angle between\n$\\psi$ and $W^T$ [degrees]",
    }
    for row, (name, label) in zip(panels, rows.items(), strict=True):
        for layer, axes in zip(layers, row, strict=True):
            lines = curves(axes, results.sel(layer=layer), name)
            axes.axhline(90, color="0.7", lw=0.8)
            if results[name].sel(layer=layer).isnull().all():  # the lowest layer has no ψ
                axes.text(0.5, 0.4, "no $\\psi$", transform=axes.transAxes, ha="center")
        row[0].set_ylabel(label)
    for layer, top in zip(layers, panels[0], strict=True):
        top.set(title=f"layer {layer}", xlabel="")
    panels[0][0].set_ylim(bottom=-3)
    style.legend_below(figure, lines)
    style.title(
        figure, f"Alignment of gradients and of feedback weights, {seeds(results)}\ngrey line: 90°"
    )
    return figure


if __name__ == "__main__":
    main("feedback", draw, __doc__)
