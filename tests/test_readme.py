"""The README's Python example runs as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest


def test_the_example_runs_and_says_the_truth():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    exact, sim = names["exact"], names["sim"]
    assert exact["fc1"].shape == (201, 64, 300)
    assert exact.relative_error()["fc1"][-1] == pytest.approx(0, abs=1e-3)
    assert (names["euler"]["fc1"] - names["as_euler"]["fc1"]).abs().max() < 1e-5
    assert all(p.grad.norm() > 0 for p in names["model"].parameters())
    assert sim.gradients["fc1"].shape == (64, 300)
