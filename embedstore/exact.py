"""Exact nearest neighbours by cosine: a product of blocks, and ever fewer cosines that still count.

FAISS' flat index ranks every cosine of a block. Here a block is first compared with the worst that
each query has so far, which few pass, so that nearly all the time is the product's. Where the
processor multiplies faster in bfloat16, that is done first (`rough`), and what may pass is computed
in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.rough import Rough, suits
from embedstore.types import Floats

QUERIES, ROWS = 512, 8192
"""Queries and rows of one product: 16 MB of cosines."""

_FIRST = 256  # rows of the first block, of which all pass
_SINGLE = 3  # queries for which copying the rows to choose from would take longest
_PAIRS = 1 << 15  # cosines computed one by one at a time: 64 MB of vectors of 512

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be answered, held while searching, so that k asked is k given.

    Attributes
    ----------
    among
        Ascending rows to choose from; None for all.
    sets, barred
        (n,) number of the set each row is of, and (m, b) numbers of sets that have no say for each
        query; -1 is none.
    one_of
        (n,) numbers, such as of patients: only the best row of each is answered.
    """

    among: Rows | None = None
    sets: Rows | None = None
    barred: Rows | None = None
    one_of: Rows | None = None

    def of(self, queries: slice | Rows) -> Rules:
        """Return the rules of some of the queries."""
        barred = None if self.barred is None else self.barred[queries]
        return Rules(self.among, self.sets, barred, self.one_of)

    def allowed(self, query: Rows, row: Rows) -> NDArray[np.bool_]:
        """(c,): whether each row is of no set that is barred for the query beside it."""
        if self.sets is None or self.barred is None:
            return np.ones(len(row), dtype=bool)
        clear: NDArray[np.bool_] = (self.sets[row][:, None] != self.barred[query]).all(axis=1)
        return clear


def nearest(
    queries: Floats,
    vectors: NDArray[np.floating[Any]],
    k: int,
    inverse: Floats | None = None,
    rules: Rules | None = None,
) -> tuple[Floats, Rows]:
    """Find the `k` rows of `vectors` most alike to each query, best first; ties by row.

    Parameters
    ----------
    queries
        (m, d) float32 unit vectors.
    vectors
        (n, d) float32 or float16, perhaps memory-mapped: read once for every 512 queries.
    inverse
        (n,) float32: what makes each of `vectors` a unit vector; None where they are.

    Returns
    -------
    tuple
        Cosines (m, k) float32 and rows (m, k); -inf and -1 where fewer than `k` may be answered.
    """
    rules = rules or Rules()
    cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.intp)
    for start in range(0, len(queries), QUERIES):
        some = slice(start, start + QUERIES)
        best = Best(cosines[some], rows[some], rules.of(some))
        asked = np.ascontiguousarray(queries[some])
        quick = suits(len(asked), len(vectors), vectors.shape[1])
        rough = Rough(asked, ROWS) if quick else None
        if rules.among is not None and len(asked) <= _SINGLE and whole(vectors):
            _take_single(best, asked, vectors, rules.among, inverse)
            continue
        for at, block in _blocks(vectors, rules.among):
            if rough is not None and np.isfinite(best.cosines[:, -1]).any():
                _take_rough(best, rough, asked, at, block, inverse)
                continue
            found = block @ asked.T  # quicker than the other way for few queries
            if inverse is not None:
                found *= inverse[at][:, None]
            best.take(found, at)
    return np.clip(cosines, -1, 1, out=cosines, where=rows >= 0), rows


def _take_single(
    best: Best, queries: Floats, vectors: Floats, among: Rows, inverse: Floats | None
) -> None:
    """Compare few queries with the rows to choose from, where these lie."""
    for start, end in _spans(len(among)):
        at = among[start:end]
        found = products(queries, vectors, np.tile(at, (len(queries), 1))).T
        best.take(found if inverse is None else found * inverse[at][:, None], at)


def _take_rough(
    best: Best,
    rough: Rough,
    queries: Floats,
    at: slice | Rows,
    block: Floats,
    inverse: Floats | None,
) -> None:
    """Compute those cosines of a block that may count, piece by piece, and merge them."""
    lengths = None if inverse is None else inverse[at]
    lines, numbers, unit = rough.above(block, lengths, best.cosines[:, -1])
    for start in range(0, len(lines), _PAIRS):
        line, query = lines[start : start + _PAIRS], numbers[start : start + _PAIRS]
        cosine = np.einsum("cd,cd->c", unit[line], queries[query])
        best.take_some(line, query, cosine, at)


def _blocks(
    vectors: NDArray[np.floating[Any]], among: Rows | None
) -> Iterator[tuple[slice | Rows, Floats]]:
    """Yield rows and their vectors, the first few rows alone; a copy only where it must be."""
    total = len(vectors) if among is None else len(among)
    for start, end in _spans(total):
        at: slice | Rows = slice(start, end)
        if among is not None:
            at = among[start:end]
            if at[-1] - at[0] == len(at) - 1:
                at = slice(int(at[0]), int(at[-1]) + 1)
        yield at, vectors[at].astype(np.float32, copy=False)


def _spans(total: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < total:
        end = min(total, start + ROWS if start else _FIRST)
        yield start, end
        start = end


def whole(vectors: NDArray[np.floating[Any]]) -> bool:
    """Say whether `products` may be had of vectors as they lie."""
    return vectors.dtype == np.float32 and vectors.flags.c_contiguous


def products(queries: Floats, vectors: Floats, places: NDArray[np.int64]) -> Floats:
    """(m, w) inner products with float32 rows of a contiguous array, by all cores, uncopied."""
    import faiss

    found = np.empty(places.shape, dtype=np.float32)
    safe = np.ascontiguousarray(np.where(places < 0, 0, places))
    pointers = map(faiss.swig_ptr, (found, np.ascontiguousarray(queries), vectors, safe))
    compute: Any = faiss.fvec_inner_products_by_idx  # type: ignore[attr-defined]
    compute(*pointers, vectors.shape[1], *places.shape)
    return found


class Best:
    """The best rows of some queries so far, nearest first, in arrays of the caller's."""

    def __init__(self, cosines: Floats, rows: Rows, rules: Rules) -> None:
        self.cosines, self.rows, self.rules = cosines, rows, rules

    def take(self, found: Floats, at: slice | Rows) -> None:
        """Merge what counts of (b, m) cosines of the rows `at` with the queries."""
        line, query = np.divmod(np.flatnonzero(found > self.cosines[:, -1]), found.shape[1])
        self._allow(line, query, found[line, query], at)

    def take_some(self, line: Rows, query: Rows, cosine: Floats, at: slice | Rows) -> None:
        """Merge what counts of (c,) cosines of lines among the rows `at` with the queries."""
        good = cosine > self.cosines[query, -1]
        self._allow(line[good], query[good], cosine[good], at)

    def _allow(self, line: Rows, query: Rows, cosine: Floats, at: slice | Rows) -> None:
        row = line + at.start if isinstance(at, slice) else at[line]
        allowed = self.rules.allowed(query, row)
        if allowed.any():
            self._merge(query[allowed], row[allowed], cosine[allowed])

    def offer(self, rows: NDArray[np.int64], cosines: Floats) -> None:
        """Merge what counts of (m, w) rows and their cosines with each query; -1 is none."""
        query = np.repeat(np.arange(len(rows)), rows.shape[1])
        row, cosine = rows.ravel(), cosines.ravel()
        good = np.flatnonzero(row >= 0)
        good = good[self.rules.allowed(query[good], row[good])]
        if len(good):
            self._merge(query[good], row[good], cosine[good])

    def _merge(self, query: Rows, row: Rows, cosine: Floats) -> None:
        touched = np.unique(query)
        k = self.rows.shape[1]
        query = np.concatenate([np.repeat(touched, k), query])
        row = np.concatenate([self.rows[touched].ravel(), row])
        cosine = np.concatenate([self.cosines[touched].ravel(), cosine])
        order = np.lexsort((row, -cosine, query))
        order = order[row[order] >= 0]
        if self.rules.one_of is not None:
            pairs = np.stack([query[order], self.rules.one_of[row[order]]])
            _, first = np.unique(pairs, axis=1, return_index=True)
            order = order[np.sort(first)]
        query, row, cosine = query[order], row[order], cosine[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        kept = place < k
        self.rows[query[kept], place[kept]] = row[kept]
        self.cosines[query[kept], place[kept]] = cosine[kept]
