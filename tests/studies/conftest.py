"""Fixtures of the studies that train: a small data set, and the command line."""

import re
import runpy
from pathlib import Path

import pytest

from studies.problems import images
from tests.studies.small_runs import ROOT, some_digits


@pytest.fixture(scope="module")
def digits() -> images.Sets:
    return some_digits()


@pytest.fixture
def study(monkeypatch, capsys):
    """The command line, in this process: exit status, and all that was printed, boxes removed."""

    def command(name: str, *flags: object, out: Path) -> tuple[int, str]:
        argv = [f"{name}.py", *map(str, flags), "--out", str(out)]
        monkeypatch.setattr("sys.argv", argv)
        try:
            runpy.run_path(str(ROOT / f"studies/{name}.py"), run_name="__main__")
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, re.sub(r"[│\s]+", " ", captured.err + captured.out)

    return command
