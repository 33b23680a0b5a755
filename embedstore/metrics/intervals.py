"""95 % intervals from resamples of patients: percentile (Efron and Tibshirani 1993) and BCa.

The interval is for these heads on other patients. It leaves out that other training patients would
have made other heads, and that the heads of a k-fold share theirs, so with k-fold it is too narrow
for the method as such (Bates, Hastie and Tibshirani 2023): with 80 simulated patients, 5 folds and
nominal 95 %, 72 to 90 % held the expected score; of holdouts without signal, 90 to 98 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

_TAILS = (0.025, 0.975)

Interval = tuple[float, float]


def percentile(draws: NDArray[np.float64]) -> Interval:
    """(b,) values, the first being of the data as it is, to the interval; NaN draws left out."""
    known = draws[1:][~np.isnan(draws[1:])]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, _TAILS)
    return float(low), float(high)


def bca(draws: NDArray[np.float64], left_out: NDArray[np.float64]) -> Interval:
    """Bias-corrected and accelerated interval (Efron 1987).

    Parameters
    ----------
    draws
        (b,) values, the first being of the data as it is.
    left_out
        (1 + p,) the same with each patient (or part of them) left out, the first with none.
    """
    known = draws[1:][~np.isnan(draws[1:])]
    one_less = left_out[1:][~np.isnan(left_out[1:])]
    if not len(known) or np.isnan(draws[0]):
        return float("nan"), float("nan")
    below = ((known < draws[0]).mean() + (known <= draws[0]).mean()) / 2
    if not 0 < below < 1 or not len(one_less):
        return percentile(draws)  # as where no resample differs
    bias, pull = ndtri(below), one_less.mean() - one_less
    spread = (pull**2).sum() ** 1.5
    acceleration = (pull**3).sum() / (6 * spread) if spread else 0.0
    shifted = bias + ndtri(_TAILS)
    tails = ndtr(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(known, tails)
    return float(low), float(high)
