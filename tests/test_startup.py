"""What neither ``import ardyn`` nor ``--help`` imports: they take little longer than torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("studies", "plots", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)
HEAVY = (
    "h5netcdf",
    "h5py",
    "matplotlib",
    "pandas",
    "requests",
    "scipy",
    "sklearn",
    "torch._dynamo",
    "torch.utils.benchmark",
    "torchdiffeq",
    "xarray",
)
"""Modules that are imported by the functions that use them."""
PROGRAM = """
import contextlib, io, json, runpy, sys
import ardyn

heavy, *scripts = json.loads(sys.argv[1])
loaded = {"ardyn": [name for name in heavy if name in sys.modules]}
for script in scripts:
    sys.argv = [script, "--help"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert "usage" in text.getvalue(), script
    loaded[script] = [name for name in heavy if name in sys.modules]
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Heavy modules present after ``import ardyn``, and after the help of each script in turn."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([HEAVY, *SCRIPTS])]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, list[str]] = json.loads(ended.stdout)
    return found


def test_ardyn_is_imported_without_heavy_modules(loaded):
    assert loaded["ardyn"] == []


def test_every_script_prints_its_help_without_heavy_modules(loaded):
    assert {"studies/convergence.py", "plots/convergence.py", "benchmarks/coupled.py"} < set(
        SCRIPTS
    )
    assert {script: loaded[script] for script in SCRIPTS} == {script: [] for script in SCRIPTS}
