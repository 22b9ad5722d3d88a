"""Judge every module of the catalogue: ``python -m tests.catalogue [--save] [--group ...]``."""

import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from tests.catalogue import all_entries
from tests.catalogue.judging import Judgement, judge
from tests.catalogue.report import failures, report, summary

RESULTS = Path(__file__).parents[2] / "results" / "modules.md"


@dataclass(frozen=True)
class Arguments:
    """Relax every module of the catalogue, and compare with backprop."""

    save: bool = False
    """Write results/modules.md."""
    group: list[str] = field(default_factory=list)
    """Only groups whose names contain one of these words."""
    name: list[str] = field(default_factory=list)
    """Only modules whose names contain one of these words."""


def run(arguments: Arguments) -> list[Judgement]:
    """Judge the chosen entries."""
    chosen = [
        entry
        for entry in all_entries()
        if any(word in entry.group for word in arguments.group or [""])
        and any(word in entry.name for word in arguments.name or [""])
    ]
    judgements = []
    with tqdm(chosen, unit="module", disable=None) as progress:
        for entry in progress:
            progress.set_postfix_str(entry.name)
            judgements.append(judge(entry))
    return judgements


def main() -> int:
    """Judge, tell, and fail if a gradient is wrong."""
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    judgements = run(arguments)
    sys.stdout.write(summary(judgements) + "\n\n" + failures(judgements) + "\n")
    if arguments.save:
        RESULTS.write_text(report(judgements))
    return int(any(each.verdict in ("wrong", "raised", "no truth") for each in judgements))


if __name__ == "__main__":
    sys.exit(main())
