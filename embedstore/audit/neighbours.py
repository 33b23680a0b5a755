"""The nearest images of other patients, and which are so near that they must be the same picture.

How near is too near is learnt from the collection. Were the images of other patients around an
image spread evenly in m dimensions, the volumes of the balls up to its neighbours, as shares of the
ball up to the k-th, would be k - 1 sorted uniform numbers: (r_j / r_k)^m is Beta(j, k - j) (as in
Levina and Bickel 2004, and Facco et al. 2017). m is taken from the median of r_3 / r_k, which an
image's one or two twins do not move; then r_1 / r_k has a known distribution, and a pair is
near-identical where such a ratio would be met once in a hundred collections of this size
(Bonferroni). A ratio, because some regions are denser than others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.classifier import standardised
from embedstore.pairs import all_neighbours
from embedstore.types import Floats, unit_rows

K = 10
"""Neighbours of each image."""

MOST = 60_000
"""Images that are all compared with each other; of more, whole patients are drawn."""

FALSE_ALARMS = 0.01
"""Chance that a collection without near-identical images is said to have some."""

CERTAIN = 0.2
"""Nearest as a share of the k-th, below which a near-identical pair is wrong and not only to be
looked at: on 162 real films and 240 synthetic ones, with three backbones, no two patients came
nearer than 0.26, and the same film written anew with a lossy codec was mostly below 0.1."""

_THIRD = 3
_FEWEST = 30


@dataclass(frozen=True, slots=True)
class Near:
    """Each image's k nearest of other patients.

    Attributes
    ----------
    at
        (m,) row numbers of the images compared.
    rows
        (m, k) row numbers of their neighbours.
    distances
        (m, k) between vectors that are centred, scaled by column and of length 1, ascending.
    """

    at: NDArray[np.intp]
    rows: NDArray[np.intp]
    distances: NDArray[np.float64]

    @property
    def cosines(self) -> NDArray[np.float64]:
        """(m, k) of the same vectors."""
        return 1 - self.distances**2 / 2


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows, their cosine, and their distance as a share of that to the k-th neighbour."""

    one: int
    other: int
    cosine: float
    share: float

    @property
    def certain(self) -> bool:
        """Whether it is `CERTAIN`."""
        return self.share < CERTAIN


def nearest(vectors: Floats, groups: NDArray[np.intp], seed: int = 0) -> Near | None:
    """Find the neighbours; None where there are fewer than 30 images of other patients.

    Parameters
    ----------
    vectors
        (n, d).
    groups
        (n,) numbers of what must stay together.
    """
    at = _drawn(groups, seed)
    of = groups[at]
    if not len(at) or len(at) - int(np.bincount(of).max()) < _FEWEST:
        return None
    unit = unit_rows(standardised(vectors[at], np.arange(len(at))))
    _, rows = all_neighbours(unit, K, of)
    # cosines in float32 do not tell apart what is nearer than 3e-4
    distances = np.stack(
        [np.linalg.norm((unit - unit[rows[:, j]]).astype(np.float64), axis=1) for j in range(K)],
        axis=1,
    )
    order = np.argsort(distances, axis=1, kind="stable")
    ordered = (np.take_along_axis(each, order, axis=1) for each in (at[rows], distances))
    return Near(at, *ordered)


def near_identical(near: Near) -> list[Pair]:
    """Return the pairs nearer than chance allows, nearest first."""
    furthest = near.distances[:, -1:]
    share = np.divide(
        near.distances, furthest, out=np.zeros_like(near.distances), where=furthest > 0
    )
    limit = _limit(share)
    found: dict[tuple[int, int], Pair] = {}
    for i, j in zip(*np.nonzero(share < limit), strict=True):
        one, other = sorted((int(near.at[i]), int(near.rows[i, j])))
        pair = Pair(one, other, float(near.cosines[i, j]), float(share[i, j]))
        known = found.get((one, other), pair)
        found[one, other] = min(known, pair, key=lambda p: p.share)
    return sorted(found.values(), key=lambda p: (p.share, p.one, p.other))


def _limit(share: NDArray[np.float64]) -> float:
    """How small a share r_1 / r_k must be to be no chance."""
    from scipy.stats import beta

    median = float(np.median(share[:, _THIRD - 1]))
    if not 0 < median < 1:
        return float(np.finfo(float).tiny)  # equal vectors throughout: only a share of 0 is below
    dimension = np.log(beta.median(_THIRD, K - _THIRD)) / np.log(median)
    volume = 1 - (1 - FALSE_ALARMS / len(share)) ** (1 / (K - 1))
    return float(volume ** (1 / dimension))


def _drawn(groups: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """(m,) rows of all images, or of as many patients as have `MOST` of them."""
    if len(groups) <= MOST:
        return np.arange(len(groups))
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    taken = order[np.cumsum(sizes[order]) <= MOST]
    return np.flatnonzero(np.isin(groups, taken))
