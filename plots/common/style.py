"""The look that every figure shares."""

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ardyn import InputError

mpl.use("Agg")
mpl.rcParams.update(
    {
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
)

COLOURS = sns.color_palette("colorblind")
"""Ten colours that colour-blind readers tell apart; black stands for gradients and laws."""
DASHES = [
    "-",
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (4, 1, 1, 1, 1, 1)),
    (0, (2, 2)),
]
"""Line styles, so that curves are told apart in print without colour."""
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*"]


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
    """Colour and line style of a look, without its marker."""
    return {key: look[key] for key in ("color", "linestyle")}


def dots(look: dict[str, object]) -> dict[str, object]:
    """Colour and open marker of a look, without its line."""
    return {key: look[key] for key in ("color", "marker")} | {"linestyle": "", "mfc": "none"}


def handle(name: str, **look: object) -> Line2D:
    """An entry of a legend, for what is drawn by several curves."""
    entry = Line2D([], [], label=name)
    entry.set(**look)
    return entry


def title(figure: Figure, text: str) -> None:
    """A title over the whole figure, its lines broken where they would not fit."""
    letters = int(figure.get_figwidth() / 0.085)  # of 10 points
    lines = []
    for line in text.splitlines():
        marks = len(line) - len(_as_read(line))
        lines += textwrap.wrap(line, letters + marks) if len(line) > letters + marks else [line]
    figure.suptitle("\n".join(lines))


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend for the whole figure, under its panels, in as many columns as fit."""
    longest = max(len(_as_read(str(handle.get_label()))) for handle in handles)
    # A handle and its gaps take about 0.55 inches, a letter of 8 points about 0.065.
    columns = int(figure.get_figwidth() / (0.55 + 0.065 * longest))
    columns = max(1, min(len(handles), columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _as_read(label: str) -> str:
    """A label without the marks of its formulas."""
    return re.sub(r"[{}$_]", "", re.sub(r"\\[a-z]+", "x", label))


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf; each beside, then renamed.

    Raises:
        InputError: a folder that cannot be written.
    """
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        _replace(path, partial(figure.savefig, format=path.suffix[1:]))
    return paths


def write(text: str, path: Path) -> Path:
    """Write a text beside, then rename it.

    Raises:
        InputError: a folder that cannot be written.
    """
    _replace(path, lambda part: part.write_text(text))
    return path


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        make(part)
        part.replace(path)
    except KeyboardInterrupt:
        part.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); copy the folder elsewhere") from error
