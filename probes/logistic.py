"""Multinomial logistic regression with an L2 penalty: the linear probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from embedstore.blocks import Blocks
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
    tested,
    warn_unless,
    whole,
)
from embedstore.solver import folds_at_once, solve


class LogisticProbe(VectorClassifier):
    """Linear probe: scikit-learn's `LogisticRegression`, by embedstore's solver.

    Parameters
    ----------
    C
        Inverse strength of the penalty, as in scikit-learn. The default suits standardised vectors
        of some hundred dimensions and few images; it is far below scikit-learn's 1.0, at which
        such vectors are fitted without error.
    class_weight
        None; "balanced", so that each class counts the same; or what each class counts for.
    tol
        What may be left to gain, as a share of the penalised loss.
    max_iter
        Passes over the vectors.
    device
        Where the products are made: "cpu", "cuda".

    Attributes
    ----------
    coef_, intercept_
        (k, d) and (k,) weights; (1, d) and (1,) for two classes.
    n_iter_
        (1,) passes over the vectors.
    """

    takes_blocks = True
    default_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "C": tuple(float(f"{c:.3g}") for c in np.logspace(-6, 3, 10))
    }

    def __init__(
        self,
        C: float = 0.01,
        class_weight: str | Mapping[Any, float] | None = None,
        tol: float = 1e-7,
        max_iter: int = 1000,
        device: str = "cpu",
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.device = device

    def fit(self, X: ArrayLike | Blocks, y: ArrayLike) -> LogisticProbe:
        """Fit (n, d) vectors to (n,) labels."""
        self._check()
        vectors, codes = self._read(X, y)
        weights = row_weights(codes, self.classes_, self.class_weight)
        found = solve(
            vectors,
            codes,
            weights[None],
            [self.C],
            tol=self.tol,
            max_iter=self.max_iter,
            device=self.device,
        )
        warn_unless(found.converged, self.max_iter)
        self.coef_, self.intercept_ = _as_scikit_learn(found.coef[0, 0], found.intercept[0, 0])
        self.n_iter_ = np.maximum(found.n_iter[0], 1)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n, k) probabilities, columns as `classes_`."""
        logits = self._seen(X).astype(np.float64) @ self.coef_.T + self.intercept_
        if len(self.classes_) == 2:
            logits = np.hstack([np.zeros_like(logits), logits])
        return softmax(logits)

    def fit_grid(
        self,
        X: NDArray[Any] | Blocks,
        y: NDArray[Any],
        splits: Sequence[Split],
        grid: Mapping[str, Any],
    ) -> list[list[Answer]]:
        """Answer the tested side of each split at each point of a grid, all Cs and splits at once.

        Parameters
        ----------
        X, y
            (n, d) vectors, not standardised, and (n,) labels.
        splits
            Row numbers of each training and tested side; columns are standardised by the training
            side.
        grid
            Values to try of each parameter.

        Returns
        -------
        list
            For each point, the last parameter changing fastest, and each split: probabilities of
            the tested side, and the classes of their columns.
        """
        vectors, codes = self._read(X, y)
        tried = points(grid)
        answers: list[list[Answer]] = [[] for _ in tried]
        # points that differ in C alone are solved together
        others = [tuple((n, v) for n, v in point.items() if n != "C") for point in tried]
        for other in dict.fromkeys(others):
            head = clone(self).set_params(**dict(other))
            head.classes_ = self.classes_
            numbers = [i for i, o in enumerate(others) if o == other]
            Cs = [tried[i].get("C", self.C) for i in numbers]
            size = folds_at_once(vectors.shape[1], len(self.classes_), len(Cs), len(codes))
            for start in range(0, len(splits), size):
                found = head._solved(vectors, codes, splits[start : start + size], Cs)
                for i, of_point in zip(numbers, found, strict=True):
                    answers[i] += of_point
        return [[(p, self.classes_[kept]) for p, kept in of_point] for of_point in answers]

    def _solved(
        self,
        vectors: NDArray[Any] | Blocks,
        codes: NDArray[np.intp],
        splits: Sequence[Split],
        Cs: Sequence[float],
    ) -> list[list[Answer]]:
        """Answers by C and split, with the numbers of the classes that were trained."""
        for C in Cs:
            self.set_params(C=C)._check()
        kind = np.float32 if isinstance(vectors, Blocks) else np.float64
        weights = np.zeros((len(splits), len(codes)), dtype=kind)
        for row, (train, _) in zip(weights, splits, strict=True):
            row[train] = row_weights(codes[train], self.classes_, self.class_weight)
        found = solve(vectors, codes, weights, Cs, True, None, self.tol, self.max_iter, self.device)
        answers: list[list[Answer]] = [[] for _ in Cs]
        kept = [np.flatnonzero(np.bincount(codes[train])) for train, _ in splits]

        def answer(fold: int, rows: NDArray[Any]) -> Doubles:
            return softmax(found.logits(rows, fold)[:, :, kept[fold]])

        every = tested(vectors, [test for _, test in splits], answer)
        for numbers, of_fold in zip(kept, every, strict=True):
            for of_point, each in zip(answers, of_fold, strict=True):
                of_point.append((each, numbers))
        return answers

    def _check(self) -> None:
        require("C", self.C, above_zero(self.C), "a number above 0")
        require("tol", self.tol, above_zero(self.tol), "a number above 0")
        require("max_iter", self.max_iter, whole(self.max_iter, 1), "a whole number from 1 up")


def _as_scikit_learn(coef: Doubles, intercept: Doubles) -> tuple[Doubles, Doubles]:
    """Of two classes, the difference alone."""
    if len(coef) > 2:
        return coef, intercept
    return coef[1:] - coef[:1], intercept[1:] - intercept[:1]
