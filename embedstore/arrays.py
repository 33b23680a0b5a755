"""The arrays of a store as of one commit, raw, and which of their rows are visible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.chunks import Layout, Maps, map_rows, read_chunks, read_rows
from embedstore.commit import Stamp, layout_of, read_root, stamp_of
from embedstore.errors import StoreError
from embedstore.places import is_remote


@dataclass(frozen=True, slots=True)
class Arrays:
    """What lies on the disk as of one commit.

    `rows`, `array` and `blocks` are raw: they show deleted samples and dropped vectors too.
    """

    path: Path
    arrays: Mapping[str, Mapping[str, Any]]
    commit: int
    verify: bool = field(default=False, kw_only=True)
    _root: Stamp = field(default=(0, 0), kw_only=True, repr=False, compare=False)
    _maps: Maps = field(default_factory=Maps, kw_only=True, repr=False, compare=False)

    def rows(self, array: str) -> int:
        """Count the committed rows of one array, 0 where it does not exist."""
        return int(self.arrays[array]["shape"][0]) if array in self.arrays else 0

    def array(self, name: str, wanted: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """Read one array into memory, all of it or the rows `wanted`.

        Raises
        ------
        StoreError
            There is none, a chunk is missing or damaged, or the array was written anew since the
            store was opened and its chunks of then are gone.
        """
        layout = self._layout(name)
        with self._as_committed(layout):
            return read_rows(self.path, layout, self.rows(name), wanted, self._maps, self.verify)

    def mapped(self, name: str) -> NDArray[Any] | None:
        """Memory-map an array, read-only; None where that cannot be, or must be verified."""
        layout = self._layout(name)
        with self._as_committed(layout):
            return None if self.verify else map_rows(self.path, layout, self.rows(name), self._maps)

    def _layout(self, name: str) -> Layout:
        if name not in self.arrays:
            raise StoreError(f"{self.path}: no array {name!r}")
        return layout_of(name, self.arrays[name])

    @contextmanager
    def _as_committed(self, layout: Layout) -> Iterator[None]:
        """Refuse what is read in the block if it may be of another commit."""
        mapped = self._maps.made
        try:
            yield
        except StoreError:
            self._refuse_rewritten(layout, 1)
            raise
        if layout.dtype == "string" or self._maps.made > mapped:
            self._refuse_rewritten(layout, 2)

    def blocks(self, name: str, keep: NDArray[np.bool_] | None = None) -> Iterator[NDArray[Any]]:
        """Yield one array chunk by chunk, each against its checksum; text as objects.

        All of it, raw, or of each chunk the rows to `keep`, (n,).
        """
        layout, rows = self._layout(name), self.rows(name)
        starts = range(0, rows, layout.chunk_rows)
        chunks = read_chunks(self.path, layout, range(len(starts)))
        for start, chunk in zip(starts, chunks, strict=True):
            block = chunk[: rows - start]
            yield block if keep is None else block[keep[start : start + len(block)]]

    def _refuse_rewritten(self, layout: Layout, times: int) -> None:
        """Raise if the array was written anew so often that these may be chunks of another commit.

        After one time the chunks of this commit are as they were, or gone.
        """
        if stamp_of(self.path) == self._root:
            return
        now = read_root(self.path)["consolidated_metadata"]["metadata"].get(layout.name)
        if now is None or layout_of(layout.name, now).rewrites >= layout.rewrites + times:
            raise StoreError(
                f"{self.path}: {layout.name} was written anew since the store was opened; "
                f"open it again"
            )

    @property
    def visible(self) -> NDArray[np.intp]:
        """(len,) raw row numbers of the samples that are not deleted."""
        shown = self._every("samples/id")
        shown[self._listed("samples/deleted")] = False
        return np.flatnonzero(shown)

    @property
    def deleted(self) -> frozenset[str]:
        """Ids of the deleted samples; `compact` forgets them."""
        rows = self.hidden
        return frozenset(self.array("samples/id", rows).tolist()) if len(rows) else frozenset()

    @property
    def hidden(self) -> NDArray[np.intp]:
        """(m,) raw row numbers of the deleted samples, ascending."""
        return np.unique(self._listed("samples/deleted"))

    def places(self, prefix: str) -> NDArray[np.intp]:
        """(n,) places in the arrays of one set whose vectors or pictures are visible.

        `prefix` is ``embeddings/<key>`` or ``pixels/<key>/<kind>``.
        """
        shown = self._every(f"{prefix}/rows")
        shown[self._listed(f"{prefix}/dropped")] = False
        if len(gone := self._listed("samples/deleted")):
            shown &= ~np.isin(self.array(f"{prefix}/rows"), gone)
        return np.flatnonzero(shown)

    def _every(self, name: str) -> NDArray[np.bool_]:
        """(n,) True for each row of an array; of a damaged root, n could be more than memory has.

        Raises
        ------
        StoreError
            The last chunk is not there.
        """
        if (n := self.rows(name)) and not is_remote(self.path):
            layout = self._layout(name)
            last = layout.chunk_file(self.path, (n - 1) // layout.chunk_rows)
            if not last.is_file():
                self._refuse_rewritten(layout, 1)
                raise StoreError(f"{last}: a chunk of the store is missing")
        return np.ones(n, dtype=bool)

    def _listed(self, name: str) -> NDArray[np.intp]:
        return self.array(name) if self.rows(name) else np.empty(0, dtype=np.intp)


def is_tombstones(array: str) -> bool:
    """Say whether an array lists rows of others that hold nothing any more."""
    return array in {"samples/deleted", "failures/dropped", f"{set_of(array)}/dropped"}


def set_of(array: str) -> str:
    """Return what has one row for each row of an array: its set, "samples" or "failures"."""
    top, _, _ = array.partition("/")
    return array.rpartition("/")[0] if top in {"embeddings", "pixels", "texts"} else top
