"""Results of finished runs: several together, and the table of accuracies."""

import subprocess
import sys
from dataclasses import replace

import pytest

from ardyn import InputError
from plots.common import run_results
from studies.convergence import run as relax
from tests.studies import convergence_runs
from tests.studies.small_runs import ROOT, SMALL, run


def test_runs_of_several_conditions_are_drawn_together(tmp_path, digits):
    runs = []
    for names, seeds in ((("bp", "ar"), (0, 1)), (("c",), (0,))):
        config = replace(SMALL, conditions=names, seeds=seeds, epochs=1)
        runs.append(run(config, digits, tmp_path / names[0]))
    together = run_results.together(runs)
    assert run_results.table(together)["seeds"].tolist() == [2, 2, 1]
    first = runs[0].accuracy.isel(epoch=-1).mean("seed")
    assert run_results.table(together)["test accuracy [%]"].iloc[0] == pytest.approx(
        float(first[0])
    )
    with pytest.raises(InputError, match="differ only in their conditions and seeds"):
        run_results.together([runs[0], runs[0]])
    other = run(replace(SMALL, conditions=("a",), epochs=2), digits, tmp_path / "other")
    with pytest.raises(InputError, match="differ only in their conditions and seeds"):
        run_results.together([runs[0], other])


def test_the_table_holds_means_and_standard_errors(digits, tmp_path):
    results = run(replace(SMALL, conditions=("ar",), seeds=(0, 1, 2)), digits, tmp_path)
    final = results.accuracy.isel(epoch=-1, condition=0).values
    (row,) = run_results.table(results).to_dict("records")
    assert row["test accuracy [%]"] == pytest.approx(final.mean())
    assert row["standard error"] == pytest.approx(final.std(ddof=1) / 3**0.5)
    assert (row["best"], row["worst"]) == (final.max(), final.min())


def test_results_without_a_variable_are_refused(tmp_path):
    results = relax(convergence_runs.SMALL, convergence_runs.DIGITS)
    (tmp_path / "DONE").touch()
    results.drop_vars("cosine").to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"results.nc has no variable cosine; run the study again"):
        run_results.results(tmp_path, "convergence")


def test_an_incomplete_results_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file DONE"):
        run_results.results(tmp_path, "convergence")
    (tmp_path / "DONE").touch()
    (tmp_path / "results.nc").write_bytes(b"half a file")
    with pytest.raises(InputError, match="run the study again"):
        run_results.results(tmp_path, "convergence")


def test_the_plot_script_refuses_a_folder_without_results(tmp_path):
    script = [sys.executable, str(ROOT / "plots/convergence.py"), str(tmp_path)]
    refused = subprocess.run(script, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
