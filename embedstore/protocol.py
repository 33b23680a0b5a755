"""How a head is judged: who learns from which images and answers for which, before any learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedstore.blocks import all_finite
from embedstore.choose import Grid, Sides
from embedstore.classes import order_of
from embedstore.distinct import distinct
from embedstore.errors import DataError, UsageError, did_you_mean
from embedstore.few import Few
from embedstore.leaks import leaks
from embedstore.levels import FUSIONS, LEVELS, differing_note, fused, missing_notes, units
from embedstore.remarks import image_notes
from embedstore.scoring import Grouping
from embedstore.split_columns import from_column
from embedstore.split_files import SavedSplit
from embedstore.splits import check_classes, check_sides, holdout, kfold, linked
from embedstore.subgroups import By
from embedstore.types import OUTSIDE, VALIDATION, Embeddings, Floats, Split


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a head is judged.

    Attributes
    ----------
    folds
        By patient; every image is tested once.
    test_share
        More than 0: one stratified holdout of that share instead.
    repeats, seed
        Fold seeds to average over, and the first of them.
    order
        The classes in clinical order, for quadratic kappa.
    grid
        Parameters to choose from, for each fold on its training side alone.
    few
        Learn from a part of each training side.
    texts
        For heads with ``needs_text``: class to (d,) vector of its description.
    level, fuse
        What an answer is of, one of `levels.LEVELS`, and how images become one, of
        `levels.FUSIONS`.
    by
        Columns whose values are scored alone, too.
    calibrate
        Temper the probabilities by what the answers for other patients teach.
    groupings
        Classes to join to one against all others, for metrics of two classes.
    split
        In place of folds: a split from a file, or the column that says who is where.
    allow_leak
        Go on with a split that has patients, exams or files on both sides; the report says so.
    """

    folds: int = 5
    test_share: float = 0.0
    repeats: int = 1
    seed: int = 0
    order: tuple[str, ...] = ()
    grid: Grid | None = None
    few: Few | None = None
    texts: Mapping[str, Floats] | None = None
    level: str = "image"
    fuse: str = "probabilities"
    by: tuple[By, ...] = ()
    calibrate: bool = False
    groupings: tuple[Grouping, ...] = ()
    split: SavedSplit | str | None = None
    allow_leak: bool = False


@dataclass(frozen=True, slots=True)
class Posed:
    """What is asked of heads, before any has learnt.

    `images` are the labelled ones; `truth`, (n,), their class numbers and `groups`, (n,), numbers
    of what is linked; `sides` the rows learnt from and answered for, fold by fold and split by
    split.
    """

    label: str
    images: Embeddings
    classes: tuple[str, ...]
    truth: NDArray[np.intp]
    groups: NDArray[np.intp]
    splits: tuple[Split, ...]
    sides: Sides
    leak: str
    notes: tuple[str, ...]


def pose(embeddings: Embeddings, label: str, how: Protocol) -> Posed:
    """Take the labelled images and say who learns from which and answers for which.

    Raises
    ------
    DataError
        The labels or patients allow no honest score; the message says why.
    """
    images = embeddings
    embeddings, how, fusing = fused_by(images, label, how)
    kept, labels, left_out = labelled(embeddings, label)
    _refuse_lost(images, how)
    classes = order_of(labels, how.order)
    names, number = distinct(labels)
    truth = np.array([classes.index(name) for name in names.tolist()], dtype=np.intp)[number]
    splits, leak, outside = splits_of(kept, labels, how)
    groups = linked(kept)
    sides = _sides(splits, truth, groups, how.few)
    notes = (*image_notes(kept, left_out, label), *fusing, *outside)
    return Posed(label, kept, classes, truth, groups, tuple(splits), sides, leak, notes)


def labelled(embeddings: Embeddings, label: str) -> tuple[Embeddings, NDArray[np.str_], int]:
    """Leave out the images whose label is unknown; also return the labels and how many left."""
    if label not in embeddings.columns:
        hint = did_you_mean(label, embeddings.columns)
        raise UsageError(f"no column {label!r}; there are {', '.join(embeddings.columns)}{hint}")
    values = embeddings.columns[label]
    known = values != ""
    if not known.any():
        raise DataError(f"label {label!r} is empty for all {len(values)} images")
    kept = embeddings if known.all() else embeddings.take(known)
    if not all_finite(kept.vectors):
        raise DataError(f"vectors of Spec {embeddings.spec.key} hold NaN or infinity")
    return kept, kept.columns[label], int((~known).sum())


def fused_by(
    embeddings: Embeddings, label: str, how: Protocol
) -> tuple[Embeddings, Protocol, tuple[str, ...]]:
    """Fuse vectors, and the split, where that is asked for; also return what is to be said."""
    if how.level not in LEVELS or how.fuse not in FUSIONS:
        raise UsageError(f"level {how.level!r}, fuse {how.fuse!r}: give {LEVELS} and {FUSIONS}")
    if how.level == "image" or how.fuse == "probabilities" or label not in embeddings.columns:
        return embeddings, how, ()
    of = units(embeddings, how.level)
    made, notes = fused(embeddings, of, how.fuse)
    _, differ = of.agreed(embeddings.columns[label])
    if isinstance(how.split, SavedSplit):
        how = replace(how, split=how.split.at(of, embeddings.ids))
    notes += differing_note(of, differ, label) + missing_notes(embeddings, how.level)
    return made, how, notes


def _refuse_lost(images: Embeddings, how: Protocol) -> None:
    """Refuse a column to score by that tells images apart, but not what answers are of."""
    columns = [by.column for by in how.by if by.column in images.columns]
    if how.level == "image" or not columns:
        return
    of = units(images, how.level)
    for column in columns:
        values = images.columns[column]
        of_units, differ = of.agreed(values)
        left = np.unique(of_units[of_units != ""]).tolist()
        if len(left) < 2 <= len(np.unique(values[values != ""])):
            raise DataError(
                f"--by {column}: at the level of the {how.level} it has "
                f"{f'one value, {left[0]}' if left else 'no value'}, for it differs within "
                f"{int(differ.sum())} of {len(differ)} {how.level}s; score a finer level, or by "
                f"another column"
            )


def splits_of(
    embeddings: Embeddings, labels: NDArray[np.str_], how: Protocol
) -> tuple[list[Split], str, tuple[str, ...]]:
    """Return the splits, what leaks through them, and what is to be said."""
    if how.repeats < 1:
        raise UsageError(f"{how.repeats} repeats; give at least 1")
    seeds = range(how.seed, how.seed + how.repeats)
    if how.split is None and how.test_share:
        return [holdout(embeddings, labels, how.test_share, s) for s in seeds], "", ()
    if how.split is None:
        return [kfold(embeddings, labels, how.folds, s) for s in seeds], "", ()
    notes: tuple[str, ...] = ()
    if isinstance(how.split, str):
        splits = [from_column(embeddings, labels, how.split)]
        empty = int((splits[0].fold == OUTSIDE).sum())
        if empty:
            notes = (f"{empty} images without {how.split} left out",)
    else:
        splits, notes = how.split.on(embeddings)
    check_classes(labels, np.arange(len(labels)))
    for split in splits:
        check_sides(split, labels)
    found = next((found for split in splits if (found := leaks(embeddings, split))), [])
    leak = "; ".join(map(str, found))
    if leak and not how.allow_leak:
        raise UsageError(
            f"the split leaks: {leak}; make one by patient with `embedstore split`, or go on with "
            f"--allow-leak, and the report says so"
        )
    tested = np.any([split.fold >= 0 for split in splits], axis=0)
    if untested := np.setdiff1d(labels, labels[tested]).tolist():
        notes += (f"never tested: {', '.join(untested)}",)
    return splits, leak, notes


def _sides(
    splits: Sequence[Split], truth: NDArray[np.intp], groups: NDArray[np.intp], few: Few | None
) -> Sides:
    """Return the two sides of every fold of every split, of the first perhaps a part."""
    sides = [
        (split.seed, train, np.concatenate([test, _validation(split)]))
        for split in splits
        for train, test in split
    ]
    if few is None:
        return [(train, test) for _, train, test in sides]
    return [(few.take(truth, groups, train, seed), test) for seed, train, test in sides]


def _validation(split: Split) -> NDArray[np.intp]:
    """Return the validation side of one holdout: it is answered for, too, to calibrate on."""
    return np.flatnonzero((split.fold == VALIDATION) & (split.fold.max() == 0))
