"""ROC curves as points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def roc(
    positive: NDArray[np.bool_], score: NDArray[np.floating[Any]]
) -> NDArray[np.float64] | None:
    """Return (m, 2): shares of negatives and of positives at or above each threshold, from 0, 0.

    Points on a line between their neighbours are left out; None where one side is missing.
    """
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-score, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(score[order])), len(order) - 1]
    hits = np.cumsum(positive[order])[ends]
    counts = np.vstack([(0, 0), np.column_stack([ends + 1 - hits, hits])])
    steps = np.diff(counts, axis=0)
    bend = steps[:-1, 0] * steps[1:, 1] != steps[:-1, 1] * steps[1:, 0]
    corners: NDArray[np.float64] = counts[np.r_[True, bend, True]] / counts[-1]
    return corners
