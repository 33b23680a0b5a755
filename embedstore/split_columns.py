"""Splits by what a column says: a site at a time, the latest patients, or who is where."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

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
_FOLD = re.compile(r"(?:fold[ _-]*)?([0-9]{1,9})(?:\.0+)?")
_NEVER = re.compile(r"-1(?:\.0+)?")
_SHOWN = 3


def sites(embeddings: Embeddings, labels: NDArray[np.str_], column: str) -> Split:
    """Test each value of a column by a head that learnt from all the others.

    What is linked is tested with the value most of its images have (the first of equals). Its
    images of other values are outside, and so are images without a value: learnt from, they would
    show a head the site it is tested on.

    Raises
    ------
    DataError
        The column has one value only, or a training side lacks a class.
    """
    values = _column(embeddings, column)
    names, number = np.unique(values, return_inverse=True)
    usual = _usual(linked(embeddings), number, values != "")
    used = np.unique(usual[usual >= 0])
    if len(used) < 2:
        said = f"{len(used)} value only" + (f", {str(names[used[0]])!r}" if len(used) else "")
        raise DataError(f"column {column}: patients of {said}; at least two are needed")
    fold = np.where(number == usual, np.searchsorted(used, number), OUTSIDE).astype(np.intp)
    split = Split(f"leave one {column} out, {len(used)} of them", embeddings.ids, fold, 0)
    check_sides(split, labels)
    return split


def _usual(
    groups: NDArray[np.intp], number: NDArray[np.intp], known: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """(n,) commonest known number of each image's group, -1 where it has none."""
    pairs, counts = np.unique(np.stack([groups[known], number[known]]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    owners, first = np.unique(pairs[0][order], return_index=True)
    usual = np.full(int(groups.max()) + 1, -1)
    usual[owners] = pairs[1][order][first]
    return usual[groups]


def in_time(embeddings: Embeddings, labels: NDArray[np.str_], column: str, share: float) -> Split:
    """Test the last patients, by the latest date or number of each, about a `share` of the images.

    Patients of one latest date stand on one side.

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
    moments, sizes = np.unique(latest[groups], return_counts=True)
    if len(moments) < 2:
        raise DataError(f"column {column}: all patients have the same date; nothing to learn from")
    tested = np.cumsum(sizes[::-1])[::-1] / len(groups)  # from each moment on
    border = moments[1:][np.abs(tested[1:] - share).argmin()]
    fold = np.where((latest >= border)[groups], 0, TRAIN).astype(np.intp)
    split = Split(f"last {(fold == 0).mean():.0%} by {column}", embeddings.ids, fold, 0)
    check_sides(split, labels)
    return split


def from_column(embeddings: Embeddings, labels: NDArray[np.str_], column: str) -> Split:
    """Take a split from a column: train, validation and test as people write them, or fold numbers.

    Among fold numbers, -1 is learnt from only. Images without a value are outside the split.

    Raises
    ------
    UsageError
        There is no such column, or it is empty.
    DataError
        A word is not known, nothing is tested or learnt from, or a training side lacks a class.
    """
    values = _column(embeddings, column)
    words = {v: v.strip().casefold() for v in np.unique(values).tolist() if v.strip()}
    if not words:
        raise UsageError(
            f"column {column}: is empty for all {len(values)} images, so that nothing says who is "
            f"learnt from and who is tested"
        )
    meaning = _folds(words) or _sides(words, column)
    fold = np.array([meaning.get(v, OUTSIDE) for v in values.tolist()], dtype=np.intp)
    folds = int(fold.max()) + 1
    if folds < 1 or (folds == 1 and not (fold == TRAIN).any()):
        only = f"; its one value is {min(words)!r}" if len(words) == 1 else ""
        raise DataError(f"column {column}: a split needs images to learn from and to test{only}")
    split = Split(f"column {column}", embeddings.ids, fold, 0)
    check_sides(split, labels)
    return split


def _folds(words: dict[str, str]) -> dict[str, int]:
    """Return the folds from 0 where all words are fold numbers, nothing where they are not."""
    found = {v: _FOLD.fullmatch(w) for v, w in words.items() if not _NEVER.fullmatch(w)}
    numbers = {v: int(match[1]) for v, match in found.items() if match}
    if len(numbers) < len(found):
        return {}
    order = {number: i for i, number in enumerate(sorted(set(numbers.values())))}
    return {v: order[numbers[v]] if v in numbers else TRAIN for v in words}


def _sides(words: dict[str, str], column: str) -> dict[str, int]:
    if unknown := sorted(v for v, w in words.items() if w not in _WORDS):
        shown = ", ".join(map(repr, unknown[:_SHOWN]))
        raise DataError(
            f"column {column}: {shown} {_more(unknown)}is neither train, val nor test, and the "
            f"values are not all fold numbers; correct it with `embedstore update`"
        )
    return {v: _WORDS[w] for v, w in words.items()}


def _column(embeddings: Embeddings, column: str) -> NDArray[np.str_]:
    if column not in embeddings.columns:
        known = ", ".join(embeddings.columns)
        raise UsageError(f"no column {column!r} to split by; there are {known}")
    return embeddings.columns[column]


def _moments(ids: NDArray[np.str_], values: NDArray[np.str_], column: str) -> NDArray[np.float64]:
    """(n,) times as numbers that grow: the column's numbers, else its dates.

    Numbers may be dates as DICOM writes them, YYYYMMDD. Where some of both cannot be read, the
    column is taken for what most of it is.
    """
    texts = values.tolist()
    numbers, dates = (np.array([_read(read, t) for t in texts]) for read in (_number, _date))
    out = numbers if np.isnan(numbers).sum() <= np.isnan(dates).sum() else dates
    if wrong := [f"{ids[i]} ({texts[i] or 'empty'})" for i in np.flatnonzero(np.isnan(out))]:
        shown = ", ".join(sorted(wrong)[:_SHOWN])
        raise DataError(
            f"column {column}: no number, nor a date such as 2024-03-31, in {shown} {_more(wrong)}"
            f"of {len(texts)} images; correct it with `embedstore update`"
        )
    return out


def _read(read: Callable[[str], float], text: str) -> float:
    try:
        value = read(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _number(text: str) -> float:
    return float(text)


def _date(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 date or time, of which a year or a month is enough."""
    text = text.strip().replace("/", "-")
    text += {4: "-01-01", 7: "-01"}.get(len(text), "")
    when = datetime.fromisoformat(text)
    known = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (known - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def _more(found: Sequence[str]) -> str:
    return f"and {len(found) - _SHOWN} more " if len(found) > _SHOWN else ""
