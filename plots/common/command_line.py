"""The command line of the figure scripts, and exit statuses of errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ardyn import ArdynError
from plots.common import run_results

if TYPE_CHECKING:
    import xarray as xr


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an ArdynError on stderr and exit with status 2; after Ctrl-C, exit with status 130."""
    try:
        yield
    except ArdynError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def main(
    study: str, draw: Callable[[xr.Dataset, Path], list[Path]], description: str | None
) -> None:
    """Draw the runs whose folders are given on the command line, and list the files."""

    def script(folders: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
        """Draw the figures of one or more runs.

        Args:
            folders: Folder of a run; or of several runs with different conditions, which are drawn
                in the same figures.
            out: Folder to write the figures to; by default that of the first run.
        """
        with exit_on_error():
            results = run_results.together(
                [run_results.results(folder, study) for folder in folders]
            )
            (out or folders[0]).mkdir(parents=True, exist_ok=True)
            for path in draw(results, out or folders[0]):
                print(path)

    tyro.cli(script, description=description)
