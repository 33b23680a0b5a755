"""Who asks, who may be found, and what of it is relevant: the same for every backbone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedstore.classes import order_of
from embedstore.errors import DataError, UsageError
from embedstore.levels import differing_note, fused, missing_notes, units
from embedstore.protocol import labelled
from embedstore.remarks import image_notes
from embedstore.splits import linked
from embedstore.types import Embeddings, Floats

MOST = 20_000
"""Images up to which all of them are queries."""

MOST_CLASSES = 500
"""Values a label may have."""

DRAWN = 5_000
"""Queries drawn of more, unless another number is asked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How retrieval is judged.

    Attributes
    ----------
    label
        The column whose values make two images alike.
    ks
        Depths, ascending.
    order
        The classes in clinical order, for graded gains.
    level
        What is found, one of `levels.LEVELS`: above the image the mean of its images' unit vectors.
    same_patient
        Let images of the query's own patient be found.
    queries
        Draw whole patients with at most so many queries; by default `DRAWN` where there are more
        than `MOST`.
    seed
        Of that draw, and of the resamples.
    """

    label: str
    ks: tuple[int, ...] = (10,)
    order: tuple[str, ...] = ()
    level: str = "image"
    same_patient: bool = False
    queries: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """Images with a known label, and which of them ask.

    Attributes
    ----------
    ids, truth, patients
        (n,) ids, class numbers, and numbers of what is linked (`splits.linked`).
    apart
        (n,) numbers: images of one number never find each other.
    classes
        Names, in order.
    queries
        (q,) rows of those that ask, each with something relevant to find.
    counts
        (q, c) how many of each class each could find.
    eligible
        How many could have asked; more than q where they were drawn.
    """

    asked: Asked
    ids: NDArray[np.str_]
    truth: NDArray[np.intp]
    patients: NDArray[np.intp]
    apart: NDArray[np.intp]
    classes: tuple[str, ...]
    queries: NDArray[np.intp]
    counts: NDArray[np.intp]
    eligible: int
    notes: tuple[str, ...]

    @property
    def total(self) -> NDArray[np.intp]:
        """(q,) how many relevant ones each could find."""
        return self.counts[np.arange(len(self.queries)), self.truth[self.queries]]

    @property
    def candidates(self) -> NDArray[np.intp]:
        """(q,) how many each could find."""
        found: NDArray[np.intp] = self.counts.sum(axis=1)
        return found


def pose(embeddings: Embeddings, asked: Asked) -> tuple[Task, Floats]:
    """Set the task for some embeddings; also return their (n, d) unit vectors.

    Raises
    ------
    UsageError
        There is no such column, or a k is more than some query has to rank.
    DataError
        No label is known, or only one, or too many; or nobody has anything to find.
    """
    at_level, fusing = _at_level(embeddings, asked)
    kept, labels, unlabelled = labelled(at_level, asked.label)
    classes = order_of(labels, asked.order)
    if len(classes) < 2:
        raise DataError(
            f"{asked.label} has one value, {classes[0]!r}: whatever is found is relevant, and "
            f"there is nothing to judge"
        )
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{asked.label} has {len(classes)} values, a label at most {MOST_CLASSES}; sentences "
            f"are judged with --text {asked.label}"
        )
    places = {name: number for number, name in enumerate(classes)}
    truth = np.array([places[v] for v in labels.tolist()], dtype=np.intp)
    patients = linked(kept)
    apart = np.arange(len(kept)) if asked.same_patient else patients
    able = np.bincount(truth)[truth] > _shared(truth, apart)
    unit = kept.unit()
    notes = (
        *image_notes(kept, 0 if fusing else unlabelled, asked.label),
        *fusing,
        *_unable(able, truth, classes, asked),
        *_zeros(unit),
    )
    rows = np.flatnonzero(able)
    _refuse_depth(kept.ids[rows], len(kept) - np.bincount(apart)[apart[rows]], asked)
    queries = _drawn(rows, patients, asked)
    task = Task(
        asked,
        kept.ids,
        truth,
        patients,
        apart,
        classes,
        queries,
        _counts(truth, apart, queries, len(classes)),
        len(rows),
        notes,
    )
    return task, unit


def _at_level(embeddings: Embeddings, asked: Asked) -> tuple[Embeddings, tuple[str, ...]]:
    """Take the mean unit vector of each exam, say; also return what is to be said."""
    if asked.level == "image" or asked.label not in embeddings.columns:
        return embeddings, ()
    of = units(embeddings, asked.level)
    made, _ = fused(replace(embeddings, vectors=embeddings.unit()), of, "mean")
    values, differ = of.agreed(embeddings.columns[asked.label])
    notes = differing_note(of, differ, asked.label) + missing_notes(embeddings, asked.level)
    if unknown := int(((values == "") & ~differ).sum()):
        notes = (f"{unknown} {asked.level}s without {asked.label} left out", *notes)
    return made, notes


def _shared(truth: NDArray[np.intp], apart: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) how many of an image's class it is apart from, itself among them."""
    pairs = np.stack([apart, truth], axis=1)
    _, number, sizes = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    found: NDArray[np.intp] = sizes[number.reshape(-1)]
    return found


def _counts(
    truth: NDArray[np.intp], apart: NDArray[np.intp], queries: NDArray[np.intp], classes: int
) -> NDArray[np.intp]:
    """(q, c) how many of each class each query could find: all but those it is apart from."""
    sets, of_query = np.unique(apart[queries], return_inverse=True)
    inside = np.isin(apart, sets)
    own = np.zeros((len(sets), classes), dtype=np.intp)
    np.add.at(own, (np.searchsorted(sets, apart[inside]), truth[inside]), 1)
    counts: NDArray[np.intp] = np.bincount(truth, minlength=classes) - own[of_query]
    return counts


def _unable(
    able: NDArray[np.bool_], truth: NDArray[np.intp], classes: tuple[str, ...], asked: Asked
) -> tuple[str, ...]:
    """Say who has nothing relevant to find; `DataError` where nobody has."""
    whose = "" if asked.same_patient else " of another patient"
    if not able.any():
        raise DataError(
            f"no {asked.level} has another{whose} with its {asked.label}: there is nothing to find"
        )
    if able.all():
        return ()
    which = np.bincount(truth[~able], minlength=len(classes))
    said = ", ".join(f"{c} {n}" for c, n in zip(classes, which.tolist(), strict=True) if n)
    return (
        f"{int((~able).sum())} {asked.level}s are no queries, for none{whose} has their "
        f"{asked.label} ({said}); they can be found",
    )


def _zeros(unit: Floats) -> tuple[str, ...]:
    zeros = int((~unit.any(axis=1)).sum())
    return (f"{zeros} vectors are all zeros: cosine 0 to every other",) if zeros else ()


def _refuse_depth(ids: NDArray[np.str_], candidates: NDArray[np.intp], asked: Asked) -> None:
    least = int(candidates.argmin())
    if (k := max(asked.ks)) > candidates[least]:
        whose = "" if asked.same_patient else " of other patients"
        raise UsageError(
            f"-k {k}: {asked.level} {str(ids[least])!r} has {candidates[least]} "
            f"{asked.level}s{whose} to rank; give at most {candidates[least]}"
        )


def _drawn(rows: NDArray[np.intp], patients: NDArray[np.intp], asked: Asked) -> NDArray[np.intp]:
    """Keep all, or the queries of patients drawn at random, as many as there may be."""
    most = asked.queries or (len(rows) if len(rows) <= MOST else DRAWN)
    if len(rows) <= most:
        return rows
    known, number, sizes = np.unique(patients[rows], return_inverse=True, return_counts=True)
    order = np.random.default_rng(asked.seed).permutation(len(known))
    fits = np.cumsum(sizes[order]) <= most
    if not fits.any():
        raise UsageError(
            f"--queries {most}: the first patient drawn has {sizes[order[0]]} images; give more"
        )
    return rows[np.isin(number, order[fits])]
