"""The style that all figures share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardyn.files import written_whole

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_CURE = "copy the folder elsewhere"

SETTINGS = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # fonts embedded as TrueType, so that text stays text
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
}
"""Settings of matplotlib."""
COLOURS = [
    "#0173b2",
    "#de8f05",
    "#029e73",
    "#d55e00",
    "#cc78bc",
    "#ca9161",
    "#fbafe4",
    "#949494",
    "#ece133",
    "#56b4e9",
]
"""Ten colours that colour-blind readers can distinguish, seaborn's "colorblind"; references and
predictions are black."""
DASHES = [
    "-",
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (4, 1, 1, 1, 1, 1)),
    (0, (2, 2)),
]
"""Line styles, so that curves can be distinguished in print without colour."""
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*"]


def subplots(*shape: int, **options: Any) -> tuple[Figure, Any]:
    """A figure in this style and its panels; arguments of ``matplotlib.pyplot.subplots``."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    plt.style.use(SETTINGS)
    return plt.subplots(*shape, **options)


def of(names: Iterable[str]) -> dict[str, dict[str, object]]:
    """Colour, line style and marker of each name, in order."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[i % len(DASHES)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        for i, name in enumerate(names)
    }


def line(look: dict[str, object]) -> dict[str, object]:
    """Colour and line style of a curve, without its marker."""
    return {key: look[key] for key in ("color", "linestyle")}


def dots(look: dict[str, object]) -> dict[str, object]:
    """Colour and open marker of a curve, without its line."""
    return {key: look[key] for key in ("color", "marker")} | {"linestyle": "", "mfc": "none"}


def handle(name: str, **look: object) -> Line2D:
    """A legend entry that stands for several curves."""
    from matplotlib.lines import Line2D

    entry = Line2D([], [], label=name)
    entry.set(**look)
    return entry


def title(figure: Figure, text: str) -> None:
    """A title above all panels; lines longer than the figure is wide are wrapped."""
    letters = int(figure.get_figwidth() / 0.085)  # inches per letter, at 10 points
    lines = []
    for line in text.splitlines():
        marks = len(line) - len(_without_tex(line))
        lines += textwrap.wrap(line, letters + marks) if len(line) > letters + marks else [line]
    figure.suptitle("\n".join(lines))


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend below all panels, in as many columns as fit."""
    longest = max(len(_without_tex(str(handle.get_label()))) for handle in handles)
    # A handle and its gaps take about 0.55 inches, a letter of 8 points about 0.065.
    columns = int(figure.get_figwidth() / (0.55 + 0.065 * longest))
    columns = max(1, min(len(handles), columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _without_tex(label: str) -> str:
    """A label without its TeX commands, to estimate its printed width."""
    return re.sub(r"[{}$_]", "", re.sub(r"\\[a-z]+", "x", label))


def draw_each(
    figures: Mapping[str, Callable[[xr.Dataset], Figure]], results: xr.Dataset, folder: Path
) -> list[Path]:
    """Draw figures of the same results, one at a time, and save each under its name."""
    import matplotlib.pyplot as plt

    paths = []
    for name, figure_of in figures.items():
        figure = figure_of(results)
        paths += save(figure, folder, name)
        plt.close(figure)
    return paths


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf, each completely or not at all.

    Raises:
        InputError: a folder that cannot be written.
    """
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        with written_whole(path, _CURE) as part:
            figure.savefig(part, format=path.suffix[1:])
    return paths


def write(text: str, path: Path) -> Path:
    """Write a text file, completely or not at all.

    Raises:
        InputError: a folder that cannot be written.
    """
    with written_whole(path, _CURE) as part:
        part.write_text(text)
    return path
