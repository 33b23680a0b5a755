"""Areas under ROC curves by sorting alone.

Non-negative floats order as their bits do, so a score and whether its image is a positive fit into
one 32-bit whole number, which numpy sorts with vector instructions: no permutation is carried.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedstore.types import Floats


def areas(scores: Floats, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Area under each row's ROC curve, ties counting half (Mann and Whitney 1947).

    Parameters
    ----------
    scores
        (v, r, n) not below 0, not NaN.
    positive
        (r, n).

    Returns
    -------
    NDArray
        (v, r); NaN where there is no positive or no negative.
    """
    keys = scores.view(np.uint32) << np.uint32(1)
    keys |= positive
    keys.sort(axis=2)
    n = keys.shape[2]
    lowest = (keys & np.uint32(1)).astype(np.float64)
    positives = np.count_nonzero(positive, axis=1)
    ranks = np.einsum("vrn,n->vr", lowest, np.arange(n, dtype=np.float64))
    half = _half_ties(keys.reshape(-1, n)).reshape(ranks.shape)
    wins = ranks - positives * (positives - 1) / 2 - half
    pairs = np.broadcast_to(positives * (n - positives), wins.shape)
    area = np.full(wins.shape, np.nan)
    np.divide(wins, pairs, out=area, where=pairs > 0)
    return area


def _half_ties(keys: NDArray[np.uint32]) -> NDArray[np.float64]:
    """(r,) half of the pairs of equal score: the sort puts positives above their equals."""
    # between the last negative and the first positive of one score only the label's bit differs
    edges = np.flatnonzero((keys[:, 1:] ^ keys[:, :-1]) == 1)
    rows, at = np.divmod(edges, max(1, keys.shape[1] - 1))
    more = keys[rows, np.maximum(at - 1, 0)] == keys[rows, at]
    more |= keys[rows, np.minimum(at + 2, keys.shape[1] - 1)] == keys[rows, at + 1]
    half = np.bincount(rows, minlength=len(keys)) / 2
    for r, i in zip(rows[more].tolist(), at[more].tolist(), strict=True):
        below = i + 1 - np.searchsorted(keys[r], keys[r, i])
        above = np.searchsorted(keys[r], keys[r, i + 1], side="right") - (i + 1)
        half[r] += (below * above - 1) / 2
    return half
