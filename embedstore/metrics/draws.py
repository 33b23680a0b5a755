"""Resamples of patients as weights: how often each was drawn.

Patients and not images are drawn, because images of a patient are not independent (Field and
Welsh 2007, cluster bootstrap). Every metric is a function of these weights, so that all resamples
are computed at once, and two contenders on the same draws can be subtracted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_BLOCK = 1 << 22  # weights that are turned to floats at a time
_LEFT_OUT = 200


@dataclass(frozen=True, slots=True)
class Draws:
    """Weights of patients, (b, p) counts, row 0 all ones; and the patient of each image, (n,)."""

    weights: NDArray[np.uint16]
    patient: NDArray[np.intp]

    def __len__(self) -> int:
        """Count the rows of weights."""
        return len(self.weights)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Draws:
        """Only those images, drawn as before."""
        return Draws(self.weights, self.patient[rows])

    def total(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """(n, m) values of images to their (b, m) weighted sums."""
        counts = values.dtype.kind in "bui"
        sums = np.zeros((self.weights.shape[1], values.shape[1]))
        np.add.at(sums, self.patient, values)
        # float32 adds whole numbers without error up to 2**24
        small = counts and np.abs(sums).sum(axis=0).max(initial=0) * self.weights.max() < 2**24
        exact: type[np.floating[Any]] = np.float32 if small else np.float64
        exactly = sums.astype(exact)
        out = np.empty((len(self), values.shape[1]))
        for some in self.blocks(_BLOCK // max(1, sums.shape[0])):
            out[some] = self.weights[some].astype(exact) @ exactly
        return out

    def blocks(self, rows: int) -> Iterator[slice]:
        """Cut the rows of weights into slices of about so many."""
        rows = max(1, rows)
        for start in range(0, len(self), rows):
            yield slice(start, min(start + rows, len(self)))


def patient_draws(groups: NDArray[Any], resamples: int, seed: int) -> Draws:
    """Draw as many patients as there are, with replacement, `resamples` times."""
    _, number = np.unique(groups, return_inverse=True)
    patients = int(number.max()) + 1
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + resamples, patients), dtype=np.uint16)
    for row in range(1, 1 + resamples):
        weights[row] = np.bincount(rng.integers(0, patients, patients), minlength=patients)
    return Draws(weights, number.astype(np.intp))


def jackknife(groups: NDArray[Any], seed: int = 0) -> Draws:
    """Leave each patient out, one after the other; of more than 200, a 200th of them at a time."""
    _, number = np.unique(groups, return_inverse=True)
    patients = int(number.max()) + 1
    parts = min(patients, _LEFT_OUT)
    part = np.random.default_rng(seed).permutation(patients) % parts
    left_out = part[None] == np.arange(parts)[:, None]
    weights = np.concatenate([np.ones((1, patients), bool), ~left_out]).astype(np.uint16)
    return Draws(weights, number.astype(np.intp))
