"""Answers that one class has taken over: a score that is the majority floor in disguise.

A variant has collapsed where the classes other than its commonest answer get less than a quarter of
the answers that they are due by their share of the images. Where the class makes up 25, 48, 77 or
95 % of the images that is from 81, 87, 94 or 99 % of the answers on, so that being right about a
common class is none.
Classes never answered are told of beside it: a rare one may be missing where nothing collapsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DUE = 0.25
"""Below this part of what the other classes are due, the answers have collapsed."""


@dataclass(frozen=True, slots=True)
class Leaning:
    """What the answers of one variant lean to.

    Attributes
    ----------
    commonest
        Number of the class answered most, and `share` its part of the answers.
    never
        Numbers of the classes that some images are of and none was answered.
    """

    commonest: int
    share: float
    collapsed: bool
    never: tuple[int, ...]


def leaning(counts: NDArray[Any]) -> Leaning:
    """(k, k) images by true class (rows) and answer."""
    answered, true = counts.sum(axis=0), counts.sum(axis=1)
    commonest = int(answered.argmax())
    return Leaning(
        commonest,
        float(answered[commonest] / answered.sum()),
        bool(collapsed(counts[None])[0]),
        tuple(np.flatnonzero((answered == 0) & (true > 0)).tolist()),
    )


def collapsed(counts: NDArray[Any]) -> NDArray[np.bool_]:
    """(v, k, k) to (v,)."""
    answered, true = counts.sum(axis=1), counts.sum(axis=2)
    rows, total = np.arange(len(counts)), counts.sum(axis=(1, 2))
    commonest = answered.argmax(axis=1)
    others = total - answered[rows, commonest]
    due = total - true[rows, commonest]
    flags: NDArray[np.bool_] = others < DUE * due
    return flags
