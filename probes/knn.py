"""Cosine nearest neighbours with votes weighted by similarity.

Wu et al. 2018 (arXiv 1805.01978), section 3.4, as in DINO's evaluation (arXiv 2104.14294): a
neighbour votes with exp(cosine / temperature).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedstore.blocks import Blocks, part
from embedstore.classifier import (
    Answer,
    Doubles,
    Split,
    VectorClassifier,
    above_zero,
    points,
    require,
    standardised,
    whole,
)
from embedstore.exact import nearest
from embedstore.pairs import all_neighbours
from embedstore.types import Floats, unit_rows

QUERIES = 1 << 14
"""So many tested vectors are searched for at once."""


class KNNProbe(VectorClassifier):
    """k nearest neighbours by cosine.

    Parameters
    ----------
    n_neighbors
        How many vote; fewer where the training side is smaller.
    temperature
        Small values let the nearest decide, large ones give every neighbour the same say.
    """

    takes_blocks = True
    default_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "n_neighbors": (1, 3, 5, 10, 20, 50, 100, 200),
        "temperature": (0.02, 0.07, 0.2, 1.0),
    }

    def __init__(self, n_neighbors: int = 20, temperature: float = 0.07) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature

    def fit(self, X: ArrayLike | Blocks, y: ArrayLike) -> KNNProbe:
        """Keep (n, d) vectors, made unit length, and (n,) labels."""
        _check(self.n_neighbors, self.temperature)
        vectors, self.codes_ = self._read(X, y, least=1)
        self.unit_ = _unit(vectors)
        return self

    def saved_state(self) -> dict[str, Any]:
        """Return what was learnt, all vectors read; `DataError` where they have no room."""
        unit = self.unit_
        if isinstance(unit, _UnitBlocks):
            unit = unit_rows(unit.vectors.whole())
        return {**vars(self), "unit_": unit}

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n, k): the share of the vote each class has."""
        unit = unit_rows(self._seen(X))
        cosines, rows = nearest(unit, self.unit_, min(self.n_neighbors, len(self.unit_)))
        return _shares(cosines, self.codes_[rows], len(self.classes_), self.temperature)

    def fit_grid(
        self,
        X: NDArray[Any] | Blocks,
        y: NDArray[Any],
        splits: Sequence[Split],
        grid: Mapping[str, Any],
    ) -> list[list[Answer]]:
        """Answer the tested side of each split at each point of a grid, by one search a split.

        Parameters and result as `LogisticProbe.fit_grid`.
        """
        tried = [{**self.get_params(), **point} for point in points(grid)]
        for point in tried:
            _check(**point)
        vectors, codes = self._read(X, y, least=1)
        most = max(point["n_neighbors"] for point in tried)
        answers: list[list[Answer]] = [[] for _ in tried]
        for train, test in splits:
            kept, own = np.unique(codes[train], return_inverse=True)
            rows = standardised(vectors, train)
            unit = _unit(part(rows, train))
            found: list[list[Doubles]] = [[] for _ in tried]
            for some in _cut(test):
                asked = unit_rows(rows[some])
                cosines, near = nearest(asked, unit, min(most, len(train)))
                votes = own[near]
                for of_point, point in zip(found, tried, strict=True):
                    k = point["n_neighbors"]
                    of_point.append(
                        _shares(cosines[:, :k], votes[:, :k], len(kept), point["temperature"])
                    )
            for answer, of_point in zip(answers, found, strict=True):
                answer.append((np.concatenate(of_point), self.classes_[kept]))
        return answers

    def leave_one_out(
        self, X: ArrayLike, y: ArrayLike, groups: NDArray[np.intp] | None = None
    ) -> NDArray[Any]:
        """(n, d) vectors and (n,) labels to (n, k): each row's vote by all others.

        Rows of its own group, (n,) numbers such as of patients, have no say. Columns are as
        `classes_`; the head is fitted to all rows afterwards.
        """
        self.fit(X, y)
        unit = unit_rows(self._seen(X))
        cosines, rows = all_neighbours(unit, min(self.n_neighbors, len(unit) - 1), groups)
        return _shares(cosines, self.codes_[rows], len(self.classes_), self.temperature)


@dataclass(frozen=True, slots=True)
class _UnitBlocks:
    """Vectors made unit length as they are read."""

    vectors: Blocks

    @property
    def shape(self) -> tuple[int, ...]:
        return self.vectors.shape

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Any) -> Floats:
        return unit_rows(self.vectors[rows])


def _unit(vectors: Any) -> Any:
    return _UnitBlocks(vectors) if isinstance(vectors, Blocks) else unit_rows(vectors)


def _cut(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Cut rows into parts whose vectors, and whose neighbours' cosines, are small."""
    return np.array_split(rows, max(1, -(-len(rows) // QUERIES)))


def _shares(cosines: Floats, votes: NDArray[np.intp], k: int, temperature: float) -> Doubles:
    """(n, neighbours) cosines and class numbers, nearest first, to (n, k) shares of the vote."""
    # shifted by the nearest, so that exp cannot overflow
    weights = np.exp((cosines - cosines[:, :1]).astype(np.float64) / temperature)
    cells = (np.arange(len(votes))[:, None] * k + votes).ravel()
    counted = np.bincount(cells, weights.ravel(), len(votes) * k).reshape(-1, k)
    shares: Doubles = counted / counted.sum(axis=1, keepdims=True)
    return shares


def _check(n_neighbors: Any, temperature: Any) -> None:
    require("n_neighbors", n_neighbors, whole(n_neighbors, 1), "a whole number from 1 up")
    require("temperature", temperature, above_zero(temperature), "more than 0")
