"""What became of the entries, as text."""

import datetime
import importlib.metadata

from tests.catalogue.judging import Judgement, Verdict, count

VERDICTS: tuple[Verdict, ...] = (
    "right",
    "refused",
    "wrong",
    "raised",
    "no truth",
    "not installed",
)


def summary(judgements: list[Judgement]) -> str:
    """A table of counts by group."""
    counts = count(judgements)
    rows = [[group, *(str(found[v]) for v in VERDICTS)] for group, found in counts.items()]
    rows.append(["all", *(str(sum(each[v] for each in counts.values())) for v in VERDICTS)])
    return _table(["group", *VERDICTS], rows)


def failures(judgements: list[Judgement]) -> str:
    """All that is not right, one a line."""
    return "\n".join(
        f"{each.verdict}: {each.entry.name} ({each.entry.group}): {each.sentence}"
        for each in judgements
        if each.verdict != "right"
    )


def report(judgements: list[Judgement]) -> str:
    """The whole result, in Markdown."""
    rows = [
        [each.entry.name, each.entry.group, str(each.units or ""), each.verdict, each.sentence]
        for each in judgements
    ]
    return "\n\n".join(
        [
            "# Modules",
            "Random weights, float64 unless its name says otherwise, `ardyn.backward(model, "
            "inputs, targets, loss, duration=200)` against `loss.backward()`. *right*: the "
            "gradients of all parameters agree to 1e-6 of their size; *refused*: ardyn says why "
            "it can't. Made by `make catalogue`.",
            f"{datetime.date.today()}; {_versions(judgements)}.",
            summary(judgements),
            _table(["module", "group", "units", "verdict", "why"], rows) + "\n",
        ]
    )


def _versions(judgements: list[Judgement]) -> str:
    names = dict.fromkeys(["ardyn", "torch", *(each.entry.needs for each in judgements)])
    return ", ".join(f"{name} {_version(name)}" for name in names if name)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(each) for each in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
