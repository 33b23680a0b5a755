"""What a search found, made into what is shown of it: cases, labels, agreement against chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.search import Hits, Searcher
from embedstore.store import Store

LARGE = 200_000
"""Images in a store, above which only the labels asked for are read for the agreement."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often neighbours have the query's value of a label, and how often by chance.

    `share` is of the `known` neighbours whose value is known, `chance` of all images of other
    patients whose value is.
    """

    label: str
    value: str
    share: float
    known: int
    chance: float

    def __str__(self) -> str:
        """One line, for people."""
        return (
            f"{self.label}: {round(self.share * self.known)} of {self.known} neighbours are "
            f"{self.value} as well ({self.share:.0%}); {self.chance:.0%} by chance"
        )


@dataclass(frozen=True, slots=True)
class Mix:
    """The values of a label among the neighbours of a query that has none, and among all."""

    label: str
    among: tuple[tuple[str, int, float], ...]

    def __str__(self) -> str:
        """One line, for people."""
        parts = [f"{value} {n} ({share:.0%} of all)" for value, n, share in self.among]
        return f"{self.label}: {', '.join(parts)}"


def values_of(store: Store, searcher: Searcher, label: str) -> NDArray[np.str_]:
    """(n,) value of a label at every place in the vectors, "" where nothing is there."""
    values = store.array(store.column_array(label), searcher.rows)
    return np.where(searcher.there, values, "")


def agreement(
    searcher: Searcher,
    label: str,
    values: NDArray[np.str_],
    found: NDArray[np.intp],
    own: NDArray[np.intp],
    asked: Sequence[int],
) -> Agreement | Mix | None:
    """Compare a label of what was found with that of what was asked.

    Parameters
    ----------
    values
        As `values_of` gives them.
    found
        (k,) raw rows of the neighbours.
    own
        Places whose patients were left out; they do not count for chance either.
    asked
        Raw rows of the samples that make the query.

    Returns
    -------
    Agreement, Mix or None
        None where the label is known of no neighbour.
    """
    near = values[searcher.place_of[found]]
    near = near[near != ""]
    if not len(near):
        return None
    others = values[~np.isin(searcher.sets, searcher.sets[own])]
    others = others[others != ""]
    wanted = set(values[searcher.place_of[list(asked)]].tolist()) - {""}
    if len(wanted) != 1:
        counted = Counter(near.tolist()).most_common()
        shares = [(v, n, float((others == v).mean()) if len(others) else 0.0) for v, n in counted]
        return Mix(label, tuple(shares))
    value = wanted.pop()
    chance = float((others == value).mean()) if len(others) else float("nan")
    return Agreement(label, value, float((near == value).mean()), len(near), chance)


def facts(store: Store, rows: Sequence[int]) -> list[dict[str, str]]:
    """Return what the table knows of samples, by raw rows: every column."""
    at = np.asarray(rows, dtype=np.intp)
    columns = {n: store.array(store.column_array(n), at).tolist() for n in store.column_names}
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def plain(store: Store, hits: Hits, number: int) -> list[dict[str, Any]]:
    """Return the cases found for query `number` as plain values, for JSON."""
    known = facts(store, hits.rows[number].tolist())
    return [
        {
            "rank": rank,
            "id": columns.pop("id"),
            "cosine": float(cosine),
            "patient": columns.pop("group"),
            **{n: v for n, v in columns.items() if n not in store.labels},
            "labels": {n: columns[n] for n in store.labels},
        }
        for rank, (columns, cosine) in enumerate(zip(known, hits.cosines[number], strict=True), 1)
    ]
