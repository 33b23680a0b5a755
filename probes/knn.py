"""Cosine nearest neighbours with votes weighted by similarity.

Wu et al. 2018 (arXiv 1805.01978), section 3.4, as in DINO's evaluation (arXiv 2104.14294): a
neighbour votes with exp(cosine / temperature).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from embedstore.index import ExactIndex
from embedstore.types import unit_rows


class KNNProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """k nearest neighbours by cosine.

    Parameters
    ----------
    n_neighbors
        How many vote; fewer where the training side is smaller.
    temperature
        Small values let the nearest decide, large ones give every neighbour the same say.
    """

    def __init__(self, n_neighbors: int = 20, temperature: float = 0.07) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature

    def fit(self, X: ArrayLike, y: ArrayLike) -> KNNProbe:
        """Keep (n, d) vectors, made unit length, and (n,) labels."""
        vectors, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        if not (isinstance(self.n_neighbors, int | np.integer) and self.n_neighbors >= 1):
            raise ValueError(f"n_neighbors is {self.n_neighbors!r}; give a whole number from 1 up")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature!r}; give more than 0")
        self.classes_, self.codes_ = np.unique(labels, return_inverse=True)
        self.index_ = ExactIndex(unit_rows(vectors))
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n, k): the share of the vote each class has."""
        check_is_fitted(self)
        vectors = validate_data(self, X, reset=False, dtype=np.float64)
        k = min(self.n_neighbors, len(self.index_))
        cosines, rows = self.index_.search(unit_rows(vectors), k)
        # shifted by the nearest, so that exp cannot overflow
        votes = np.exp((cosines - cosines[:, :1]).astype(np.float64) / self.temperature)
        answered = np.zeros((len(vectors), len(self.classes_)))
        np.add.at(answered, (np.arange(len(vectors))[:, None], self.codes_[rows]), votes)
        shares: NDArray[Any] = answered / answered.sum(axis=1, keepdims=True)
        return shares

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n,) labels."""
        answer = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[answer]
        return labels
