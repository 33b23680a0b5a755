"""What stands on both sides of a split: patients, exams, files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.distinct import distinct, same_bytes
from embedstore.types import OUTSIDE, Embeddings, Split

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Leak:
    """One kind of thing that stands on both sides of some fold.

    Attributes
    ----------
    kind
        "patient", "exam" or "file".
    shared
        How many of them.
    images
        How many tested images have one in common with what is learnt from or validated on.
    pairs
        Some of them: an id that is tested, and one on the other side.
    """

    kind: str
    shared: int
    images: int
    pairs: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Say it in one line, with an example."""
        kinds = f"{self.kind}s" if self.shared != 1 else self.kind
        tested, other = self.pairs[0]
        return (
            f"{self.shared} {kinds} on both sides of the split ({self.images} tested images; "
            f"{tested} and {other}, say)"
        )


def leaks(embeddings: Embeddings, split: Split) -> list[Leak]:
    """Find the patients, exams and identical files that are tested and on another side as well.

    The other side is what a fold learns from, or the validation side: what is chosen or tempered
    there has seen them.

    Parameters
    ----------
    split
        Of these embeddings, row for row.
    """
    exams = embeddings.columns.get("exam", np.full(len(embeddings), ""))
    files = same_bytes(embeddings.digests)
    kinds: dict[str, NDArray[Any]] = {"patient": embeddings.groups, "exam": exams, "file": files}
    found = (_leak(kind, values, embeddings.ids, split) for kind, values in kinds.items())
    return [leak for leak in found if leak]


def _leak(kind: str, values: NDArray[Any], ids: NDArray[np.str_], split: Split) -> Leak | None:
    names, number = distinct(values)
    fold = split.fold
    known = values != "" if values.dtype.kind == "U" else np.ones(len(values), dtype=bool)
    inside = np.flatnonzero(known & (fold != OUTSIDE))
    lowest, highest = np.full((2, len(names)), OUTSIDE)
    lowest[number[inside]] = highest[number[inside]] = fold[inside]
    np.minimum.at(lowest, number[inside], fold[inside])
    np.maximum.at(highest, number[inside], fold[inside])
    crossing = (highest >= 0) & (lowest < highest)
    if not crossing.any():
        return None
    rows = inside[crossing[number[inside]]]
    rows = rows[np.argsort(ids[rows])]
    tested = rows[fold[rows] >= 0]
    pairs = []
    for row in tested[:_SHOWN].tolist():
        other = rows[(number[rows] == number[row]) & (fold[rows] != fold[row])][0]
        pairs.append((str(ids[row]), str(ids[other])))
    return Leak(kind, int(crossing.sum()), len(tested), tuple(pairs))
