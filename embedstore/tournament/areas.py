"""Areas under ROC curves by sorting alone.

Non-negative floats order as their bits do, so a score and whether its image is a positive fit into
one 32-bit whole number, which numpy sorts with vector instructions: no permutation is carried.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedstore.types import Floats


def areas(scores: Floats, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Area under each row's ROC curve, ties counting half (Mann and Whitney 1947); else NaN.

    Parameters
    ----------
    scores
        (r, n) not below 0, not NaN.
    positive
        (r, n).
    """
    keys = scores.view(np.uint32) << np.uint32(1)
    keys |= positive
    keys.sort(axis=1)
    n = keys.shape[1]
    lowest = (keys & np.uint32(1)).astype(np.float64)
    positives = np.count_nonzero(positive, axis=1)
    ranks = np.einsum("rn,n->r", lowest, np.arange(n, dtype=np.float64))
    wins = ranks - positives * (positives - 1) / 2 - _half_ties(keys)
    pairs = positives * (n - positives)
    area = np.full(len(keys), np.nan)
    np.divide(wins, pairs, out=area, where=pairs > 0)
    return area


def _half_ties(keys: NDArray[np.uint32]) -> NDArray[np.float64]:
    """(r,) half of the pairs of equal score: the sort puts positives above their equals."""
    half = np.zeros(len(keys))
    # between the last negative and the first positive of one score only the label's bit differs
    last = max(1, keys.shape[1] - 1)
    rows, places = np.divmod(np.flatnonzero((keys[:, 1:] ^ keys[:, :-1]) == 1), last)
    for r in np.unique(rows).tolist():
        at = places[rows == r]
        below = at + 1 - np.searchsorted(keys[r], keys[r, at])
        above = np.searchsorted(keys[r], keys[r, at + 1], side="right") - (at + 1)
        half[r] = (below * above).sum() / 2
    return half
