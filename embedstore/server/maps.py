"""The map of a store: its images as points of the plane, placed in the background."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import EmbedstoreError, ImageError
from embedstore.plane import laid_out
from embedstore.readers import Readers
from embedstore.server import schemas
from embedstore.server.snapshot import Snapshot
from embedstore.types import Spec, unit_rows

MOST = 3000
"""Points; of a larger store a sample, the same each time."""

SECONDS, NICE = 900.0, 15


def chosen(places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the places that get a point: all, or a sample by a fixed seed."""
    if len(places) <= MOST:
        return places
    return np.sort(np.random.default_rng(0).choice(places, MOST, replace=False))


class Maps:
    """One map of each Spec, of the last commit that was asked for; in a process that gives way."""

    def __init__(self) -> None:
        self._readers = Readers(laid_out, 1, SECONDS, NICE)
        self._thread = ThreadPoolExecutor(1, "maps")
        self._lock = threading.Lock()
        self._made: dict[str, tuple[Snapshot, schemas.Map]] = {}

    def map(self, snapshot: Snapshot, spec: Spec, label: str) -> schemas.Map:
        """Return the map, or that it is being made."""
        with self._lock:
            of, made = self._made.get(spec.key, (None, None))
            if of is not snapshot or made is None:
                made = _map(snapshot, spec, "working")
                self._made[spec.key] = snapshot, made
                self._thread.submit(self._make, snapshot, spec)
        if made.state != "ready":
            return made
        values = self._column(snapshot, spec, label) if label else []
        return made.model_copy(update={"label": label, "values": values})

    def _column(self, snapshot: Snapshot, spec: Spec, label: str) -> list[str]:
        codes = snapshot.codes(spec, label)
        return [codes.value(place) for place in self._places(snapshot, spec).tolist()]

    def _places(self, snapshot: Snapshot, spec: Spec) -> NDArray[np.intp]:
        return snapshot.remembered(
            f"map {spec.key}", lambda: chosen(np.flatnonzero(snapshot.searcher(spec).there))
        )

    def _make(self, snapshot: Snapshot, spec: Spec) -> None:
        if self._made[spec.key][0] is not snapshot:
            return  # a later commit has come
        try:
            made = self._placed(snapshot, spec)
        except EmbedstoreError as error:
            made = _map(snapshot, spec, "failed", notes=[str(error)])
        with self._lock:
            if self._made[spec.key][0] is snapshot:
                self._made[spec.key] = snapshot, made

    def _placed(self, snapshot: Snapshot, spec: Spec) -> schemas.Map:
        searcher, places = snapshot.searcher(spec), self._places(snapshot, spec)
        vectors = unit_rows(searcher.vectors[places])
        if not len(places) or not np.isfinite(vectors).all():
            raise ImageError("map", "no vectors, or some that are not finite")
        (found,) = self._readers.each([(vectors,)])
        if isinstance(found, ImageError):
            raise found
        at, method = found
        store, rows = snapshot.store, searcher.rows[places]
        sides, views, ids = (
            store.array(f"samples/{n}", rows).tolist() for n in ("laterality", "view", "id")
        )
        total = int(searcher.there.sum())
        return _map(
            snapshot,
            spec,
            "ready",
            method=method,
            ids=ids,
            x=at[:, 0].round(4).tolist(),
            y=at[:, 1].round(4).tolist(),
            views=[f"{s} {v}".strip() for s, v in zip(sides, views, strict=True)],
            notes=[f"{len(ids)} of {total} images, drawn at random"] if total > len(ids) else [],
        )

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._readers.end()


def _map(snapshot: Snapshot, spec: Spec, state: str, **values: object) -> schemas.Map:
    return schemas.Map.model_validate(
        {"state": state, "commit": snapshot.store.commit, "backbone": spec.key, **values}
    )
