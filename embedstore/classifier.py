"""What heads share: how labels are read and refused, class weights, a grid's points."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from embedstore.blocks import BLOCK_ROWS, Blocks
from embedstore.errors import WrongParameter
from embedstore.solver import crew, standard_scale

Doubles = NDArray[np.float64]

Split = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Row numbers of the training and the tested side."""

Answer = tuple[Doubles, NDArray[Any]]
"""(m, k) probabilities of a tested side, and the (k,) classes their columns are of."""


class VectorClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier on vectors; a head defines `fit` and `predict_proba`."""

    standardize = True
    """Whether vectors are to be standardised by the training side before `fit`."""

    takes_blocks = False
    """Whether `fit`, and `fit_grid` where there is one, take a `Blocks` in place of an array."""

    classes_: NDArray[Any]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n,) labels."""
        answer = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[answer]
        return labels

    def _read(
        self, X: ArrayLike | Blocks, y: ArrayLike, least: int = 2
    ) -> tuple[Any, NDArray[np.intp]]:
        """Check both and set `classes_`; return (n, d) vectors and (n,) class numbers.

        Of `Blocks` the values are not looked at.

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
        if missing := _missing(y):
            raise ValueError(f"{missing} labels are missing; leave those rows out")
        vectors, labels = X, np.asarray(y)
        if isinstance(X, Blocks):
            self.n_features_in_ = X.shape[1]
        else:
            vectors, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
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


def _missing(y: Any) -> int:
    """Count the labels that are None, not a number, or empty."""
    if getattr(getattr(y, "dtype", None), "kind", "O") not in "OUSTf" or isinstance(y, str):
        return 0
    try:
        return sum(v is None or v != v or (isinstance(v, str) and not v) for v in y)
    except (TypeError, ValueError):  # not a list of labels; scikit-learn says what it is
        return 0


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


def tested(
    vectors: NDArray[Any] | Blocks,
    sides: Sequence[NDArray[np.intp]],
    answer: Callable[[int, NDArray[Any]], Doubles],
) -> list[Doubles]:
    """(…, m, k) answers for the tested side of each split, in one pass over `Blocks`.

    Parameters
    ----------
    answer
        Number of a split and (b, d) vectors to (…, b, k).
    """
    if not isinstance(vectors, Blocks):
        return [answer(split, vectors[test]) for split, test in enumerate(sides)]
    orders = [np.argsort(test, kind="stable") for test in sides]
    found = [answer(split, vectors[:0]) for split in range(len(sides))]
    out = [
        np.empty((*none.shape[:-2], len(test), none.shape[-1]))
        for none, test in zip(found, sides, strict=True)
    ]

    def work(starts: Sequence[int]) -> None:
        memory = np.empty((min(BLOCK_ROWS, len(vectors)), vectors.shape[1]), dtype=np.float32)
        for start in starts:
            stop = min(start + BLOCK_ROWS, len(vectors))
            block = vectors.fill(start, stop, memory[: stop - start])
            for split, (test, order) in enumerate(zip(sides, orders, strict=True)):
                places = order[slice(*np.searchsorted(test, [start, stop], sorter=order))]
                if len(places):
                    out[split][..., places, :] = answer(split, block[test[places] - start])

    starts = range(0, len(vectors), BLOCK_ROWS)
    with crew(len(starts)) as hands:
        hands.each(work, hands.shares(starts))
    return out


def softmax(logits: Doubles) -> Doubles:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Doubles = shifted / shifted.sum(axis=-1, keepdims=True)
    return shares


def warn_unless(converged: NDArray[np.bool_], max_iter: int) -> None:
    """Warn the caller of a head's `fit`, in scikit-learn's way."""
    if not converged.all():
        warnings.warn(
            f"lbfgs failed to converge in {max_iter} passes; give a larger max_iter",
            ConvergenceWarning,
            stacklevel=3,
        )


def require(name: str, value: Any, good: bool, what: str) -> None:
    """Refuse a parameter by name and value.

    Raises
    ------
    WrongParameter
        `value` is not `good`.
    """
    if not good:
        raise WrongParameter(f"{name} is {value!r}; give {what}")


def whole(value: Any, least: int) -> bool:
    """Whether a parameter is a whole number from `least` up."""
    known = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return bool(known and value >= least)


def above_zero(value: Any) -> bool:
    """Whether a parameter is a finite number above zero."""
    return isinstance(value, int | float | np.number) and bool(0 < value < np.inf)


def text_matrix(class_vectors: Mapping[Any, ArrayLike], classes: NDArray[Any], d: int) -> Doubles:
    """(k, d) vectors of the classes, each of length 1.

    Raises
    ------
    ValueError
        A class has none, or one of another dimension than the images'.
    """
    if missing := [c for c in classes.tolist() if c not in class_vectors]:
        raise ValueError(f"class_vectors has none of {', '.join(map(str, missing))}")
    rows = np.array([np.asarray(class_vectors[c], dtype=np.float64) for c in classes.tolist()])
    if rows.shape != (len(classes), d):
        raise ValueError(f"class_vectors are {rows.shape[1:]} each, the images' are ({d},)")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Doubles = rows / np.where(lengths > 0, lengths, 1)
    return unit


def standardisation(train: NDArray[Any] | Blocks) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation of each column, (d,) each; 1 where a column is constant."""
    if isinstance(train, Blocks):
        mean, deviation = train.moments()
    else:
        mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    return mean, standard_scale(mean, deviation)


def standardised(vectors: Any, train: NDArray[np.intp]) -> Any:
    """(n, d) centred and scaled by the rows `train`; constant columns are only centred."""
    if isinstance(vectors, Blocks):
        mean, scale = standardisation(vectors.take(train))
        return vectors.standardised(mean.astype(np.float32), scale.astype(np.float32))
    mean, scale = standardisation(vectors[train])
    rows: NDArray[Any] = (vectors - mean.astype(vectors.dtype)) / scale.astype(vectors.dtype)
    return rows
