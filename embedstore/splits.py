"""Splits in which no patient, exam or identical image stands on two sides."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from embedstore.distinct import distinct, same_bytes
from embedstore.errors import DataError, UsageError
from embedstore.links import chained
from embedstore.stratified import stratified_folds
from embedstore.types import OUTSIDE, TRAIN, VALIDATION, Embeddings, Split


def linked(embeddings: Embeddings, by: str = "patient") -> NDArray[np.intp]:
    """Give each set of images that must stay together a number: (n,) ints.

    Two images are linked by sharing a patient, an exam or all their bytes, and so on in chains. An
    image whose patient is unknown is linked only by the others.

    Parameters
    ----------
    by
        "exam" leaves the patient out; a column (site, say) links its values, too; "image" links
        nothing. By exam and by image leak: see `leaks`.

    Raises
    ------
    UsageError
        There is no such column, or no exam is known.
    """
    if by == "image":
        return np.arange(len(embeddings))
    exams = embeddings.columns.get("exam", np.full(len(embeddings), ""))
    return chained([*_linking(embeddings, by), exams, same_bytes(embeddings.digests)])


def _linking(embeddings: Embeddings, by: str) -> list[NDArray[np.str_]]:
    if by == "exam":
        if not (embeddings.columns.get("exam", np.array("")) != "").any():
            raise UsageError("no image has an exam to split by; leave it to patients")
        return []
    if by == "patient":
        return [embeddings.groups]
    if by not in embeddings.columns:
        known = ", ".join(dict.fromkeys(("patient", "exam", "image", *embeddings.columns)))
        raise UsageError(f"no column {by!r} to split by; there are {known}")
    return [embeddings.groups, embeddings.columns[by]]


def kfold(
    embeddings: Embeddings,
    labels: NDArray[np.str_],
    folds: int,
    seed: int,
    by: str = "patient",
) -> Split:
    """Stratified k-fold that keeps linked images together, whatever the order of the rows.

    Parameters
    ----------
    labels
        (n,) str, none empty.
    folds
        From 2 up to the number of linked sets and of images of the commonest class.

    Raises
    ------
    UsageError
        So many folds cannot be made.
    DataError
        A class has fewer than two patients, or a fold would be empty.
    """
    groups = linked(embeddings, by)
    check_classes(labels, groups, by)
    most = _most_folds(labels, groups)
    if not 2 <= folds <= most:
        raise UsageError(f"{folds} folds of {len(np.unique(groups))} {by}s; give 2 to {most}")
    fold = _stratified(embeddings.ids, labels, groups, folds, seed)
    split = Split(f"{folds}-fold by {by}", embeddings.ids, fold, seed)
    check_sides(split, labels)
    return split


def holdout(
    embeddings: Embeddings,
    labels: NDArray[np.str_],
    share: float,
    seed: int,
    by: str = "patient",
) -> Split:
    """Stratified train/test split with about `share` of the images on the test side.

    Raises
    ------
    DataError
        As for `kfold`, and where a class would not be tested.
    """
    if not 0 < share <= 0.5:
        raise DataError(f"a test share of {share}; give more than 0 and at most 0.5")
    groups = linked(embeddings, by)
    check_classes(labels, groups, by)
    most = _most_folds(labels, groups)
    part = Fraction(share).limit_denominator(min(most, max(10, round(1 / share))))
    if not part:
        raise DataError(f"a test share of {share} is too small for {len(labels)} images")
    fold = _stratified(embeddings.ids, labels, groups, part.denominator, seed)
    tested = np.where(fold < part.numerator, 0, -1).astype(np.intp)
    split = Split(f"holdout of {share:.0%} by {by}", embeddings.ids, tested, seed)
    check_sides(split, labels)
    if missing := np.setdiff1d(labels, labels[tested == 0]).tolist():
        raise DataError(
            f"class {missing[0]!r} would not be tested; use folds, a larger test share or "
            f"another seed"
        )
    return split


def with_validation(
    embeddings: Embeddings,
    labels: NDArray[np.str_],
    split: Split,
    share: float,
    by: str = "patient",
) -> Split:
    """Set a stratified share of what a holdout learns from aside, for calibration.

    Raises
    ------
    DataError
        The split has several folds, a validation side already, or too few patients for that share.
    """
    if not 0 < share <= 0.5:
        raise DataError(f"a validation share of {share}; give more than 0 and at most 0.5")
    if split.fold.max() > 0:
        raise DataError(
            "a validation share is of what one holdout learns from; of folds, each calibrates on "
            "the others"
        )
    if (split.fold == VALIDATION).any():
        raise DataError("the split has a validation side already: leave the validation share out")
    train = np.flatnonzero(split.fold == TRAIN)
    try:
        part = holdout(embeddings.take(train), labels[train], share, split.seed, by)
    except DataError as error:
        raise DataError(
            f"a validation share of {share} cannot be had of the {len(train)} images learnt from "
            f"with every class on both sides; give another, or another seed"
        ) from error
    fold = split.fold.copy()
    fold[train[part.fold == 0]] = VALIDATION
    return Split(f"{split.method}, {share:.0%} of the rest aside", split.ids, fold, split.seed)


def inner_folds(
    truth: NDArray[np.intp], groups: NDArray[np.intp], seed: int, most: int = 5
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Split a training side once more, stratified and by group, to choose or calibrate on.

    Parameters
    ----------
    truth, groups
        (n,) class numbers, and numbers of what must stay together.

    Returns
    -------
    list
        Row numbers of the two sides of each of `most` folds, fewer where a class has few groups.

    Raises
    ------
    DataError
        A class has one group only.
    """
    _, classes = distinct(truth)
    _, sets = distinct(groups)
    least = _fewest_groups(classes, sets)
    if least < 2:
        raise DataError(
            "a class has one patient on a training side, so nothing can be chosen or calibrated "
            "there: leave --sweep out, use fewer folds, or merge the class"
        )
    folds = min(most, least)
    fold = stratified_folds(classes, sets, folds, seed)
    sides = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]
    return [(a, b) for a, b in sides if len(a) and len(b)]


def _groups_of_classes(classes: NDArray[np.intp], groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """(k,) how many groups hold each class; both numbers from 0 on."""
    k = int(classes.max()) + 1
    held = np.bincount(groups * k + classes, minlength=(int(groups.max()) + 1) * k).reshape(-1, k)
    groups_of: NDArray[np.intp] = (held > 0).sum(axis=0)
    return groups_of


def _fewest_groups(classes: NDArray[np.intp], groups: NDArray[np.intp]) -> int:
    return int(_groups_of_classes(classes, groups).min())


def _most_folds(labels: NDArray[np.str_], groups: NDArray[np.intp]) -> int:
    commonest = int(np.bincount(distinct(labels)[1]).max())
    return min(len(np.unique(groups)), commonest)


def _stratified(
    ids: NDArray[np.str_], labels: NDArray[np.str_], groups: NDArray[np.intp], folds: int, seed: int
) -> NDArray[np.intp]:
    """(n,) fold of each image, the same for the same ids in any order."""
    order = np.argsort(ids, kind="stable")
    _, first, number = np.unique(groups[order], return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.intp)
    place[np.argsort(first)] = np.arange(len(first))
    fold = np.empty(len(ids), dtype=np.intp)
    _, classes = distinct(labels)
    fold[order] = stratified_folds(classes[order], place[number], folds, seed)
    if len(np.unique(fold)) < folds:
        raise DataError(f"one of {folds} folds would be empty; use fewer folds or another seed")
    return fold


def check_classes(labels: NDArray[np.str_], groups: NDArray[np.intp], by: str = "patient") -> None:
    """Refuse labels no honest split can be made of."""
    classes, number = distinct(labels)
    if len(classes) < 2:
        found = repr(str(classes[0])) if len(classes) else "none"
        raise DataError(f"a probe needs two classes; the labels have one value: {found}")
    for name, patients, images in zip(
        classes,
        _groups_of_classes(number, distinct(groups)[1]),
        np.bincount(number),
        strict=True,
    ):
        if patients < 2:
            raise DataError(
                f"class {str(name)!r} has {patients} {by} ({images} images), so "
                f"it cannot be both learnt and tested; leave the class out or merge it "
                f"(blank or rename its cells: `embedstore update`)"
            )


def check_sides(split: Split, labels: NDArray[np.str_]) -> None:
    """Refuse a split that would train without one of its classes."""
    names, number = distinct(labels)
    classes = np.unique(number[split.fold != OUTSIDE])
    for k, (train, _) in enumerate(split):
        if len(missing := np.setdiff1d(classes, number[train])):
            raise DataError(
                f"fold {k} would train without class {str(names[missing[0]])!r}; use fewer folds "
                f"or another seed, or leave the class out or merge it "
                f"(blank or rename its cells: `embedstore update`)"
            )
