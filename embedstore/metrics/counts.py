"""Metrics of the answers alone, from weighted confusion matrices: (b, k, k) counts to (b,) values.

The true class is the row. A class absent from a resample is left out of means over classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from embedstore.metrics.draws import Draws
from embedstore.metrics.ratio import mean_known, ratio

Counts = NDArray[np.float64]
Values = NDArray[np.float64]


def confusion(
    truth: NDArray[np.intp], answer: NDArray[np.intp], classes: int, draws: Draws
) -> Counts:
    """(b, k, k) weighted counts."""
    cells = draws.counts(truth * classes + answer, classes * classes)
    return cells.reshape(-1, classes, classes)


def accuracy(counts: Counts) -> Values:
    """(b,) share of right answers."""
    return ratio(np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2)))


def recalls(counts: Counts) -> Values:
    """(b, k) share of each class that was found: its sensitivity."""
    return ratio(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2))


def balanced_accuracy(counts: Counts) -> Values:
    """(b,) mean recall over the classes present."""
    return mean_known(recalls(counts))


def f1_scores(counts: Counts) -> Values:
    """(b, k) F1 of each class; NaN for one never answered and never true."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    return ratio(2 * hits, counts.sum(axis=1) + counts.sum(axis=2))


def macro_f1(counts: Counts) -> Values:
    """(b,) mean F1 over the classes; a class never answered and never true is left out."""
    return mean_known(f1_scores(counts))


def _apart(counts: Counts) -> NDArray[np.float64]:
    k = counts.shape[1]
    distance: NDArray[np.float64] = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) * 1.0
    return distance


def _kappa(counts: Counts, cost: NDArray[np.float64]) -> Values:
    n = counts.sum(axis=(1, 2))
    chance = counts.sum(axis=2)[:, :, None] * counts.sum(axis=1)[:, None]
    seen, expected = n * (counts * cost).sum(axis=(1, 2)), (chance * cost).sum(axis=(1, 2))
    # one class true and answered throughout: no disagreement was possible, by chance or otherwise
    share: NDArray[np.float64] = np.where(n > 0, 1.0, np.nan)
    np.divide(seen, expected, out=share, where=expected > 0)
    return 1 - share


def kappa(counts: Counts) -> Values:
    """(b,) Cohen's kappa (Cohen 1960)."""
    return _kappa(counts, (_apart(counts) > 0).astype(np.float64))


def linear_kappa(counts: Counts) -> Values:
    """(b,) Cohen's kappa with linear weights (Cohen 1968), classes in their given order."""
    return _kappa(counts, _apart(counts))


def quadratic_kappa(counts: Counts) -> Values:
    """(b,) Cohen's kappa with quadratic weights (Cohen 1968), classes in their given order."""
    return _kappa(counts, _apart(counts) ** 2)


def within_one(counts: Counts) -> Values:
    """(b,) share of answers at most one class off, in their given order."""
    return ratio((counts * (_apart(counts) <= 1)).sum(axis=(1, 2)), counts.sum(axis=(1, 2)))


def class_error(counts: Counts) -> Values:
    """(b,) mean number of classes that answers are off, in their given order."""
    return ratio((counts * _apart(counts)).sum(axis=(1, 2)), counts.sum(axis=(1, 2)))


FROM_COUNTS: Mapping[str, Callable[[Counts], Values]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "kappa": kappa,
    "linear_kappa": linear_kappa,
    "quadratic_kappa": quadratic_kappa,
    "within_one": within_one,
    "class_error": class_error,
}
OF_EACH_CLASS: Mapping[str, Callable[[Counts], Values]] = {"f1": f1_scores, "recall": recalls}
