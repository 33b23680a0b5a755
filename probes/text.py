"""Logistic regression drawn towards the classes' descriptions: the head for few labels.

The penalty is on the difference from the text vectors, so that with no labels' worth of evidence
the answer is the zero-shot one, and with many it is the linear probe's. The idea is CLIP-Adapter's
and "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models" (arXiv 2312.12730)
has the penalised form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedstore.classifier import (
    Answer,
    Doubles,
    Split,
    VectorClassifier,
    above_zero,
    points,
    require,
    row_weights,
    softmax,
    text_matrix,
    warn_unless,
    whole,
)
from embedstore.solver import Solution, solve
from embedstore.types import unit_rows


class TextProbe(VectorClassifier):
    """Logistic regression on unit vectors, started at and drawn towards class text vectors.

    Minimises log loss of ``unit(x) / temperature @ W.T + b`` plus ``||W - T||^2 / (2 C)``, T the
    unit text vectors, b free.

    Parameters
    ----------
    class_vectors
        Label to (d,) vector of its description, by the text side of the images' model; without
        them W is drawn to zero.
    C
        Inverse strength of the pull; small stays at the texts.
    temperature
        What cosines are divided by; 0.01 is CLIP's.
    class_weight
        None; "balanced", so that each class counts the same; or what each class counts for.
    tol, max_iter
        As the logistic head's.

    Attributes
    ----------
    coef_, intercept_
        (k, d) and (k,), for vectors of length 1 over `temperature`.
    """

    standardize = False
    needs_text = True
    default_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "C": tuple(float(f"{c:.3g}") for c in np.logspace(-5, 1, 10))
    }

    def __init__(
        self,
        class_vectors: Mapping[Any, ArrayLike] | None = None,
        C: float = 0.001,
        temperature: float = 0.01,
        class_weight: str | Mapping[Any, float] | None = None,
        tol: float = 1e-10,
        max_iter: int = 1000,
    ) -> None:
        self.class_vectors = class_vectors
        self.C = C
        self.temperature = temperature
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike) -> TextProbe:
        """Fit (n, d) vectors, as the model gave them, to (n,) labels."""
        vectors, codes = self._read(X, y)
        rows, texts = self._rows(vectors), self._texts(self.classes_, vectors.shape[1])
        weights = row_weights(codes, self.classes_, self.class_weight)
        found = self._solved(rows, codes, weights, texts, [self.C])
        warn_unless(found.converged, self.max_iter)
        self.coef_ = texts + found.coef[0, 0]
        self.intercept_ = found.intercept[0, 0]
        self.n_iter_ = np.maximum(found.n_iter[0], 1)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) vectors as the model gave them to (n, k) probabilities."""
        return softmax(self._rows(self._seen(X)) @ self.coef_.T + self.intercept_)

    def fit_grid(
        self, X: NDArray[Any], y: NDArray[Any], splits: Sequence[Split], grid: Mapping[str, Any]
    ) -> list[list[Answer]]:
        """Answer the tested side of each split at each point of a grid, all Cs of a split at once.

        Parameters and result as `LogisticProbe.fit_grid`; vectors are taken as they are.
        """
        if set(grid) - {"C"}:
            raise ValueError(f"the text head's grid is of C, not of {', '.join(grid)}")
        Cs = [point.get("C", self.C) for point in points(grid)]
        vectors, codes = self._read(X, y)
        rows = self._rows(vectors)
        answers: list[list[Answer]] = [[] for _ in Cs]
        for train, test in splits:
            kept, own = np.unique(codes[train], return_inverse=True)
            classes = self.classes_[kept]
            texts = self._texts(classes, rows.shape[1])
            weights = row_weights(own, classes, self.class_weight)
            found = self._solved(rows[train], own, weights, texts, Cs)
            logits = found.logits(rows[test], 0) + rows[test] @ texts.T
            for of_point, each in zip(answers, logits, strict=True):
                of_point.append((softmax(each), classes))
        return answers

    def _rows(self, vectors: NDArray[Any]) -> Doubles:
        require("temperature", self.temperature, above_zero(self.temperature), "more than 0")
        rows: Doubles = unit_rows(vectors).astype(np.float64) / self.temperature
        return rows

    def _texts(self, classes: NDArray[Any], d: int) -> Doubles:
        if not self.class_vectors:
            return np.zeros((len(classes), d))
        return text_matrix(self.class_vectors, classes, d)

    def _solved(
        self,
        rows: Doubles,
        codes: NDArray[np.intp],
        weights: Doubles,
        texts: Doubles,
        Cs: Sequence[float],
    ) -> Solution:
        """Solve for what is to be added to the texts."""
        require("tol", self.tol, above_zero(self.tol), "a number above 0")
        require("max_iter", self.max_iter, whole(self.max_iter, 1), "a whole number from 1 up")
        for C in Cs:
            require("C", C, above_zero(C), "a number above 0")
        known = rows @ texts.T
        return solve(
            rows, codes, weights[None], Cs, offset=known, tol=self.tol, max_iter=self.max_iter
        )
