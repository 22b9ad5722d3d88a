"""The command line that every figure script shares."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tyro
import xarray as xr

from ardyn import ArdynError
from plots.common import run_results


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what ardyn refuses into one sentence on stderr and exit status 2, Ctrl-C into 130."""
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
    """Draw the run folders that the command line names, and list the files."""

    def script(folders: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
        """Draw.

        Args:
            folders: a run; or several that differ in their conditions, for one figure.
            out: where to draw; by default in the (first) run's own folder.
        """
        with refusing():
            results = run_results.together(
                [run_results.results(folder, study) for folder in folders]
            )
            (out or folders[0]).mkdir(parents=True, exist_ok=True)
            for path in draw(results, out or folders[0]):
                print(path)

    tyro.cli(script, description=description)
