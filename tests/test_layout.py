"""How the project lies in its folders, and what it says of its version."""

import re
import tomllib
from pathlib import Path

import pytest

import ardyn

ROOT = Path(__file__).parent.parent
PACKAGES = ["ardyn", "studies", "plots"]


def test_no_public_name_hides_a_module():
    modules = {path.stem for path in (ROOT / "ardyn").rglob("*") if path.suffix in ("", ".py")}
    assert {"relaxation", "network", "files"} <= modules
    assert modules.isdisjoint(ardyn.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_says_what_is_in_it(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert path.read_text().startswith('"""'), path


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_longer_than_its_purpose(package):
    lengths = {p: len(p.read_text().splitlines()) for p in (ROOT / package).rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > 350} == {}


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation
    (date,) = re.findall(r'date-released: "([\d-]+)"', citation)
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert f"{version} ({date})" in headings
