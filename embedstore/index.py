"""Exact nearest neighbours by cosine, on FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError
from embedstore.types import Floats


class ExactIndex:
    """A flat inner-product index over unit vectors, (n, d) float32."""

    def __init__(self, unit: Floats) -> None:
        import faiss

        self.index = faiss.IndexFlatIP(unit.shape[1])
        self.index.add(np.ascontiguousarray(unit, dtype=np.float32))

    def __len__(self) -> int:
        """Count the vectors."""
        return int(self.index.ntotal)

    def vectors(self) -> Floats:
        """(n, d) float32, as they were given."""
        found: Floats = self.index.reconstruct_n(0, len(self))
        return found

    def search(
        self, queries: Floats, k: int, without: NDArray[np.intp] | None = None
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Find the `k` most alike rows of each query, best first.

        Parameters
        ----------
        queries
            (m, d) float32 unit vectors.
        without
            Rows that must not be returned; they are left out inside the search, so that k asked
            is k given.

        Returns
        -------
        tuple
            Cosines (m, k) float32 and rows (m, k) int64.

        Raises
        ------
        DataError
            There are fewer than `k` rows to choose from, or vectors hold NaN.
        """
        import faiss

        excluded = np.unique(without) if without is not None else np.empty(0, dtype=np.int64)
        left = len(self) - len(excluded)
        if not 1 <= k <= left:
            raise DataError(f"k is {k}; there are {left} vectors to choose from")
        parameters = None
        if len(excluded):
            selector = faiss.IDSelectorBatch(excluded.astype(np.int64))
            with_options: Any = faiss.SearchParameters  # whose stubs know no options
            parameters = with_options(sel=faiss.IDSelectorNot(selector))
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        cosines, rows = self.index.search(queries, k, params=parameters)
        if (rows < 0).any():  # what FAISS answers where a cosine is not a number
            raise DataError("vectors hold NaN or infinity; they have no neighbours")
        return np.clip(cosines, -1, 1), rows
