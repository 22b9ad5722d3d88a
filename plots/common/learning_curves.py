"""Curves over epochs, which every study that trains draws."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from plots.common import style


def curves(axes: Axes, results: xr.Dataset, name: str) -> list[Line2D]:
    """A variable over epochs: one curve for each condition, mean ± standard error over seeds.

    Args:
        name: of a variable [condition, seed, epoch].

    Returns:
        The curves, for a legend.
    """
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


def standard_error(x: xr.DataArray) -> xr.DataArray:
    """Of the mean over the seeds that there are; NaN for a single one."""
    count = x.notnull().sum("seed")
    return (x.std("seed", ddof=1) / count**0.5).where(count > 1)


def table(results: xr.Dataset) -> pd.DataFrame:
    """Accuracies after the last epoch: mean and standard error over seeds, per condition."""
    final = results.accuracy.isel(epoch=-1)
    columns = {
        "test accuracy [%]": final.mean("seed"),
        "standard error": standard_error(final),
        "best": final.max("seed"),
        "worst": final.min("seed"),
        "seeds": final.notnull().sum("seed"),
    }
    frame = pd.DataFrame(
        {name: column.values for name, column in columns.items()},
        index=pd.Index(results.label.values, name="condition"),
    )
    return frame.assign(epochs=int(results.epoch[-1]))


def seeds(results: xr.Dataset) -> str:
    """What a curve is, in words."""
    counts = sorted({int(each) for each in results.accuracy.notnull().sum("seed").values.flat})
    if counts == [1]:
        return "one seed"
    return f"mean ± standard error over {' or '.join(map(str, counts))} seeds"


def accuracy(results: xr.Dataset) -> Figure:
    """Test accuracy over epochs: all of it, and its upper end."""
    figure, (whole, upper) = plt.subplots(1, 2, figsize=(8, 3.6))
    lines = curves(whole, results, "accuracy")
    curves(upper, results, "accuracy")
    whole.set_ylabel("test accuracy [%]")
    best = float(results.accuracy.mean("seed").max())
    upper.set_ylim(best - 6, best + 0.5)
    upper.set_title("upper end")
    style.legend_below(figure, lines)
    figure.suptitle(f"{results.attrs['title']}, {seeds(results)}")
    return figure


def draw_accuracy(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw accuracies into a folder, and write the table of the last ones."""
    figure = accuracy(results)
    paths = style.save(figure, folder, "accuracy")
    plt.close(figure)
    return [*paths, style.write(table(results).to_csv(float_format="%.3f"), folder / "table.csv")]
