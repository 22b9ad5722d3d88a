"""README and documentation: their code runs, their commands parse, their links exist."""

import csv
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pytest
import torch
from scipy.special import gammainc
from torch import Tensor

import ardyn
from studies.running.command_line import Options, parse
from studies.running.run_folder import read_config
from tests.oracles.problems import assert_same, difference

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "results/README.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
STUDIES = sorted(path.stem for path in ROOT.glob("studies/*.py") if path.stem != "__init__")
CONFIGURATIONS = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("results/*/config*.json"))
LANGUAGES = {"python", "sh", "text"}


class Block(NamedTuple):
    """A fenced code block."""

    language: str
    line: int
    """The number of its opening fence."""
    code: str


def split(page: str) -> tuple[list[tuple[int, str]], list[Block]]:
    """The numbered lines of a page outside its fenced code blocks, and these blocks."""
    prose, blocks, opened = list[tuple[int, str]](), list[Block](), None
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        if line.lstrip().startswith("```"):
            if opened is None:
                opened, code = Block(line.strip().removeprefix("```"), number, ""), list[str]()
            else:
                blocks.append(opened._replace(code="\n".join(code)))
                opened = None
        elif opened is None:
            prose.append((number, line))
        else:
            code.append(line)
    assert opened is None, f"{page}:{opened.line} is not closed"
    return prose, blocks


def text(page: str) -> str:
    return "\n".join(line for _, line in split(page)[0])


@cache
def run(page: str) -> dict[str, Any]:
    """The names that the Python code of a page defines, its blocks run in order."""
    names: dict[str, Any] = {"__name__": "document"}
    for block in split(page)[1]:
        if block.language == "python":
            # Empty lines before the code, so that a traceback gives the line of the page.
            exec(compile("\n" * block.line + block.code, page, "exec"), names)
    return names


def commands(page: str) -> Iterator[list[str]]:
    """Every command of the shell blocks, and of inline code that begins with a script of ours."""
    for block in split(page)[1]:
        if block.language == "sh":
            for line in block.code.splitlines():
                if words := shlex.split(line, comments=True):
                    yield words
    for code in re.findall(r"`((?:studies|plots)/\w+\.py .*?)`", text(page).replace("\n", " ")):
        yield [".venv/bin/python", *shlex.split(code)]


def flags(kind: Any) -> set[str]:
    """The flags that a dataclass of settings has on the command line."""
    names = {field.name.replace("_", "-") for field in fields(kind)}
    types = get_type_hints(kind)
    switches = {f"--no-{name.replace('_', '-')}" for name in types if types[name] is bool}
    return {f"--{name}" for name in names} | switches


def slug(heading: str) -> str:
    """The anchor that a forge gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_code_block_is_fenced_and_has_a_language(page):
    prose, blocks = split(page)
    assert [b.line for b in blocks if b.language not in LANGUAGES] == []
    assert [number for number, line in prose if line.startswith(("    ", "\t"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_python_code_runs(page):
    run(page)


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_exist(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            other = str(target.resolve().relative_to(ROOT))
            headings = [line.lstrip("#").strip() for _, line in split(other)[0] if line[:1] == "#"]
            assert anchor in map(slug, headings), link


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_exist_and_their_flags_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # configurations are given relative to it
    targets = re.findall(r"^(\w+):", Path("Makefile").read_text(), re.MULTILINE)
    for command in commands(page):
        if command[0] == "make":
            assert command[1] in targets, command
            continue
        python, script, *arguments = command
        assert python == ".venv/bin/python", command
        assert Path(script).exists(), command
        folder, study = Path(script).parts[0], Path(script).stem
        if folder == "studies" and "--help" not in arguments:
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            parse(importlib.import_module(f"studies.{study}").Config, "")
        elif folder == "plots":
            assert not any(argument.startswith("-") for argument in arguments), command


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_is_named_exists(page):
    known = {"--help", *flags(Options)}
    for study in STUDIES:
        known |= flags(importlib.import_module(f"studies.{study}").Config)
    for code in re.findall(r"`([^`]+)`", text(page)):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            assert flag in known, flag


def test_a_wrong_flag_would_be_found(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["studies/convergence.py", "--solvers", "exact"])
    with pytest.raises(SystemExit):
        parse(importlib.import_module("studies.convergence").Config, "")


@pytest.mark.parametrize("path", CONFIGURATIONS)
def test_every_configuration_that_is_kept_can_be_run_again(path):
    folder = Path(path).parent
    study = next(each for each in STUDIES if folder.name.replace("-", "_").startswith(each))
    assert read_config(ROOT / path, importlib.import_module(f"studies.{study}").Config)
    given = str(folder) if Path(path).name == "config.json" else path
    run_again = [".venv/bin/python", f"studies/{study}.py", "--config", given]
    assert run_again in list(commands("results/README.md"))


def test_every_accuracy_in_the_tables_is_one_that_is_kept():
    """Mean and standard error, in both directions, to the two digits that are shown."""
    rows = [
        tuple(map(float, row[1:3]))
        for path in ROOT.glob("results/*/table.csv")
        for row in list(csv.reader(path.read_text().splitlines()))[1:]
    ]
    page = (ROOT / "results/README.md").read_text()
    table = "".join(line for line in page.splitlines() if line.startswith("|"))
    shown = [tuple(map(float, pair)) for pair in re.findall(r"(\d+\.\d\d) ± (\d+\.\d\d)", table)]
    for found, others in ((rows, shown), (shown, rows)):
        for mean, error in found:
            near = [abs(m - mean) < 0.006 and abs(e - error) < 0.006 for m, e in others]
            assert any(near), (mean, error)


def test_the_readme_is_a_front_page():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    first = split("README.md")[1][0].code.splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make convergence", "make test"]


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def backprop_gradients(
    model: torch.nn.Module, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """∂𝓛/∂W of Σ (x − t)², by autograd."""
    value = (model(inputs) - targets).square().sum()
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(value, list(named.values())), strict=True))


def test_readme_activities_converge_to_the_gradients():
    names = run("README.md")
    exact, sim = names["exact"], names["sim"]
    assert exact["fc1"].shape == (201, 64, 300)
    assert sim.gradients["fc1"].shape == (64, 300)
    assert float(names["error"][-1]) < 1e-4
    assert relative(names["adaptive"]["fc1"], exact["fc1"]) < 1e-4
    assert 1e-4 < relative(names["euler"]["fc1"], exact["fc1"]) < 0.1
    error, time = names["error"], float(names["converged_at"])
    assert float(error[int(time * 10)]) > 1e-3 > float(error[int(time * 10) + 1])
    assert all(p.grad.norm() > 0 for p in names["model"].parameters())


def test_convergence_the_dataset_holds_what_the_page_says():
    results = run("docs/convergence.md")["results"]
    page = (ROOT / "docs/convergence.md").read_text()
    table = page.split("| variable | meaning |")[1]
    named = {
        n
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for n in re.findall(r"`(\w+)`", row)
    }
    moving = {"bp_error", "bp_lag", "g_error", "g_lag"}
    assert named - moving <= set(results.variables)
    assert moving <= named
    error = results.convergence_time.sel(solver="rk4") - results.predicted_time
    assert float(abs(error).max()) < 1e-2
    assert results.relative_error.sel(solver="rk4", tau_x=1.0, layer="fc1").dims == ("time",)


def test_convergence_the_figures_are_those_that_are_drawn():
    convergence, lag = (
        importlib.import_module(f"plots.{n}") for n in ("convergence", "common.lag")
    )
    table = (ROOT / "docs/convergence.md").read_text().split("| figure | shows |")[1]
    rows = "".join(re.findall(r"^\| (`.*?) \|", table.split("\n\n")[0], re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", rows)) == {*convergence.FIGURES, *lag.FIGURES}


def test_networks_any_module_converges_to_its_gradients():
    names = run("docs/networks.md")
    assert names["trajectory"].units[-1] == "read"
    assert {"embed", "layer.norm1", "layer.linear2"} <= set(names["trajectory"].units)
    assert all(float(e[-1]) < 1e-6 for e in names["trajectory"].relative_error().values())
    units = list(names["unrolled"].gradients)
    assert units[:4] == ["cell.0", "cell.1", "cell_1.0", "cell_1.1"]
    assert "cell_2.1" in units
    slowest = max(float(t) for t in names["unrolled"].exact_convergence_time(1e-2).values())
    assert slowest == pytest.approx(36, abs=2)
    first = run("README.md")
    chain = ardyn.Relaxation(first["model"], first["inputs"], first["targets"])
    assert float(chain.exact_convergence_time(1e-2)["fc1"]) == pytest.approx(10, abs=1)


def test_networks_each_layer_has_its_rule():
    simplified = run("docs/networks.md")["simplified"]
    assert float(simplified.relative_error("equilibrium")["conv1"][-1]) < 1e-8
    assert float(simplified.cosine("gradients")["conv1"][-1]) < 0.9


def test_rules_the_closed_form_is_the_ode_and_the_schemes():
    names = run("docs/rules-and-solvers.md")
    for scheme, closed in (("euler", "as_euler"), ("sweep", "as_sweep")):
        for unit in names["exact"].units:
            assert difference(names[closed][unit], names[scheme][unit]) < 1e-12
    assert relative(names["adaptive"]["fc1"], names["exact"]["fc1"]) < 1e-6
    assert names["euler"].evaluations == 200
    assert bool((names["steady"].steady_at < 100).all())
    truth = run("docs/rules-and-solvers.md")["sim"].gradients["fc1"]
    assert relative(names["steady"]["fc1"][-1], truth) < 1e-4


def test_rules_feedback_weights_have_a_fixed_point_of_their_own():
    aligned = run("docs/rules-and-solvers.md")["aligned"]
    assert float(aligned.relative_error("equilibrium")["fc1"][-1]) < 1e-8
    assert float(aligned.relative_error("gradients")["fc1"][-1]) > 0.5


def test_rules_the_law_of_depth():
    names = run("docs/rules-and-solvers.md")
    assert names["law"] == pytest.approx([13.1, 22.7, 74.7], abs=0.05)
    assert 100 * (1 - gammainc(4, 10)) == pytest.approx(1.0, abs=0.05)
    ratio = names["from_zero"].norm_ratio()["fc1"]
    assert (
        difference(ratio, torch.from_numpy(gammainc(3, names["times"][1:].double().numpy()))) < 1e-6
    )
    assert difference(names["from_zero"].cosine()["fc1"], torch.ones(200)) < 1e-12


def test_training_a_seed_learns_the_same_beside_others_as_alone():
    names = run("docs/training.md")
    alone = ardyn.mlp(
        [20, 30, 10, 5], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    learner = ardyn.Learner(alone, torch.optim.SGD(alone.parameters(), lr=0.0005))
    start = float(ardyn.evaluate(alone, names["inputs"], names["targets"])[0])
    for epoch in range(1, 4):
        for rows in ardyn.batches(160, 32, [0], epoch):
            learner.step(names["inputs"][rows], names["targets"][rows])
    assert_same(dict(names["first"].named_parameters()), dict(alone.named_parameters()), 1e-10)
    assert names["loss"].shape == names["accuracy"].shape == (3,)
    assert float(names["loss"][0]) < start
    assert all(each.grad is not None for block, each in names["psi"].items() if block != "fc1")


def test_plasticity_the_window_and_the_quasi_static_limit():
    names = run("docs/plasticity.md")
    weights = names["trajectory"].learned.weights["fc1.weight"]
    assert weights.shape == (3, 30, 20)
    assert difference(weights[0], names["still"].model.fc1.weight.detach()) > 0  # trained since
    assert float((weights[1] - weights[0]).norm()) > 0
    assert relative(1e6 * names["change"], names["limit"]) < 1e-3
    g = names["settled"]
    assert relative(names["trajectory"]["fc1"][-1], g[-1]) < relative(
        names["trajectory"]["fc1"][0], g[0]
    )
    assert names["mean"].weights["fc1.weight"].shape == (2, 30, 20)
    assert float(names["losses"][-1]) < float(names["losses"][0])


def test_extending_each_example_against_what_is_built_in():
    names = run("docs/extend.md")
    for unit in names["built_in"].units:
        assert difference(names["by_heun"][unit], names["built_in"][unit]) < 1e-12
        assert difference(names["at_once"][unit], names["built_in"][unit]) < 1e-12
    with pytest.raises(ardyn.InputError, match="does not stop"):
        names["sim"].solve([1.0], names["Heun"](0.1), stop=ardyn.SteadyState())
    with pytest.raises(ardyn.InputError, match="unstable"):
        names["sim"].solve([1.0], ardyn.ClosedForm(names["HeunScheme"](2.5)))


def test_extending_a_solver_moves_weights_too():
    names = run("docs/extend.md")
    sim = ardyn.Relaxation(
        names["model"], names["inputs"], names["targets"], plasticity=ardyn.Plasticity(100.0)
    )
    found, truth = (
        sim.solve([2.0], solver).learned
        for solver in (names["Heun"](0.1), ardyn.Fixed("heun2", 0.1))
    )
    assert found is not None
    assert truth is not None
    assert_same(found.weights, truth.weights, 1e-12)


def test_extending_the_layer_has_the_gradients_of_backprop_and_its_own_rule():
    names = run("docs/extend.md")
    model = names["excitatory"]
    truth = backprop_gradients(model, names["inputs"], names["targets"])
    assert_same({name: p.grad for name, p in model.named_parameters()}, truth, 1e-10)
    fixed = names["fixed"]
    assert isinstance(fixed.network.block["0"].layer, names["ExcitatoryRule"])
    slope = 1 - fixed.dynamics.forward_pass.activity["2"].square()
    expected = (fixed.equilibrium["2"] * slope) @ names["psi"].mT
    assert relative(fixed.equilibrium["0"], expected) < 1e-10


def test_extending_a_plasticity_replaces_equation_2():
    names = run("docs/extend.md")
    usual, W = names["usual"], names["model"].fc1.weight.detach()
    assert float(names["conserving"].sum(1).abs().max()) < 1e-6 * float(usual.abs().max())
    assert relative(names["conserving"], usual - usual.mean(1, keepdim=True)) < 1e-4
    assert relative(names["bounded"], (1 - W.square()) * usual) < 1e-4
    assert relative(names["bounded"], usual) > 1e-4
