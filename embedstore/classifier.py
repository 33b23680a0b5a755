"""What heads share: how labels are read and refused, class weights, a grid's points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

Doubles = NDArray[np.float64]

Split = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Row numbers of the training and the tested side."""

Answer = tuple[Doubles, NDArray[Any]]
"""(m, k) probabilities of a tested side, and the (k,) classes their columns are of."""


class VectorClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier on vectors; a head defines `fit` and `predict_proba`."""

    standardize = True
    """Whether vectors are to be standardised by the training side before `fit`."""

    classes_: NDArray[Any]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n,) labels."""
        answer = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[answer]
        return labels

    def _read(self, X: ArrayLike, y: ArrayLike, least: int = 2) -> tuple[Any, NDArray[np.intp]]:
        """Check both and set `classes_`; return (n, d) vectors and (n,) class numbers.

        Raises
        ------
        ValueError
            Labels are missing, continuous, several a row, or of fewer than `least` classes; or
            vectors hold NaN or infinity.
        """
        shape: tuple[int, ...] = getattr(y, "shape", ())
        if len(shape) == 2 and shape[1] > 1:
            raise ValueError(
                f"labels are {shape}: this head takes one a row; for several, wrap it: "
                f"sklearn.multiclass.OneVsRestClassifier(head)"
            )
        vectors, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        if missing := sum(v is None or v == "" for v in labels if not np.isreal(v)):
            raise ValueError(f"{missing} of {len(labels)} labels are missing; leave those rows out")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < least:
            raise ValueError(
                f"all {len(labels)} labels are of one class, {self.classes_[0]!s}: "
                f"there is nothing to tell apart"
            )
        return vectors, codes

    def _seen(self, X: ArrayLike) -> NDArray[Any]:
        """Check vectors to answer for."""
        check_is_fitted(self)
        vectors: NDArray[Any] = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return vectors


def points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of a grid's values, the last parameter changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def row_weights(
    codes: NDArray[np.intp], classes: NDArray[Any], class_weight: str | Mapping[Any, float] | None
) -> Doubles:
    """(n,) what each row counts for by its class; `class_weight` as in scikit-learn."""
    weights = np.ones(len(classes))
    kept = np.unique(codes)
    weights[kept] = compute_class_weight(class_weight, classes=classes[kept], y=classes[codes])
    rows: Doubles = weights[codes]
    return rows


def softmax(logits: Doubles) -> Doubles:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Doubles = shifted / shifted.sum(axis=-1, keepdims=True)
    return shares


def require(name: str, value: Any, good: bool, what: str) -> None:
    """Refuse a parameter by name and value.

    Raises
    ------
    ValueError
        `value` is not `good`.
    """
    if not good:
        raise ValueError(f"{name} is {value!r}; give {what}")


def whole(value: Any, least: int) -> bool:
    """Whether a parameter is a whole number from `least` up."""
    known = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return bool(known and value >= least)


def above_zero(values: Iterable[Any]) -> bool:
    """Whether parameters are finite numbers above zero."""
    return all(isinstance(v, int | float | np.number) and 0 < v < np.inf for v in values)
