"""Image files that hold other bytes than those a store was made from.

A file is read again only where its size or time is another than it was; where the bytes are the
same, the new time is noted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.images.decode import digest_of
from embedstore.images.prepare import stat_of
from embedstore.matching import prefixes
from embedstore.places import each, is_remote
from embedstore.plan import Plan
from embedstore.readers import read_each
from embedstore.store import Store
from embedstore.types import Sample
from embedstore.writer import Writer

_NOT_FOUND = (0, 0)


def changed(
    writer: Writer,
    samples: Sequence[Sample],
    rows: NDArray[np.int64],
    plan: Plan,
) -> NDArray[np.int64]:
    """Return the rows of which any vectors or kept pictures were made from other bytes.

    Files that cannot be found count as unchanged.
    """
    store = writer.store()
    there = prefixes(store)
    if not there or not samples:
        return np.empty(0, dtype=np.int64)
    remote = any(is_remote(s.path) for s in samples)
    found_now = each(stat_of, [s.path for s in samples], remote)
    stats = np.array([stat or _NOT_FOUND for stat in found_now], dtype=np.int64)
    suspects = {prefix: _suspects(store, prefix, rows, stats) for prefix in there}
    listed = sorted({n for numbers, _ in suspects.values() for n in numbers.tolist()})
    jobs = ((samples[n].path,) for n in listed)
    now = dict(zip(listed, read_each(digest_of, jobs, plan.workers, plan.seconds), strict=True))
    found: set[int] = set()
    for prefix, (numbers, places) in suspects.items():
        then = store.array(f"{prefix}/digests", places)
        same = [now[n] == d.tobytes() for n, d in zip(numbers.tolist(), then, strict=True)]
        mask = np.array(same, dtype=bool)
        found |= set(rows[numbers[~mask]].tolist())
        _note(writer, prefix, places[mask], stats[numbers[mask]])
    return np.array(sorted(found), dtype=np.int64)


def _suspects(
    store: Store, prefix: str, rows: NDArray[np.int64], stats: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the samples whose file has another size or time than it had in a set.

    The result is their numbers, and their places in the arrays of the set.
    """
    places = store.places(prefix)
    order = np.argsort(rows, kind="stable")
    of_set = store.array(f"{prefix}/rows", places)
    at = np.minimum(np.searchsorted(rows, of_set, sorter=order), len(rows) - 1)
    numbers = order[at]
    then, now = store.array(f"{prefix}/stat", places), stats[numbers]
    known = (rows[numbers] == of_set) & then.any(axis=1) & now.any(axis=1)
    suspect = known & (then != now).any(axis=1)
    return numbers[suspect], places[suspect]


def _note(writer: Writer, prefix: str, places: NDArray[np.intp], stats: NDArray[np.int64]) -> None:
    """Note the sizes and times of files whose bytes are the same."""
    if len(places):
        values = writer.store().array(f"{prefix}/stat")
        values[places] = stats
        writer.rewrite(f"{prefix}/stat", [values])
