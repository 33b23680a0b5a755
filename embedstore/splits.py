"""Splits in which no patient, exam or identical image stands on two sides."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError
from embedstore.types import Embeddings, Split


def linked(embeddings: Embeddings) -> NDArray[np.intp]:
    """Give each set of images that must stay together a number: (n,) ints.

    Two images are linked by sharing a patient, an exam or all their bytes, and so on in chains. An
    image whose patient is unknown is linked only by the others.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(embeddings)
    exams = embeddings.columns.get("exam", np.full(n, ""))
    digests = np.array([d.tobytes().hex() for d in embeddings.digests])
    rows, columns, offset = [], [], n
    for values in (embeddings.groups, exams, digests):
        _, number = np.unique(values, return_inverse=True)
        known = np.flatnonzero(values != "")
        rows.append(known)
        columns.append(offset + number[known])
        offset += n
    edges = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(offset, offset))
    _, component = connected_components(graph, directed=False)
    _, links = np.unique(component[:n], return_inverse=True)
    return links.astype(np.intp)


def kfold(embeddings: Embeddings, labels: NDArray[np.str_], folds: int, seed: int) -> Split:
    """Stratified k-fold that keeps linked images together, whatever the order of the rows.

    Parameters
    ----------
    labels
        (n,) str, none empty.
    folds
        From 2 up to the number of linked sets and of images of the commonest class.

    Raises
    ------
    DataError
        There are too few patients, or a class has fewer than two.
    """
    groups = linked(embeddings)
    check_classes(labels, groups)
    most = _most_folds(labels, groups)
    if not 2 <= folds <= most:
        raise DataError(f"{folds} folds of {len(np.unique(groups))} patients; give 2 to {most}")
    fold = _stratified(embeddings.ids, labels, groups, folds, seed)
    split = Split(f"{folds}-fold by patient", embeddings.ids, fold, seed)
    _check_sides(split, labels)
    return split


def holdout(embeddings: Embeddings, labels: NDArray[np.str_], share: float, seed: int) -> Split:
    """Stratified train/test split with about `share` of the images on the test side.

    Raises
    ------
    DataError
        As for `kfold`, and where a class would not be tested.
    """
    if not 0 < share <= 0.5:
        raise DataError(f"a test share of {share}; give more than 0 and at most 0.5")
    groups = linked(embeddings)
    check_classes(labels, groups)
    most = _most_folds(labels, groups)
    part = Fraction(share).limit_denominator(min(most, max(10, round(1 / share))))
    if not part:
        raise DataError(f"a test share of {share} is too small for {len(labels)} images")
    fold = _stratified(embeddings.ids, labels, groups, part.denominator, seed)
    tested = np.where(fold < part.numerator, 0, -1).astype(np.intp)
    split = Split(f"holdout of {share:.0%} by patient", embeddings.ids, tested, seed)
    _check_sides(split, labels)
    if missing := set(labels.tolist()) - set(labels[tested == 0].tolist()):
        raise DataError(
            f"class {min(missing)!r} would not be tested; use folds, a larger test share or "
            f"another seed"
        )
    return split


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
    from sklearn.model_selection import StratifiedGroupKFold

    least = min(len(np.unique(groups[truth == c])) for c in np.unique(truth))
    if least < 2:
        raise DataError(
            "a class has one patient on a training side, so nothing can be chosen or calibrated "
            "there: leave --sweep out, use fewer folds, or merge the class"
        )
    splitter = StratifiedGroupKFold(min(most, least), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        return [(a, b) for a, b in splitter.split(truth, truth, groups) if len(a) and len(b)]


def _most_folds(labels: NDArray[np.str_], groups: NDArray[np.intp]) -> int:
    commonest = int(np.unique(labels, return_counts=True)[1].max())
    return min(len(np.unique(groups)), commonest)


def _stratified(
    ids: NDArray[np.str_], labels: NDArray[np.str_], groups: NDArray[np.intp], folds: int, seed: int
) -> NDArray[np.intp]:
    """(n,) fold of each image, the same for the same ids in any order."""
    from sklearn.model_selection import StratifiedGroupKFold

    order = np.argsort(ids)
    _, first, number = np.unique(groups[order], return_index=True, return_inverse=True)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = np.empty(len(ids), dtype=np.intp)
    with warnings.catch_warnings():
        # a class rarer than the folds is absent from some test sides, which is no harm
        warnings.filterwarnings("ignore", message="The least populated class")
        for k, (_, test) in enumerate(splitter.split(order, labels[order], first[number])):
            fold[order[test]] = k
    if len(np.unique(fold)) < folds:
        raise DataError(f"one of {folds} folds would be empty; use fewer folds or another seed")
    return fold


def check_classes(labels: NDArray[np.str_], groups: NDArray[np.intp]) -> None:
    """Refuse labels no honest split can be made of."""
    classes = np.unique(labels)
    if len(classes) < 2:
        found = repr(str(classes[0])) if len(classes) else "none"
        raise DataError(f"a probe needs two classes; the labels have one value: {found}")
    for name in classes:
        patients = len(np.unique(groups[labels == name]))
        if patients < 2:
            raise DataError(
                f"class {str(name)!r} has {patients} patient ({(labels == name).sum()} images), so "
                f"it cannot be both learnt and tested; leave the class out or merge it"
            )


def _check_sides(split: Split, labels: NDArray[np.str_]) -> None:
    classes = set(labels.tolist())
    for k, (train, _) in enumerate(split):
        if missing := classes - set(labels[train].tolist()):
            raise DataError(
                f"fold {k} would train without class {min(missing)!r}; use fewer folds or "
                f"another seed"
            )
