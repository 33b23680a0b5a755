"""Image files that hold other bytes than those a store was made from.

A file is read again only where its size or time is another than it was; where the bytes are the
same, the new time is noted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.images.decode import digest_of
from embedstore.images.prepare import stat_of
from embedstore.plan import Plan
from embedstore.readers import read_each
from embedstore.store import Store
from embedstore.types import Backbone, Sample
from embedstore.writer import Writer

Stats = Mapping[int, tuple[int, int] | None]
"""Size and time of the file of each row; None where it cannot be found."""


def changed(
    writer: Writer,
    samples: Sequence[Sample],
    rows: NDArray[np.int64],
    backbones: Sequence[Backbone],
    plan: Plan,
) -> NDArray[np.int64]:
    """Return the rows of which these backbones, or pictures kept for them, saw other bytes.

    Files that cannot be found count as unchanged.
    """
    store = writer.store()
    stats: Stats = {row: stat_of(s.path) for s, row in zip(samples, rows.tolist(), strict=True)}
    paths = {row: s.path for s, row in zip(samples, rows.tolist(), strict=True)}
    suspects = {prefix: _suspects(store, prefix, stats) for prefix in _sets(store, backbones)}
    listed = sorted({row for places in suspects.values() for row in places})
    read = read_each(digest_of, ((paths[row],) for row in listed), plan.workers, plan.seconds)
    now = dict(zip(listed, read, strict=True))
    found: set[int] = set()
    for prefix, places in suspects.items():
        then = store.array(f"{prefix}/digests", np.array(list(places.values()), dtype=np.intp))
        other = {row for row, d in zip(places, then, strict=True) if now[row] != d.tobytes()}
        found |= other
        _note(writer, prefix, {p: stats[row] for row, p in places.items() if row not in other})
    return np.array(sorted(found), dtype=np.int64)


def _sets(store: Store, backbones: Sequence[Backbone]) -> Iterator[str]:
    """Yield where there are vectors of these backbones, and pictures of their recipes."""
    wanted = [f"embeddings/{b.spec.key}/" for b in backbones]
    wanted += [f"pixels/{b.spec.recipe.pixel_key}/" for b in backbones]
    for name in store.arrays:
        if name.startswith(tuple(wanted)) and name.endswith("/rows"):
            yield name.removesuffix("/rows")


def _suspects(store: Store, prefix: str, stats: Stats) -> dict[int, int]:
    """Map rows whose file has another size or time than it had to their places in a set."""
    places = store.places(prefix)
    rows = store.array(f"{prefix}/rows", places).tolist()
    then = store.array(f"{prefix}/stat", places).tolist()
    return {
        row: int(place)
        for row, stat, place in zip(rows, then, places, strict=True)
        if any(stat) and stats.get(row) not in {None, tuple(stat)}
    }


def _note(writer: Writer, prefix: str, stats: Stats) -> None:
    """Note the sizes and times of files whose bytes are the same, by place."""
    if stats:
        values = writer.store().array(f"{prefix}/stat")
        values[list(stats)] = list(stats.values())
        writer.rewrite(f"{prefix}/stat", [values])
