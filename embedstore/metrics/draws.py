"""Resamples of patients as weights: how often each was drawn.

Patients and not images are drawn, because images of a patient are not independent (Field and
Welsh 2007, cluster bootstrap). Every metric is a function of these weights, so that all resamples
are computed at once, and two contenders on the same draws can be subtracted.

Of more than 16384 patients, 4096 random parts are drawn, each of as many patients: the weights of
two and a half million would take 10 GB, and the spread of 4096 is known to 1 %, which is less than
2000 resamples leave open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
PATIENTS, PARTS = 1 << 14, 1 << 12
"""Above so many patients so many parts of them are drawn."""

_BLOCK = 1 << 22  # weights that are turned to floats at a time
_LEFT_OUT = 200


@dataclass(frozen=True, slots=True)
class Draws:
    """Weights of patients, (b, p) counts, row 0 all ones; and the patient of each image, (n,).

    Or of parts of the patients, where they are many.
    """

    weights: NDArray[np.uint16]
    patient: NDArray[np.intp]

    @classmethod
    def once(cls, images: int) -> Draws:
        """Take the data as they are, every image once."""
        return cls(np.ones((1, 1), dtype=np.uint16), np.zeros(images, dtype=np.intp))

    def __len__(self) -> int:
        """Count the rows of weights."""
        return len(self.weights)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Draws:
        """Only those images, drawn as before."""
        return Draws(self.weights, self.patient[rows])

    def total(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """(n, m) values of images to their (b, m) weighted sums."""
        p = self.weights.shape[1]
        sums = np.stack([np.bincount(self.patient, v, p) for v in values.T], axis=1)
        return self._weighed(sums, values.dtype.kind in "bui")

    def counts(self, cell: NDArray[np.intp], cells: int) -> NDArray[np.float64]:
        """(n,) which of so many cells each image is in to the (b, cells) drawn in each."""
        return self.sums(cell, cells, None)

    def sums(
        self, cell: NDArray[np.intp], cells: int, values: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """(n,) values, None for ones, to their (b, cells) weighted sums by the cell they are in."""
        p = self.weights.shape[1]
        sums = np.bincount(self.patient * cells + cell, values, p * cells).reshape(p, cells)
        return self._weighed(sums, values is None)

    def _weighed(self, sums: NDArray[Any], counts: bool) -> NDArray[np.float64]:
        """(p, m) sums over each patient's images to (b, m)."""
        # float32 adds whole numbers without error up to 2**24
        small = counts and np.abs(sums).sum(axis=0).max(initial=0) * self.weights.max() < 2**24
        exact: type[np.floating[Any]] = np.float32 if small else np.float64
        exactly = sums.astype(exact)
        out = np.empty((len(self), sums.shape[1]))
        for some in self.blocks(_BLOCK // max(1, sums.shape[0])):
            out[some] = self.weights[some].astype(exact) @ exactly
        return out

    def blocks(self, rows: int) -> Iterator[slice]:
        """Cut the rows of weights into slices of about so many."""
        rows = max(1, rows)
        for start in range(0, len(self), rows):
            yield slice(start, min(start + rows, len(self)))


def patient_draws(groups: NDArray[Any], resamples: int, seed: int) -> Draws:
    """Draw as many patients as there are, with replacement, `resamples` times; or parts of them."""
    number = _numbers(groups)
    patients = int(number.max()) + 1
    rng = np.random.default_rng(seed)
    if patients > PATIENTS:
        number, patients = (rng.permutation(patients) % PARTS)[number], PARTS
    weights = np.ones((1 + resamples, patients), dtype=np.uint16)
    for row in range(1, 1 + resamples):
        weights[row] = np.bincount(rng.integers(0, patients, patients), minlength=patients)
    return Draws(weights, number)


def jackknife(groups: NDArray[Any], seed: int = 0) -> Draws:
    """Leave each patient out, one after the other; of more than 200, a 200th of them at a time."""
    number = _numbers(groups)
    patients = int(number.max()) + 1
    parts = min(patients, _LEFT_OUT)
    part = np.random.default_rng(seed).permutation(patients) % parts
    weights = np.concatenate([np.ones((1, parts), np.uint16), 1 - np.eye(parts, dtype=np.uint16)])
    return Draws(weights, part[number])


def _numbers(groups: NDArray[Any]) -> NDArray[np.intp]:
    _, number = np.unique(groups, return_inverse=True)
    return number.reshape(-1).astype(np.intp, copy=False)
