"""What stands on both sides of a split: patients, exams, files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.types import Embeddings, Split

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
        How many tested images have one in common with the training side.
    pairs
        Some of them: an id that is tested, and one that was learnt from.
    """

    kind: str
    shared: int
    images: int
    pairs: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Say it in one line, with an example."""
        kinds = f"{self.kind}s" if self.shared != 1 else self.kind
        tested, learnt = self.pairs[0]
        return (
            f"{self.shared} {kinds} on both sides of the split ({self.images} tested images; "
            f"{tested} and {learnt}, say)"
        )


def leaks(embeddings: Embeddings, split: Split) -> list[Leak]:
    """Find the patients, exams and identical files that are both learnt from and tested.

    Parameters
    ----------
    split
        Of these embeddings, row for row.
    """
    digests = np.array([d.tobytes().hex() for d in embeddings.digests])
    exams = embeddings.columns.get("exam", np.full(len(embeddings), ""))
    kinds = {"patient": embeddings.groups, "exam": exams, "file": digests}
    found = (_leak(kind, values, embeddings.ids, split) for kind, values in kinds.items())
    return [leak for leak in found if leak]


def _leak(kind: str, values: NDArray[np.str_], ids: NDArray[np.str_], split: Split) -> Leak | None:
    names, number = np.unique(values, return_inverse=True)
    known = values != ""
    shared: set[int] = set()
    images = 0
    pairs: list[tuple[str, str]] = []
    for train, test in split:
        train, test = train[known[train]], test[known[test]]
        both = test[np.isin(number[test], number[train])]
        images += len(both)
        shared |= set(number[both].tolist())
        for row in both[: _SHOWN - len(pairs)].tolist():
            other = train[number[train] == number[row]][0]
            pairs.append((str(ids[row]), str(ids[other])))
    return Leak(kind, len(shared), images, tuple(pairs)) if shared else None
