"""Splits in which no patient, exam or identical image stands on two sides."""

from __future__ import annotations

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
    """Stratified k-fold that keeps linked images together.

    Parameters
    ----------
    labels
        (n,) str, none empty.
    folds
        Between 2 and the number of linked sets.

    Raises
    ------
    DataError
        There are too few patients, or a class has fewer than two.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = linked(embeddings)
    check_classes(labels, groups)
    sets = len(np.unique(groups))
    if not 2 <= folds <= sets:
        raise DataError(f"{folds} folds of {sets} patients; give 2 to {sets} folds")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = np.empty(len(labels), dtype=np.intp)
    for k, (_, test) in enumerate(splitter.split(np.zeros((len(labels), 1)), labels, groups)):
        fold[test] = k
    split = Split(f"{folds}-fold by patient", embeddings.ids, fold, seed)
    _check_sides(split, labels)
    return split


def holdout(embeddings: Embeddings, labels: NDArray[np.str_], share: float, seed: int) -> Split:
    """Stratified train/test split with about `share` of the images on the test side."""
    if not 0 < share <= 0.5:
        raise DataError(f"a test share of {share}; give more than 0 and at most 0.5")
    folds = kfold(embeddings, labels, round(1 / share), seed)
    fold = np.where(folds.fold == 0, 0, -1).astype(np.intp)
    return Split(f"holdout of {share:.0%} by patient", embeddings.ids, fold, seed)


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
                f"fold {k} would train without class {sorted(missing)[0]!r}; use fewer folds or "
                f"another seed"
            )
