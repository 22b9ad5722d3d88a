"""Paired tests of equivalence over seeds: two one-sided t tests (Schuirmann 1987)."""

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats


def equivalence(final: xr.DataArray, margin: float) -> xr.Dataset:
    """Compare every condition with the first.

    Args:
        final: accuracy, [condition, seed], in per cent.
        margin: largest difference that counts as equivalent, in percentage points.

    Returns:
        [compared]: "difference", the mean, with its 95 % confidence interval, "interval_low" to
        "interval_high", in percentage points; and "equivalence_p", the larger p value of the two
        one-sided tests: below 0.05, the conditions are equivalent. All but the mean are NaN for a
        single seed, and where the difference is the same for all seeds.
    """
    first, *others = final.condition.values
    rows = {
        name: _compare((final.sel(condition=name) - final.sel(condition=first)).values, margin)
        for name in others
    }
    if not rows:
        return xr.Dataset()
    return pd.DataFrame(list(rows.values()), pd.Index(rows, name="compared")).to_xarray()


def _compare(difference: np.ndarray, margin: float) -> dict[str, float]:
    mean = float(difference.mean())
    if len(difference) < 2 or np.ptp(difference) == 0:  # the standard deviation is undefined or 0
        return {"difference": mean} | dict.fromkeys(
            ("interval_low", "interval_high", "equivalence_p"), np.nan
        )
    low, high = stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
    above = stats.ttest_1samp(difference, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(difference, margin, alternative="less").pvalue
    return {
        "difference": mean,
        "interval_low": float(low),
        "interval_high": float(high),
        "equivalence_p": float(max(above, below)),
    }
