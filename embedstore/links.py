"""Things that belong together because they share something, and so on in chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def chained(columns: Sequence[NDArray[Any]]) -> NDArray[np.intp]:
    """Give each set of rows that share a value in some column, in chains, a number: (n,) ints.

    Parameters
    ----------
    columns
        (n,) values each, at least one column; "" is unknown, and links nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, rows, values, offset = len(columns[0]), [], [], len(columns[0])
    for column in columns:
        _, number = np.unique(column, return_inverse=True)
        known = np.arange(n) if column.dtype.kind != "U" else np.flatnonzero(column != "")
        rows.append(known)
        values.append(offset + number[known])
        offset += n
    edges = np.concatenate(rows), np.concatenate(values)
    graph = coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(offset, offset))
    _, component = connected_components(graph, directed=False)
    _, found = np.unique(component[:n], return_inverse=True)
    return found.astype(np.intp)


def joined(rows: NDArray[np.uint8]) -> NDArray[np.void]:
    """(n, w) bytes to (n,) values that are equal where all bytes of the rows are."""
    return np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").reshape(len(rows))
