"""The pictures a store keeps beside the vectors, as its backbones see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.arrays import Arrays
from embedstore.types import Pixels


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture as a recipe made it, the digest of its file, and what the recipe cut away.

    `stat` is size in bytes and mtime in ns of the file when it was read; zeros are unknown.
    """

    digest: bytes
    picture: Pixels
    cut: float
    stat: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class KeptPixels:
    """The pictures a store has kept of one recipe, by the row of the sample."""

    arrays: Arrays
    _places: Mapping[int, tuple[str, int]]

    @property
    def rows(self) -> NDArray[np.int64]:
        """(n,) raw row numbers of the samples whose pictures are kept."""
        return np.fromiter(self._places, dtype=np.int64, count=len(self._places))

    def of(self, rows: Iterable[int]) -> KeptPixels:
        """Return those of some samples alone; KeyError where one is not kept."""
        return KeptPixels(self.arrays, {row: self._places[row] for row in rows})

    def read(self, rows: Sequence[int]) -> list[Kept]:
        """Return the pictures of the samples of these raw rows; KeyError where one is not kept."""
        kinds: dict[str, list[int]] = {}
        for n, row in enumerate(rows):
            kinds.setdefault(self._places[row][0], []).append(n)
        found: dict[int, Kept] = {}
        for prefix, numbers in kinds.items():
            at = np.array([self._places[rows[n]][1] for n in numbers], dtype=np.intp)
            values, digests, cut, stat = (
                self.arrays.array(f"{prefix}/{name}", at)
                for name in ("values", "digests", "cut", "stat")
            )
            for i, n in enumerate(numbers):
                size, time = stat[i].tolist()
                found[n] = Kept(digests[i].tobytes(), values[i], float(cut[i]), (size, time))
        return [found[n] for n in range(len(rows))]
