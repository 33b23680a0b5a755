"""Which values there are and which each row has, for ten million rows as for ten."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW = 64
_LOOKED_AT = 1024


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the distinct values, ascending, and (n,) the number of each row's.

    As ``np.unique(values, return_inverse=True)``, without sorting all rows where few values are.
    """
    some = values[:: max(1, len(values) // _LOOKED_AT)]
    names = np.unique(values) if len(np.unique(some)) <= _FEW else values
    if len(names) > _FEW:
        names, number = np.unique(values, return_inverse=True)
        return names, number.reshape(-1)
    number = np.zeros(len(values), dtype=np.intp)
    for i, name in enumerate(names[1:], 1):
        number[values == name] = i
    return names, number


def same_bytes(rows: NDArray[np.uint8]) -> NDArray[np.intp]:
    """(n, w) bytes to (n,) numbers that are equal where all bytes of the rows are."""
    missing = -rows.shape[1] % 8
    words = np.ascontiguousarray(np.pad(rows, ((0, 0), (0, missing)))).view(np.uint64)
    order = np.lexsort(words.T)
    new = np.zeros(len(rows), dtype=bool)
    for column in words.T:
        sorted_column = column[order]
        new[1:] |= sorted_column[1:] != sorted_column[:-1]
    number = np.empty(len(rows), dtype=np.intp)
    number[order] = np.cumsum(new)
    return number
