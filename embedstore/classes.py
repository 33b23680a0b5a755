"""The classes of a label, and the order they are numbered in."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from embedstore.distinct import distinct
from embedstore.errors import UsageError


def order_of(labels: NDArray[np.str_], order: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the classes in the order quadratic kappa takes them: as given, else sorted.

    Numbers sort as numbers.

    Raises
    ------
    UsageError
        `order` leaves a class out or names one twice.
    """
    found = set(map(str, distinct(labels)[0].tolist()))
    if order:
        if missing := found - set(order):
            absent = [name for name in order if name not in found]
            more = f"; no image is of {', '.join(absent)}" if absent else ""
            raise UsageError(f"the class order leaves out {', '.join(sorted(missing))}{more}")
        if len(set(order)) < len(order):
            raise UsageError(f"the class order names a class twice: {', '.join(order)}")
        return tuple(c for c in order if c in found)
    if numeric(found):
        return tuple(sorted(found, key=lambda v: (float(v), v)))
    return tuple(sorted(found))


_UNKNOWN = {"nan", "na", "n/a", "null", "<na>", "nat", "?"}


def sounds_unknown(value: str) -> bool:
    """Say whether a class is named as other programs write what is not known."""
    return value.strip().casefold() in _UNKNOWN


def numeric(names: Iterable[str]) -> bool:
    """Say whether all class names are finite numbers."""
    try:
        return all(math.isfinite(float(v)) for v in names)
    except ValueError:
        return False
