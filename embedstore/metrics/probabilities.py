"""Metrics of how sure answers are: log loss, Brier score, expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.metrics.draws import Draws
from embedstore.metrics.ratio import ratio

BINS = 15
_LEAST = np.finfo(np.float64).eps  # as scikit-learn


def log_loss(truth: NDArray[np.intp], p: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(n,) -log of the true class's probability, which counts as 2e-16 at least."""
    sure = p[np.arange(len(truth)), truth].astype(np.float64)
    loss: NDArray[np.float64] = -np.log(np.clip(sure, _LEAST, 1))
    return loss


def brier(truth: NDArray[np.intp], p: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(n,) squared distance from the true class's corner: 0 to 2 (Brier 1950).

    Of two classes half of it, as scikit-learn's ``brier_score_loss`` has it.
    """
    off = p.astype(np.float64)
    off[np.arange(len(truth)), truth] -= 1
    total: NDArray[np.float64] = np.square(off, out=off).sum(axis=1)
    return total / 2 if p.shape[1] == 2 else total


def expected_calibration_error(
    truth: NDArray[np.intp], p: NDArray[np.floating[Any]], draws: Draws
) -> NDArray[np.float64]:
    """(b,) mean difference of confidence and accuracy over 15 bins of equal width.

    Guo et al. 2017 (arXiv 1706.04599); confidence is the largest probability, bins closed on the
    right.
    """
    confidence = p.max(axis=1).astype(np.float64)
    surplus = confidence - (p.argmax(axis=1) == truth)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return ratio(np.abs(draws.sums(bins, BINS, surplus)).sum(axis=1), images(draws))


def images(draws: Draws) -> NDArray[np.float64]:
    """(b,) how many images each resample has."""
    return draws.counts(np.zeros(len(draws.patient), dtype=np.intp), 1)[:, 0]
