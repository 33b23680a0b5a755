"""Columns as numbers, so that an answer can be compared with all without reading all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.answering import Agreement, Mix
from embedstore.search import Searcher
from embedstore.store import Store
from embedstore.table import frame


@dataclass(frozen=True, slots=True)
class Codes:
    """A column at the n places in the vectors of one Spec.

    Attributes
    ----------
    values
        The different values, sorted, without the unknown.
    code
        (n,) int32: which one; -1 where unknown, or where nothing is there.
    counts
        How many places have each.
    numbers
        Whether a filter takes them as numbers.
    """

    name: str
    values: tuple[str, ...]
    code: NDArray[np.int32]
    counts: NDArray[np.intp]
    numbers: bool

    @classmethod
    def of(cls, store: Store, searcher: Searcher, name: str) -> Codes:
        """Read a column."""
        raw = store.array(store.column_array(name), searcher.rows)
        raw = np.where(searcher.there, raw, "")
        values, code = np.unique(raw, return_inverse=True)
        known = values != ""
        numbers = (code - int((~known).sum())).astype(np.int32)  # "" is sorted first
        counts = np.bincount(numbers[numbers >= 0], minlength=int(known.sum()))
        names = tuple(values[known].tolist())
        table = frame({name: names}, store.labels)
        return cls(name, names, numbers, counts, bool(names) and table[name].dtype.is_numeric())

    def value(self, place: int) -> str:
        """Return the value at a place, "" where unknown."""
        code = int(self.code[place])
        return self.values[code] if code >= 0 else ""

    def filter(self, value: str) -> str | None:
        """Return the filter that lets this value pass; None where a filter cannot say it."""
        if "`" in self.name:
            return None
        return f"`{self.name}` == {value if self.numbers else repr(value)}"


def mates(searcher: Searcher, own: NDArray[np.intp]) -> NDArray[np.intp]:
    """(m,) places of all that a search leaves out for these: the same patients' and copies."""
    if not len(own):
        return own
    return np.flatnonzero(np.isin(searcher.sets, np.unique(searcher.sets[own])))


def agreement(
    codes: Codes,
    found: NDArray[np.intp],
    left_out: NDArray[np.intp],
    asked: Sequence[int],
) -> Agreement | Mix | None:
    """Compare a label of what was found with that of what was asked, as `answering.agreement`.

    Parameters
    ----------
    found, left_out, asked
        Places of the neighbours, of what does not count for chance, and of the query's own.
    """
    near = codes.code[found]
    near = near[near >= 0]
    if not len(near):
        return None
    away = codes.code[left_out]
    others = codes.counts - np.bincount(away[away >= 0], minlength=len(codes.counts))
    total = int(others.sum())
    wanted = {codes.value(place) for place in asked} - {""}
    if len(wanted) != 1:
        counted = Counter(near.tolist()).most_common()
        shares = ((codes.values[c], n, others[c] / total if total else 0.0) for c, n in counted)
        return Mix(codes.name, tuple((v, n, float(share)) for v, n, share in shares))
    value = wanted.pop()
    code = codes.values.index(value)
    chance = float(others[code] / total) if total else float("nan")
    return Agreement(codes.name, value, float((near == code).mean()), len(near), chance)
