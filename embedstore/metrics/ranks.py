"""Metrics of the order that scores put images in: areas under curves, and points on them.

One pass over the images from the highest score to the lowest, for many resamples at a time, in
pieces that stay in the processor's cache.

Of more than 32,768 images that is done for the data as it is. Resamples then take scores in levels,
each of which has at most a 512th of the positives and a 512th of the negatives, and are moved by
what that changes on the data as it is: a millionth of the area is left, far below the spread.
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
MANY, LEVELS = 1 << 15, 512
"""Above so many images, resamples take scores in levels of so many of each sign."""

_TABLE = 1 << 25  # counts by level and patient held at a time
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
        For each x above 0, ``sensitivity@x`` is the highest sensitivity of a threshold whose
        specificity is at least x, and ``specificity@x`` the reverse.

    Returns
    -------
    Mapping
        ``auroc`` (Bamber 1975, equal to Mann-Whitney's U), ``average_precision`` (scikit-learn's
        definition: precision at each threshold, weighted by the gain in recall), and the points:
        (b,) each.
    """
    if len(score) > MANY and len(draws) > 1:
        return _in_levels(positive, score, draws, at)
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


def _in_levels(
    positive: NDArray[np.bool_], score: NDArray[np.floating[Any]], draws: Draws, at: Points
) -> Mapping[str, NDArray[np.float64]]:
    """As `ranked`, for many images: exact on the data as it is, resamples by levels of scores."""
    exact = ranked(positive, score, Draws.once(len(score)), at)
    level, one_score = _levels(positive, score)
    drawn = _by_cell(level * 2 + positive, draws)
    out = {name: np.empty(len(draws)) for name in exact}

    def one(some: slice) -> None:
        by_sign = drawn[:, some].astype(np.float64).reshape(len(one_score), 2, -1)
        found = _of_levels(by_sign[:, 1], by_sign[:, 0], one_score, at)
        for name, values in zip(exact, found, strict=True):
            out[name][some] = values

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(one, draws.blocks(_RESAMPLES)))
    moved = {name: values + (exact[name][0] - values[0]) for name, values in out.items()}
    return {name: np.clip(values, 0, 1) for name, values in moved.items()}


def _levels(
    positive: NDArray[np.bool_], score: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(n,) level of each image, 0 for the highest scores; equal scores are of one level.

    Also whether each level, (l,), holds one score only.
    """
    order = np.argsort(-score, kind="stable")
    new = np.append(True, np.diff(score[order]) != 0)
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    level = np.zeros(len(order), dtype=np.intp)
    for sign in (positive[order], ~positive[order]):
        above = np.append(0, np.cumsum(sign))[first]
        level += above * LEVELS // max(1, int(sign.sum()))
    out = np.empty_like(level)
    out[order] = level
    return out, np.bincount(level[new], minlength=2 * LEVELS + 1) < 2


def _of_levels(
    up: NDArray[np.float64], down: NDArray[np.float64], one_score: NDArray[np.bool_], at: Points
) -> list[NDArray[np.float64]]:
    """Positives and negatives drawn of each level, (l, B) each, to area, precision and points."""
    tp, fp = np.cumsum(up, axis=0), np.cumsum(down, axis=0)
    positives, negatives = tp[-1], fp[-1]
    area = np.einsum("ij,ij->j", up, negatives - fp + down / 2)
    share = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp > 0)
    out = [
        ratio(area, positives * negatives),
        ratio(np.einsum("ij,ij->j", up, share), positives),
    ]
    for x in at:
        # a hair of room: (1 - x) times a count is not exact
        most = _until((1 - x) * negatives + 1e-9, fp, tp, one_score, whole=False)
        least = _until(x * positives - 1e-9, tp, fp, one_score, whole=True)
        known = (positives > 0) & (negatives > 0)
        out += [
            np.where(known, ratio(most, positives), np.nan),
            np.where(known, ratio(negatives - least, negatives), np.nan),
        ]
    return out


def _until(
    most: NDArray[np.float64],
    of: NDArray[np.float64],
    other: NDArray[np.float64],
    one_score: NDArray[np.bool_],
    whole: bool,
) -> NDArray[np.float64]:
    """(B,) how much of the `other` sign is above the threshold where `most` are of the one.

    Both are (l, B) counts that grow from level to level. Between two levels it lies in proportion,
    unless the level is of one score, which is above as a `whole` or not at all.
    """
    found = np.empty(len(most))
    for b in range(len(most)):
        here, there = of[:, b], other[:, b]
        i = min(int(np.searchsorted(here, most[b], "left" if whole else "right")), len(here) - 1)
        below, start = (here[i - 1], there[i - 1]) if i else (0.0, 0.0)
        share = float(whole)
        if not one_score[i]:
            share = (most[b] - below) / max(here[i] - below, 1)  # 0 where the draw has none at all
        found[b] = start + share * (there[i] - start)
    return found


def _by_cell(cell: NDArray[np.intp], draws: Draws) -> NDArray[np.float32]:
    """(n,) cell of each image to (cells, b): how much is drawn in each."""
    cells, p = 2 * (2 * LEVELS + 1), draws.weights.shape[1]
    drawn = np.zeros((cells, len(draws)), dtype=np.float32)
    step = max(1, _TABLE // cells)
    for start in range(0, p, step):
        some = (draws.patient >= start) & (draws.patient < start + step)
        width = min(step, p - start)
        place = cell[some] * width + (draws.patient[some] - start)
        table = np.bincount(place, minlength=cells * width).reshape(cells, width)
        weights = draws.weights[:, start : start + width].T.astype(np.float32)
        drawn += table.astype(np.float32) @ weights
    return drawn


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
    images = _IMAGES * max(1, _RESAMPLES // len(counts))
    # float32 adds whole numbers without error up to 2**24
    exact = np.float32 if counts.sum(axis=1).max() < 2**24 else np.float64
    above = np.zeros((2, len(counts)))  # drawn so far: positives, and all
    area, precision = np.zeros(len(counts)), np.zeros(len(counts))
    best = [(np.zeros(len(counts)), negatives.copy()) for _ in at]
    start = 0
    while start < len(patient):
        stop = int(ends[np.searchsorted(ends, min(start + images, len(patient)))])
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
