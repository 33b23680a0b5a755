"""The map of a store: its images as points of the plane, placed in the background."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import EmbedstoreError, ImageError
from embedstore.readers import Readers
from embedstore.server import schemas
from embedstore.server.snapshot import Snapshot, key_of
from embedstore.types import Floats, Spec, unit_rows

MOST = 3000
"""Points; of a larger store a sample, the same each time."""

SECONDS, NICE = 900.0, 15

_COMPONENTS, _FEW = 50, 10


def positions(vectors: Floats) -> tuple[str, Floats]:
    """Place (n, d) unit vectors in the plane: what was done, and (n, 2) within -1..1.

    50 principal components, then t-SNE (van der Maaten and Hinton 2008); of fewer than ten, two
    principal components.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, d = vectors.shape
    if n < _FEW:
        found = (
            PCA(min(2, n, d), svd_solver="full").fit_transform(vectors) if n > 1 else vectors * 0
        )
        found, method = np.pad(found, ((0, 0), (0, 2)))[:, :2], "two principal components"
    else:
        fewer = min(_COMPONENTS, n, d)
        reduced = PCA(fewer, svd_solver="full").fit_transform(vectors)
        perplexity = min(30.0, (n - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
        found = tsne.fit_transform(reduced.astype(np.float32))
        method = f"t-SNE (perplexity {perplexity:g}) of {fewer} principal components"
    found = found - (found.max(axis=0) + found.min(axis=0)) / 2
    return method, (found / (np.abs(found).max() or 1)).astype(np.float32)


def chosen(places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the places that get a point: all, or a sample by a fixed seed."""
    if len(places) <= MOST:
        return places
    return np.sort(np.random.default_rng(0).choice(places, MOST, replace=False))


class Maps:
    """One map of each Spec, of the last commit that was asked for; in a process that gives way."""

    def __init__(self) -> None:
        self._readers = Readers(positions, 1, SECONDS, NICE)
        self._thread = ThreadPoolExecutor(1, "maps")
        self._lock = threading.Lock()
        self._made: dict[str, tuple[Snapshot, schemas.Map]] = {}

    def map(self, snapshot: Snapshot, spec: Spec, label: str) -> schemas.Map:
        """Return the map, or that it is being made."""
        with self._lock:
            of, made = self._made.get(key_of(spec), (None, None))
            if of is not snapshot or made is None:
                made = _map(snapshot, spec, "working")
                self._made[key_of(spec)] = snapshot, made
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
            f"map {key_of(spec)}", lambda: chosen(np.flatnonzero(snapshot.searcher(spec).there))
        )

    def _make(self, snapshot: Snapshot, spec: Spec) -> None:
        if self._made[key_of(spec)][0] is not snapshot:
            return  # a later commit has come
        try:
            made = self._placed(snapshot, spec)
        except EmbedstoreError as error:
            made = _map(snapshot, spec, "failed", notes=[str(error)])
        with self._lock:
            if self._made[key_of(spec)][0] is snapshot:
                self._made[key_of(spec)] = snapshot, made

    def _placed(self, snapshot: Snapshot, spec: Spec) -> schemas.Map:
        searcher, places = snapshot.searcher(spec), self._places(snapshot, spec)
        vectors = unit_rows(searcher.vectors[places])
        if not len(places) or not np.isfinite(vectors).all():
            raise ImageError("map", "no vectors, or some that are not finite")
        (found,) = self._readers.each([(vectors,)])
        if isinstance(found, ImageError):
            raise found
        method, at = found
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
        {"state": state, "commit": snapshot.store.commit, "backbone": key_of(spec), **values}
    )
