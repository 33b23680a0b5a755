"""Splits by what a column says: a site at a time, the latest patients, or who is where."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError, UsageError
from embedstore.splits import check_sides, linked
from embedstore.types import OUTSIDE, TRAIN, VALIDATION, Embeddings, Split

_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), VALIDATION),
    **dict.fromkeys(("test", "testing", "te", "holdout", "hold-out"), 0),
}


def sites(embeddings: Embeddings, labels: NDArray[np.str_], column: str) -> Split:
    """Test each value of a column by a head that learnt from all the others.

    What is linked stays whole: it counts to the value most of its images have. Images without a
    value are learnt from only.

    Raises
    ------
    DataError
        The column has one value only, or a training side lacks a class.
    """
    values = _column(embeddings, column)
    groups = linked(embeddings)
    names = [v for v in np.unique(values).tolist() if v]
    votes = np.zeros((int(groups.max()) + 1, len(names)))
    for place, name in enumerate(names):
        np.add.at(votes[:, place], groups[values == name], 1)
    fold = np.where(votes.sum(axis=1) > 0, votes.argmax(axis=1) if names else 0, TRAIN)[groups]
    used = np.unique(fold[fold >= 0])
    if len(used) < 2:
        raise DataError(f"--column {column}: patients of {len(used)} value only; at least two")
    places = {int(old): new for new, old in enumerate(used.tolist())}
    fold = np.array([places.get(f, TRAIN) for f in fold.tolist()], dtype=np.intp)
    split = Split(f"leave one {column} out, {len(used)} of them", embeddings.ids, fold, 0)
    check_sides(split, labels)
    return split


def in_time(embeddings: Embeddings, labels: NDArray[np.str_], column: str, share: float) -> Split:
    """Test the last patients, by the latest date or number of each, about a `share` of the images.

    Raises
    ------
    DataError
        A date cannot be read or is missing (some ids are named), or a side lacks a class.
    """
    if not 0 < share <= 0.5:
        raise DataError(f"a test share of {share}; give more than 0 and at most 0.5")
    when = _moments(embeddings.ids, _column(embeddings, column), column)
    groups = linked(embeddings)
    latest = np.full(int(groups.max()) + 1, -np.inf)
    np.maximum.at(latest, groups, when)
    sizes = np.bincount(groups)
    order = np.argsort(-latest, kind="stable")
    late = np.cumsum(sizes[order]) - sizes[order] / 2 <= share * len(groups)
    # no patient of the same day on the other side
    border = latest[order][late].min() if late.any() else latest.max()
    fold = np.where((latest >= border)[groups], 0, TRAIN).astype(np.intp)
    if (fold == 0).all():
        raise DataError(
            f"--column {column}: all patients have the same date; nothing to learn from"
        )
    split = Split(f"last {(fold == 0).mean():.0%} by {column}", embeddings.ids, fold, 0)
    check_sides(split, labels)
    return split


def from_column(embeddings: Embeddings, labels: NDArray[np.str_], column: str) -> Split:
    """Take a split from a column: train, validation and test as people write them, or fold numbers.

    Images without a value are outside the split.

    Raises
    ------
    DataError
        A word is not known, nothing is tested or learnt from, or a training side lacks a class.
    """
    values = _column(embeddings, column)
    words = {v: v.strip().casefold() for v in np.unique(values).tolist() if v.strip()}
    numbers = {v for v in words.values() if v.isdigit()}
    if numbers and numbers == set(words.values()):
        order = {v: i for i, v in enumerate(sorted(numbers, key=int))}
        meaning = {v: order[w] for v, w in words.items()}
    elif unknown := [v for v, w in words.items() if w not in _WORDS]:
        raise DataError(
            f"column {column}: {unknown[0]!r} is neither train, val nor test, and the others are "
            f"no fold numbers"
        )
    else:
        meaning = {v: _WORDS[w] for v, w in words.items()}
    fold = np.array([meaning.get(v, OUTSIDE) for v in values.tolist()], dtype=np.intp)
    folds = int(fold.max()) + 1
    if folds < 1 or (folds == 1 and not (fold == TRAIN).any()):
        raise DataError(f"column {column}: a split needs images to learn from and to test")
    split = Split(f"column {column}", embeddings.ids, fold, 0)
    check_sides(split, labels)
    return split


def _column(embeddings: Embeddings, column: str) -> NDArray[np.str_]:
    if column not in embeddings.columns:
        known = ", ".join(embeddings.columns)
        raise UsageError(f"no column {column!r} to split by; there are {known}")
    return embeddings.columns[column]


def _moments(ids: NDArray[np.str_], values: NDArray[np.str_], column: str) -> NDArray[np.float64]:
    """(n,) numbers or dates (ISO 8601, or DICOM's YYYYMMDD) as numbers that grow with time."""
    out = np.empty(len(values))
    wrong = []
    for i, value in enumerate(values.tolist()):
        try:
            dated = len(value) == 8 and value.isdigit()
            out[i] = datetime.fromisoformat(value).timestamp() if dated else float(value)
        except ValueError:
            try:
                out[i] = datetime.fromisoformat(value).timestamp()
            except ValueError:
                wrong.append(f"{ids[i]} ({value or 'empty'})")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(f"column {column}: no date or number in {', '.join(wrong[:3])}{more}")
    return out
