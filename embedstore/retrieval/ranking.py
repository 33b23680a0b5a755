"""Everything there is to find, most alike first: exact, in blocks of bounded memory.

A cosine and its row are packed into one whole number, the cosine's bits before the row, so that
sorting numbers breaks ties by row: the lower row first, in every run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.errors import DataError
from embedstore.types import Floats

CELLS = 1 << 23
"""Cosines held at a time; with what sorting and counting them takes, under 1 GB."""

_ROW = 0xFFFFFFFF


def rankings(
    queries: Floats,
    corpus: Floats,
    apart: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Yield some queries at a time, (b, n) rows of the corpus in order, of falling cosine.

    Parameters
    ----------
    queries, corpus
        (q, d) and (n, d) float32 unit vectors; a vector of zeros has cosine 0 to all.
    apart
        (q,) and (n,) numbers: rows with the query's own number come last, in no order that means
        anything.

    Raises
    ------
    DataError
        Vectors hold NaN or infinity.
    """
    if not (np.isfinite(queries).all() and np.isfinite(corpus).all()):
        raise DataError("vectors hold NaN or infinity; they have no neighbours")
    lying = torch.as_tensor(np.ascontiguousarray(corpus)).T
    for start in range(0, len(queries), step := max(1, CELLS // len(corpus))):
        part = slice(start, min(start + step, len(queries)))
        cosines = (torch.as_tensor(np.ascontiguousarray(queries[part])) @ lying).numpy()
        if apart is not None:
            cosines[apart[0][part, None] == apart[1]] = -np.inf
        yield part, _falling(cosines)


def _falling(cosines: Floats) -> NDArray[np.int64]:
    """(b, n) columns in order of falling value, the first of equals first; writes over it."""
    np.subtract(0, cosines, out=cosines)  # from 0, which leaves no -0 to sort before 0
    bits = cosines.view(np.int32)
    flip = bits >> 31
    flip &= 0x7FFFFFFF
    bits ^= flip  # floats below 0 fall as their bits rise
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(cosines.shape[1])
    keys.sort(axis=1)
    keys &= _ROW
    return keys
