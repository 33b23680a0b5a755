"""Who competes: prompt variants, as the sentences of each class, and the images they answer for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError
from embedstore.types import Floats, unit_rows

_SENTENCES = 1 << 14  # looked up at a time

Wording = tuple[tuple[int, ...], ...]
"""Of one variant: for each class the numbers of its sentences, a repeated one counting twice."""


@dataclass(frozen=True, slots=True)
class Task:
    """Images with known classes, and who may choose on which of them.

    Attributes
    ----------
    images
        (n, d) float32 of length 1, or 0.
    truth
        (n,) class numbers, in the order of `classes`.
    groups
        (n,) numbers of what must be drawn together (patients).
    fold
        (n,) the fold that tests each image, or why none does, as in `Split`.
    classes
        Their k names, in clinical order.
    temperature
        What cosines are divided by before the softmax; 0.01 is CLIP's.
    """

    images: Floats
    truth: NDArray[np.intp]
    groups: NDArray[np.intp]
    fold: NDArray[np.intp]
    classes: tuple[str, ...]
    temperature: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        n, k = len(self.images), len(self.classes)
        for name in ("truth", "groups", "fold"):
            if len(getattr(self, name)) != n:
                raise DataError(f"{name} has {len(getattr(self, name))} rows, images has {n}")
        if k < 2:
            raise DataError(f"prompts are compared over two classes or more, not {k}")
        if not n or self.truth.min() < 0 or self.truth.max() >= k:
            raise DataError(f"truth must be numbers from 0 to {k - 1}, of one image or more")
        if not self.temperature > 0:
            raise DataError(f"a temperature of {self.temperature}; give a number above 0")
        if not (self.fold >= 0).any():
            raise DataError("the split tests no image: give one with a test side, or folds")
        lengths = np.linalg.norm(self.images, axis=1)
        if not ((np.abs(lengths - 1) < 1e-3) | (lengths == 0)).all():
            raise DataError("image vectors must be of length 1: give Embeddings.unit()")

    @property
    def tested(self) -> NDArray[np.intp]:
        """Row numbers of all that is tested."""
        return np.flatnonzero(self.fold >= 0)


@dataclass(frozen=True, slots=True)
class Entries:
    """Variants over one bank of sentences; classes worded alike share one vector.

    Attributes
    ----------
    sentences
        (s, d) floats: the vectors of all sentences, as the backbone gave them or of length 1.
    starts, members
        Sentences of the distinct sets one after the other: set i has
        ``members[starts[i]:starts[i + 1]]``.
    sets
        (v, k) the set that words each class of each variant.
    """

    sentences: NDArray[np.floating[Any]]
    starts: NDArray[np.intp]
    members: NDArray[np.int32]
    sets: NDArray[np.int32]

    @classmethod
    def of(cls, sentences: NDArray[np.floating[Any]], variants: Sequence[Wording]) -> Entries:
        """Give each distinct set of sentences a number.

        Raises
        ------
        DataError
            There is no variant, one has another number of classes than the first, a class has no
            sentence, or a sentence has no vector.
        """
        if not variants:
            raise DataError("no prompt variant to compare")
        k, known = len(variants[0]), {}  # type: int, dict[tuple[int, ...], int]
        sets = np.empty((len(variants), k), dtype=np.int32)
        for v, wording in enumerate(variants):
            if len(wording) != k or not all(wording):
                raise DataError(f"variant {v} needs a sentence for each of the {k} classes")
            for c, used in enumerate(wording):
                sets[v, c] = known.setdefault(tuple(used), len(known))
        starts = np.cumsum([0, *map(len, known)])
        members = np.array([number for used in known for number in used], dtype=np.int32)
        if members.min() < 0 or members.max() >= len(sentences):
            raise DataError(f"sentence {members.max()} has no vector; there are {len(sentences)}")
        return cls(sentences, starts, members, sets)

    def __len__(self) -> int:
        """Count the variants."""
        return len(self.sets)

    def wording(self, variant: int) -> Wording:
        """Give back the sentences of each class."""
        return tuple(
            tuple(self.members[self.starts[i] : self.starts[i + 1]].tolist())
            for i in self.sets[variant].tolist()
        )

    def only(self, variants: NDArray[np.intp] | Sequence[int]) -> Entries:
        """Those variants alone, in that order."""
        return replace(self, sets=self.sets[variants])

    def vectors(self, sets: NDArray[np.integer[Any]]) -> Floats:
        """(u,) set numbers to (u, d) unit class vectors: unit mean of its sentences' unit vectors.

        As `texts.class_vectors` has it: CLIP's ensembles (Radford et al. 2021, arXiv 2103.00020,
        section 3.1.4).
        """
        lengths = self.starts[sets + 1] - self.starts[sets]
        ends = np.cumsum(lengths)
        if ends[-1] > _SENTENCES and len(sets) > 1:
            half = len(sets) // 2
            return np.concatenate([self.vectors(sets[:half]), self.vectors(sets[half:])])
        places = np.arange(ends[-1]) + np.repeat(self.starts[sets] - (ends - lengths), lengths)
        rows = unit_rows(self.sentences[self.members[places]])
        if len(rows) == len(sets):
            return unit_rows(rows)
        return unit_rows(np.add.reduceat(rows, ends - lengths) / lengths[:, None])
