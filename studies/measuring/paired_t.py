"""Is a difference smaller than a margin? Paired over seeds."""

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats


def equivalence(final: xr.DataArray, margin: float) -> xr.Dataset:
    """Every condition against the first: mean difference, 95 % interval, two one-sided t tests.

    Args:
        final: accuracy, [condition, seed], in points.
        margin: what counts as equivalent, in points.

    Returns:
        [compared]: "difference", "interval_low", "interval_high", in points, and "equivalence_p",
        the larger of the p values of the two one-sided tests: below 0.05, the conditions are
        equivalent. NaN for a single seed, or where all seeds differ by the same.
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
    if len(difference) < 2 or np.ptp(difference) == 0:  # no spread: t is not defined
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
