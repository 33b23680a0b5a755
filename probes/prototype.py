"""Nearest class mean: one vector a class, nothing else to learn.

Snell et al. 2017 (arXiv 1703.05175); with cosine, Chen et al. 2019 (arXiv 1904.04232). The head for
few labels: it cannot overfit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedstore.blocks import Blocks
from embedstore.classifier import Doubles, VectorClassifier, above_zero, require, softmax
from embedstore.types import unit_rows


class PrototypeProbe(VectorClassifier):
    """Classes by their means; every class counts the same, however many images it has.

    Parameters
    ----------
    metric
        "cosine": cosine with the mean of the unit vectors. "euclidean": squared difference from
        the mean, averaged over the dimensions.
    temperature
        What cosines and differences are divided by before the softmax; small is sure.

    Attributes
    ----------
    means_
        (k, d) class means.
    """

    takes_blocks = True
    default_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "metric": ("cosine", "euclidean"),
        "temperature": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    }

    def __init__(self, metric: str = "cosine", temperature: float = 0.1) -> None:
        self.metric = metric
        self.temperature = temperature

    def fit(self, X: ArrayLike | Blocks, y: ArrayLike) -> PrototypeProbe:
        """Average (n, d) vectors by their (n,) labels."""
        known = self.metric in {"cosine", "euclidean"}
        require("metric", self.metric, known, "'cosine' or 'euclidean'")
        require("temperature", self.temperature, above_zero(self.temperature), "more than 0")
        vectors, codes = self._read(X, y)
        k = len(self.classes_)
        if isinstance(vectors, Blocks):
            sums = np.zeros((k, vectors.shape[1]))
            for start, block in vectors.blocks():
                own = codes[start : start + len(block)]
                sums += (own == np.arange(k)[:, None]).astype(np.float64) @ self._rows(block)
            self.means_ = sums / np.bincount(codes, minlength=k)[:, None]
            return self
        rows = self._rows(vectors)
        self.means_ = np.stack([rows[codes == c].mean(axis=0) for c in range(k)])
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n, k): softmax of the nearness to each class mean."""
        rows = self._rows(self._seen(X))
        if self.metric == "cosine":
            near = rows @ unit_rows(self.means_).T.astype(np.float64)
        else:
            square = (self.means_**2).mean(axis=1) - 2 * rows @ self.means_.T / rows.shape[1]
            near = -square  # less the vector's own square, which is the same for all classes
        return softmax(near / self.temperature)

    def _rows(self, vectors: NDArray[Any]) -> Doubles:
        rows = unit_rows(vectors) if self.metric == "cosine" else vectors
        doubles: Doubles = rows.astype(np.float64)
        return doubles
