"""Means over blocks: a picture at a half, a quarter, … of its size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.types import Pixels


def block_means(pixels: Pixels, halvings: int) -> Pixels:
    """Average (h, w) or (h, w, 3) pixels over blocks of ``2**halvings`` a side, rounded.

    The result is (ceil(h / 2**halvings), …) in the same type; what a last block lacks is taken
    from the edge.
    """
    if not halvings:
        return pixels
    half = np.uint32(4**halvings // 2)
    means: NDArray[Any] = (block_sums(pixels, halvings) + half) >> 2 * halvings
    rounded: Pixels = means.astype(pixels.dtype)  # type: ignore[assignment]
    return rounded


def block_sums(pixels: Pixels, halvings: int) -> NDArray[np.uint32]:
    """Sum over the same blocks, not rounded."""
    side = 2**halvings
    missing = [(0, -n % side) for n in pixels.shape[:2]] + [(0, 0)] * (pixels.ndim - 2)
    whole: NDArray[Any] = np.pad(pixels, missing, mode="edge") if any(map(max, missing)) else pixels
    # row by row, then column by column: ten times as fast as a sum over reshaped axes
    rows = np.zeros((whole.shape[0] // side, *whole.shape[1:]), dtype=np.uint32)
    for i in range(side):
        rows += whole[i::side]
    sums = np.zeros((rows.shape[0], rows.shape[1] // side, *rows.shape[2:]), dtype=np.uint32)
    for i in range(side):
        sums += rows[:, i::side]
    return sums
