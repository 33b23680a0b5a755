"""Metrics of the order that scores put images in: areas under curves, and points on them.

One pass over the images from the highest score to the lowest, for many resamples at a time, in
pieces that stay in the processor's cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.metrics.draws import Draws
from embedstore.metrics.ratio import ratio

_RESAMPLES, _IMAGES = 256, 512  # of one piece
_THREADS = os.cpu_count() or 1

Points = tuple[float, ...]


def ranked(
    positive: NDArray[np.bool_],
    score: NDArray[np.floating[Any]],
    draws: Draws,
    at: Points = (),
) -> Mapping[str, NDArray[np.float64]]:
    """Return the area under the ROC curve, the average precision and points of the ROC curve.

    Ties count half in the area, and are one threshold everywhere. NaN for resamples without a
    positive or a negative (average precision: without a positive).

    Parameters
    ----------
    positive, score
        (n,) each; positives should score high.
    at
        For each x, ``sensitivity@x`` is the highest sensitivity of a threshold whose specificity is
        at least x, and ``specificity@x`` the reverse.

    Returns
    -------
    Mapping
        ``auroc`` (Bamber 1975, equal to Mann-Whitney's U), ``average_precision`` (scikit-learn's
        definition: precision at each threshold, weighted by the gain in recall), and the points:
        (b,) each.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])) + 1, len(score))
    sorted_positive, patient = positive[order], draws.patient[order]
    counts = draws.total(np.stack([positive, ~positive], axis=1))
    names = ["auroc", "average_precision"]
    names += [f"{what}@{x:g}" for x in at for what in ("sensitivity", "specificity")]
    out = {name: np.empty(len(draws)) for name in names}

    def one(some: slice) -> None:
        weights = np.ascontiguousarray(draws.weights[some].T).astype(np.float32)
        found = _walk(weights, patient, sorted_positive, ends, counts[some], at)
        for name, values in zip(names, found, strict=True):
            out[name][some] = values

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(one, draws.blocks(_RESAMPLES)))
    return out


def _walk(
    weights: NDArray[np.float32],
    patient: NDArray[np.intp],
    positive: NDArray[np.bool_],
    ends: NDArray[np.intp],
    counts: NDArray[np.float64],
    at: Points,
) -> list[NDArray[np.float64]]:
    """Walk down the thresholds for some resamples: (p, B) weights, (B, 2) counts."""
    positives, negatives = counts.T
    tied = len(ends) < len(patient)
    # float32 adds whole numbers without error up to 2**24
    exact = np.float32 if counts.sum(axis=1).max() < 2**24 else np.float64
    above = np.zeros((2, len(counts)))  # drawn so far: positives, and all
    area, precision = np.zeros(len(counts)), np.zeros(len(counts))
    best = [(np.zeros(len(counts)), negatives.copy()) for _ in at]
    start = 0
    while start < len(patient):
        stop = int(ends[np.searchsorted(ends, min(start + _IMAGES, len(patient)))])
        drawn = weights[patient[start:stop]].astype(exact, copy=False)
        if tied:
            groups = np.append(0, ends[(ends > start) & (ends < stop)] - start)
            up = np.add.reduceat(drawn * positive[start:stop, None], groups)
            every = np.cumsum(np.add.reduceat(drawn, groups), axis=0)
        else:
            # the points of the curve are at the positives
            up = drawn[positive[start:stop]]
            every = np.cumsum(drawn, axis=0)
        seen = every if tied else every[positive[start:stop]]
        up = up.astype(np.float64)
        tp, drawn_above = np.cumsum(up, axis=0) + above[0], seen + above[1]
        fp = drawn_above - tp
        area += np.einsum("ij,ij->j", up, negatives - fp)
        if tied:  # half of the negatives of the same score
            before = np.concatenate([above[1][None] - above[0], fp[:-1]])
            area += np.einsum("ij,ij->j", up, fp - before) / 2
        share = np.divide(tp, drawn_above, out=np.zeros_like(tp), where=drawn_above > 0)
        precision += np.einsum("ij,ij->j", up, share)
        for x, (most, least) in zip(at, best, strict=True):
            _note(x, tp, fp, positives, negatives, most, least)
        above = np.stack([above[0] + up.sum(axis=0), above[1] + every[-1]])
        start = stop
    out = [ratio(area, positives * negatives), ratio(precision, positives)]
    known = (positives > 0) & (negatives > 0)
    for most, least in best:
        out += [np.where(known, ratio(most, positives), np.nan)]
        out += [np.where(known, ratio(negatives - least, negatives), np.nan)]
    return out


def _note(
    x: float,
    tp: NDArray[np.float64],
    fp: NDArray[np.float64],
    positives: NDArray[np.float64],
    negatives: NDArray[np.float64],
    most: NDArray[np.float64],
    least: NDArray[np.float64],
) -> None:
    """Keep the most positives above a threshold of specificity x, and the fewest negatives."""
    if not len(tp):
        return
    # a hair of room: (1 - x) times a count is not exact
    allowed = fp <= (1 - x) * negatives + 1e-9
    np.maximum(most, np.where(allowed, tp, 0).max(axis=0), out=most)
    enough = tp >= x * positives - 1e-9
    np.minimum(least, np.where(enough, fp, np.inf).min(axis=0), out=least)
