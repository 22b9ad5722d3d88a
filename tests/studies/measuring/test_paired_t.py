"""The test of equivalence, against SciPy's distributions."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from studies.measuring.paired_t import equivalence


def accuracies(differences: list[float]) -> xr.DataArray:
    base = np.linspace(90, 91, len(differences))
    return xr.DataArray(
        [base, base + differences], {"condition": ["exact", "euler"]}, ("condition", "seed")
    )


@pytest.mark.parametrize(
    ("differences", "is_equivalent"),
    [
        ([0.05, -0.1, 0.02, 0.07, -0.04], True),
        ([0.6, 0.7, 0.55, 0.65, 0.62], False),
        ([-0.6, -0.7, -0.55, -0.65, -0.62], False),
        ([2.0, -2.0, 1.5, -1.7, 0.3], False),
    ],
)
def test_two_one_sided_tests(differences, is_equivalent):
    found = equivalence(accuracies(differences), 0.5).sel(compared="euler")
    x = np.array(differences)
    mean, error = x.mean(), x.std(ddof=1) / len(x) ** 0.5
    t = stats.t(len(x) - 1)
    assert float(found.difference) == pytest.approx(mean)
    assert float(found.interval_low) == pytest.approx(mean - t.ppf(0.975) * error)
    assert float(found.interval_high) == pytest.approx(mean + t.ppf(0.975) * error)
    p = max(t.sf((mean + 0.5) / error), t.cdf((mean - 0.5) / error))
    assert float(found.equivalence_p) == pytest.approx(p)
    assert (float(found.equivalence_p) < 0.05) == is_equivalent


def test_no_spread_needs_no_test_and_a_single_seed_has_none():
    alike = equivalence(accuracies([0.25, 0.25]), 0.5)
    assert float(alike.difference[0]) == pytest.approx(0.25)
    assert np.isnan(alike.equivalence_p[0])
    alone = equivalence(accuracies([0.2]), 0.5)
    assert float(alone.difference[0]) == pytest.approx(0.2)
    assert np.isnan(alone.equivalence_p[0])
