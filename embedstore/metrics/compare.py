"""Is one better than the other? Effects with intervals, patients kept together throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom, rankdata

from embedstore.errors import DataError
from embedstore.metrics.intervals import Interval, bca, percentile

_DIRECT = 1 << 28  # products: a tenth of a second


@dataclass(frozen=True, slots=True)
class Difference:
    """One contender's value less another's: interval, and two-sided p."""

    value: float
    low: float
    high: float
    bca: Interval
    p: float


def difference(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    one_left_out: NDArray[np.float64],
    other_left_out: NDArray[np.float64],
) -> Difference:
    """Subtract two contenders draw by draw: the paired patient bootstrap.

    p is twice the smaller tail beyond 0, each counted with the data as it is, so that it is never
    0 (Davison and Hinkley 1997, section 4.2).

    Parameters
    ----------
    one, other
        (b,) values of one metric on the same draws, the first of the data as it is.
    one_left_out, other_left_out
        (1 + p,) the same by jackknife.
    """
    draws = one - other
    known = draws[1:][~np.isnan(draws[1:])]
    tail = 1 + min(int((known <= 0).sum()), int((known >= 0).sum()))
    low, high = percentile(draws)
    return Difference(
        float(draws[0]),
        low,
        high,
        bca(draws, one_left_out - other_left_out),
        min(1.0, 2 * tail / (1 + len(known))),
    )


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """Correct p values for their number (Holm 1979): step down, never falling."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)
    factor = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factor), 1)
    return corrected


@dataclass(frozen=True, slots=True)
class Areas:
    """Two areas under ROC curves, their difference with its 95 % interval, and two-sided p."""

    one: float
    other: float
    value: float
    low: float
    high: float
    p: float


def delong(
    positive: NDArray[np.bool_],
    one: NDArray[np.floating[Any]],
    other: NDArray[np.floating[Any]],
    groups: NDArray[Any],
) -> Areas:
    """Compare two areas by the variance of their structural components, patient by patient.

    DeLong, DeLong and Clarke-Pearson 1988, by midranks (Sun and Xu 2014); with several images of
    a patient in the form of Obuchowski 1997, which is DeLong's where each has one.

    Parameters
    ----------
    positive, one, other, groups
        (n,) each: truth, two scores, and what must stay together.

    Raises
    ------
    DataError
        Fewer than two patients have a positive, or a negative.
    """
    _, cluster = np.unique(groups, return_inverse=True)
    holding = [np.unique(cluster[positive == sign]) for sign in (True, False)]
    if min(map(len, holding)) < 2:
        raise DataError("two areas are compared from two patients with and two without on")
    theta, v10, v01 = zip(*(_components(positive, s) for s in (one, other)), strict=True)
    m, n, total = int(positive.sum()), int((~positive).sum()), int(cluster.max()) + 1
    ups, downs = np.zeros((2, total)), np.zeros((2, total))
    for which in (0, 1):
        np.add.at(ups[which], cluster[positive], v10[which] - theta[which])
        np.add.at(downs[which], cluster[~positive], v01[which] - theta[which])
    # 1 / m of each component's mean, and a correction for few patients
    up = ups / m * np.sqrt(len(holding[0]) / (len(holding[0]) - 1))
    down = downs / n * np.sqrt(len(holding[1]) / (len(holding[1]) - 1))
    cross = (ups / m) @ (downs / n).T * total / (total - 1)
    covariance = up @ up.T + down @ down.T + cross + cross.T
    value = theta[0] - theta[1]
    error = float(np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    p = float(2 * ndtr(-abs(value) / error)) if error else float(value == 0)
    half = float(ndtri(0.975)) * error
    return Areas(theta[0], theta[1], value, value - half, value + half, p)


def _components(
    positive: NDArray[np.bool_], score: NDArray[np.floating[Any]]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Area, and how much of the other side each positive beats, and each negative is beaten by."""
    m, n = int(positive.sum()), int((~positive).sum())
    whole = rankdata(score)
    beats = (whole[positive] - rankdata(score[positive])) / n
    beaten = 1 - (whole[~positive] - rankdata(score[~positive])) / m
    return float(beats.mean()), beats, beaten


@dataclass(frozen=True, slots=True)
class Discordance:
    """Images that only one contender answered right, and two-sided p."""

    only_one: int
    only_other: int
    p: float


def mcnemar(
    one_right: NDArray[np.bool_], other_right: NDArray[np.bool_], groups: NDArray[Any]
) -> Discordance:
    """Compare two accuracies by what only one answered right, (n,) each; exact, by patient.

    Where nothing is between them, a patient's surplus is as likely for the one as for the other:
    p is the share of all such swaps that give a surplus as large. With one image a patient that is
    McNemar's exact test (McNemar 1947).
    """
    _, cluster = np.unique(groups, return_inverse=True)
    surplus = np.bincount(cluster, one_right.astype(float) - other_right).astype(int)
    sizes = np.abs(surplus[surplus != 0])
    share = np.ones(1)  # of each sum of the sizes of some patients, from 0 to that of all
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        own = np.zeros(size * count + 1)  # patients of one size at once: a binomial's
        own[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        if len(share) * len(own) < _DIRECT:  # which keeps the smallest p exact
            share = np.convolve(share, own)
        else:
            from scipy.signal import fftconvolve

            share = np.maximum(fftconvolve(share, own), 0)
    most = int(sizes.sum())
    far = np.abs(2 * np.arange(most + 1) - most) >= abs(int(surplus.sum()))
    only_one, only_other = (one_right & ~other_right).sum(), (other_right & ~one_right).sum()
    return Discordance(int(only_one), int(only_other), min(1.0, float(share[far].sum())))


def p_value(p: float) -> str:
    """Write a p value as journals do; a dash where it is unknown."""
    if isnan(p):
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
