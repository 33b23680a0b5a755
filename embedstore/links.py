"""Things that belong together because they share something, and so on in chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.distinct import distinct


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
    small = np.int32 if n * (len(columns) + 1) < 2**31 else np.int64
    whole: NDArray[np.intp] | None = None
    for column in columns:
        _, number = distinct(column)
        known = np.arange(n) if column.dtype.kind != "U" else np.flatnonzero(column != "")
        if whole is not None and _within(number[known], whole[known]):
            continue  # it links nothing that is not linked
        if whole is None and len(known) == n:
            whole = number
        rows.append(known.astype(small))
        values.append((offset + number[known]).astype(small))
        offset += n
    if whole is not None and len(rows) == 1:
        return _by_first(whole)
    edges = np.concatenate(rows), np.concatenate(values)
    graph = coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(offset, offset))
    _, component = connected_components(graph, directed=False)
    return _by_first(component[:n])


def _within(inner: NDArray[np.intp], outer: NDArray[np.intp]) -> bool:
    """Say whether all rows of one inner number have one outer number."""
    one = np.zeros(int(inner.max(initial=-1)) + 1, dtype=np.intp)
    one[inner] = outer
    return bool((one[inner] == outer).all())


def _by_first(number: NDArray[Any]) -> NDArray[np.intp]:
    """Give new numbers, in the order of the first row of each."""
    _, first, found = np.unique(number, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.intp)
    place[np.argsort(first)] = np.arange(len(first))
    return place[found.reshape(-1)]


def joined(rows: NDArray[np.uint8]) -> NDArray[np.void]:
    """(n, w) bytes to (n,) values that are equal where all bytes of the rows are."""
    return np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").reshape(len(rows))
