"""A head fitted to vectors: behind the standardisation of what it learnt from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore import registry
from embedstore.blocks import Blocks
from embedstore.classifier import standardisation
from embedstore.errors import DataError
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

    def answers(self, vectors: Floats | Blocks, classes: int) -> Answers:
        """(n, d) vectors to (n, classes) probabilities; 0 for classes it has not seen."""
        if isinstance(vectors, Blocks):
            every = np.empty((len(vectors), classes))
            for start, block in vectors.blocks():
                every[start : start + len(block)] = self.answers(block, classes)
            return every
        answered = self.head.predict_proba((vectors - self.mean) / self.scale)
        return in_columns(answered, self.head.classes_, classes)


def fit(head: Any, vectors: Floats | Blocks, truth: Rows, groups: Rows) -> Fitted:
    """Fit a head to (n, d) vectors and (n,) class numbers.

    Vectors are standardised unless the head's ``standardize`` is False. A head without
    ``predict_proba`` answers with its scores through a sigmoid (Platt 1999), which is fitted on
    folds that keep `groups`, (n,), together. A head that does not take `Blocks` gets an array.

    Raises
    ------
    DataError
        Vectors that are read by blocks do not fit in memory, which the head needs.
    """
    if isinstance(vectors, Blocks) and not takes_blocks(head):
        vectors = _whole(head, vectors)
    if not hasattr(head, "predict_proba"):
        from sklearn.calibration import CalibratedClassifierCV

        folds = inner_folds(truth, groups, seed=0)
        head = CalibratedClassifierCV(head, cv=folds, ensemble=False)
    d = vectors.shape[1]
    mean, scale = np.zeros(d, np.float32), np.ones(d, np.float32)
    if getattr(head, "standardize", True):
        mean, scale = (v.astype(np.float32) for v in standardisation(vectors))
    with warnings.catch_warnings():
        # a head that stopped early is judged by its score, not by a warning in the table
        warnings.filterwarnings("ignore", message=".*(converge|iterations)")
        if isinstance(vectors, Blocks):
            plain = not getattr(head, "standardize", True)
            head.fit(vectors if plain else vectors.standardised(mean, scale), truth)
        else:
            head.fit((vectors - mean) / scale, truth)
    return Fitted(head, mean, scale)


def takes_blocks(head: Any) -> bool:
    """Say whether a head is fitted to `Blocks` as well as to an array."""
    return bool(getattr(head, "takes_blocks", False))


def _whole(head: Any, vectors: Blocks) -> Floats:
    try:
        return vectors.whole()
    except DataError as error:
        heads = sorted(registry.available(registry.PROBES))
        able = [n for n in heads if takes_blocks(registry.load(registry.PROBES, n))]
        raise DataError(
            f"{type(head).__name__} takes all vectors at once: {error}; {', '.join(able)} read "
            f"them by blocks, or learn from a part with --label-fraction"
        ) from error


def in_columns(answered: NDArray[Any], known: NDArray[Any], classes: int) -> Answers:
    """Put the columns of a head that may not have seen every class in their places."""
    every = np.zeros((len(answered), classes))
    every[:, np.asarray(known, dtype=np.intp)] = answered
    return every
