"""Figures of studies/frozen_pass.py: python plots/frozen_pass.py RUN_FOLDER."""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from plots import style
from plots.command_line import main
from plots.learning_curves import learning_curves, seeds


def draw(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the figure of a run into its folder."""
    figure = accuracy(results)
    paths = style.save(figure, folder, "accuracy")
    plt.close(figure)
    return paths


def accuracy(results: xr.Dataset) -> Figure:
    """Test accuracy over epochs: all of it, and its upper end."""
    figure, (whole, upper) = plt.subplots(1, 2, figsize=(8, 3.6))
    lines = learning_curves(whole, results)
    learning_curves(upper, results)
    whole.set_title("all")
    upper.set_title("upper end")
    best = float(results.accuracy.mean("seed").max())
    upper.set_ylim(best - 6, best + 0.5)
    style.legend_below(figure, lines)
    figure.suptitle(f"{results.attrs['title']}, {seeds(results)}")
    return figure


if __name__ == "__main__":
    main("frozen_pass", draw, __doc__)
