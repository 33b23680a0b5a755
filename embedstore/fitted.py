"""A head fitted to vectors: behind the standardisation of what it learnt from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.solver import standard_scale
from embedstore.splits import inner_folds
from embedstore.types import Floats

Rows = NDArray[np.intp]

Answers = NDArray[np.float64]
"""(n, k) probabilities, columns by class number."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted head and the mean and scale, (d,) each, its vectors are standardised by."""

    head: Any
    mean: Floats
    scale: Floats

    def answers(self, vectors: Floats, classes: int) -> Answers:
        """(n, d) vectors to (n, classes) probabilities; 0 for classes it has not seen."""
        answered = self.head.predict_proba((vectors - self.mean) / self.scale)
        return in_columns(answered, self.head.classes_, classes)


def fit(head: Any, vectors: Floats, truth: Rows, groups: Rows) -> Fitted:
    """Fit a head to (n, d) vectors and (n,) class numbers.

    Vectors are standardised unless the head's ``standardize`` is False. A head without
    ``predict_proba`` answers with its scores through a sigmoid (Platt 1999), which is fitted on
    folds that keep `groups`, (n,), together.
    """
    if not hasattr(head, "predict_proba"):
        from sklearn.calibration import CalibratedClassifierCV

        folds = inner_folds(truth, groups, seed=0)
        head = CalibratedClassifierCV(head, cv=folds, ensemble=False)
    d = vectors.shape[1]
    mean, scale = np.zeros(d, np.float32), np.ones(d, np.float32)
    if getattr(head, "standardize", True):
        mean, scale = standardisation(vectors)
    with warnings.catch_warnings():
        # a head that stopped early is judged by its score, not by a warning in the table
        warnings.filterwarnings("ignore", message=".*(converge|iterations)")
        head.fit((vectors - mean) / scale, truth)
    return Fitted(head, mean, scale)


def in_columns(answered: NDArray[Any], known: NDArray[Any], classes: int) -> Answers:
    """Put the columns of a head that may not have seen every class in their places."""
    every = np.zeros((len(answered), classes))
    every[:, np.asarray(known, dtype=np.intp)] = answered
    return every


def standardisation(train: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column, (d,) each; 1 where a column is constant."""
    mean = train.mean(axis=0, dtype=np.float64)
    scale = standard_scale(mean, train.std(axis=0, dtype=np.float64))
    return mean.astype(np.float32), scale.astype(np.float32)
