"""Small runs of the convergence study, and its command line in this process."""

import re

import torch

from plots.convergence import draw
from studies.convergence import Config, run
from studies.problems import images
from studies.running.command_line import main, training_set
from studies.running.variables import relaxation_summary

DIGITS = images.load("digits", torch.float64)
SMALL = Config(
    solver=("exact", "euler", "dopri5"),
    tau_x=(1.0, 2.0),
    duration=20.0,
    sizes=(64, 12, 10),
    batch_size=6,
    depths=(2, 5),
)
FLAGS = [
    *("--solver", "exact", "euler", "--tau-x", "1", "--duration", "12"),
    *("--sizes", "64", "12", "10", "--batch-size", "6", "--depths", "2", "3"),
]


def study(monkeypatch, *flags):
    """The command line, in this process; returns the exit status."""
    monkeypatch.setattr("sys.argv", ["convergence.py", *map(str, flags)])
    try:
        main(
            "convergence",
            Config,
            lambda c, d, _: run(c, d),
            relaxation_summary,
            draw,
            "",
            training_set,
        )
    except SystemExit as end:
        return end.code
    return 0


def printed_by(capsys):
    """Everything printed, without the boxes around it."""
    captured = capsys.readouterr()
    return re.sub(r"[│\s]+", " ", captured.err + captured.out)
