"""LEACE: vectors changed as little as can be so that nothing linear is left in them of a concept.

Belrose et al. 2023, arXiv 2306.03819, theorem 4.3: with S the covariance of the vectors, W the
pseudo-inverse of its root and P the projection onto the columns of W cov(x, z)::

    r(x) = x - W^+ P W (x - E x)

It has zero covariance with z, so that no linear reader fitted to it under a convex loss does better
than a constant, and of all affine maps that have, the least mean squared change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_NOTHING = 1e-9  # a correlation that is rounding


@dataclass(frozen=True, slots=True)
class Eraser:
    """The map: `mean` (d,), and what is taken away as `left` (d, r) times `right` (r, d)."""

    mean: Doubles
    left: Doubles
    right: Doubles

    @classmethod
    def fit(cls, vectors: NDArray[np.floating[Any]], concept: NDArray[np.intp]) -> Eraser:
        """Fit to (n, d) vectors and (n,) class numbers of what is to be erased."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors.astype(np.float64) - mean
        shown = np.eye(int(concept.max()) + 1)[concept]
        cross = centred.T @ (shown - shown.mean(axis=0)) / len(concept)
        values, axes = np.linalg.eigh(centred.T @ centred / len(concept))
        kept = values > values[-1] * max(centred.shape) * np.finfo(np.float64).eps
        axes, root = axes[:, kept], np.sqrt(values[kept])
        # in the coordinates of the kept axes W is a division by the roots
        u, correlation, _ = np.linalg.svd((axes.T @ cross) / root[:, None], full_matrices=False)
        u = u[:, correlation > _NOTHING]
        return cls(mean, axes @ (root[:, None] * u), (u / root[:, None]).T @ axes.T)

    def __call__(self, vectors: NDArray[np.floating[Any]]) -> Doubles:
        """(n, d) to (n, d)."""
        erased: Doubles = vectors - ((vectors - self.mean) @ self.right.T) @ self.left.T
        return erased
