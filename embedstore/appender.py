"""The growing end of an array: rows wait in memory until their chunks are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.chunks import Layout, encode, no_rows, read_chunk, read_chunks, write_whole
from embedstore.errors import StoreError


@dataclass(slots=True)
class Appender:
    """The growing end of one array: rows wait here until `flush` writes their chunks."""

    root: Path
    layout: Layout
    rows: int
    _tail: list[NDArray[Any]] = field(default_factory=list)
    _changed: bool = False

    def __post_init__(self) -> None:
        """Take back the rows of the last, partly filled chunk."""
        kept = self.rows % self.layout.chunk_rows
        if kept:
            chunk = self.rows // self.layout.chunk_rows
            self._tail = [read_chunk(self.root, self.layout, chunk)[:kept]]

    def append(self, values: NDArray[Any] | Sequence[str]) -> None:
        """Add rows; nothing is on disk before `flush`."""
        text = self.layout.dtype == "string"
        block = np.asarray(values, dtype=object if text else self.layout.dtype)
        if block.shape[1:] != self.layout.row:
            raise StoreError(
                f"{self.layout.name}: rows are {self.layout.row}, not {block.shape[1:]}"
            )
        self._tail.append(block)
        self.rows += len(block)
        self._changed = True

    def values(self) -> NDArray[Any]:
        """(rows, …): every row, also those that wait; text comes as an object array."""
        waiting = sum(map(len, self._tail))
        chunks = range((self.rows - waiting) // self.layout.chunk_rows)
        parts = read_chunks(self.root, self.layout, chunks)
        return np.concatenate([no_rows(self.layout), *parts, *self._tail])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(len(rows), …): those rows, also where they wait; only their chunks are read."""
        step = self.layout.chunk_rows
        written = (self.rows - sum(map(len, self._tail))) // step
        of = np.minimum(rows // step, written)  # all that waits is one block
        found = np.empty((len(rows), *self.layout.row), dtype=no_rows(self.layout).dtype)
        for chunk in np.unique(of).tolist():
            whole = chunk < written
            block = read_chunk(self.root, self.layout, chunk) if whole else self._waiting()
            found[of == chunk] = block[rows[of == chunk] - chunk * step]
        return found

    def _waiting(self) -> NDArray[Any]:
        return np.concatenate([no_rows(self.layout), *self._tail])

    def flush(self, last: bool = True) -> None:
        """Write every chunk the rows reach into; the last one, if not full, also stays in memory.

        Without `last`, chunks that are not full only stay in memory.
        """
        waiting = sum(map(len, self._tail))
        step = self.layout.chunk_rows
        if not self._changed or not self.rows or (not last and waiting < step):
            return
        block = np.concatenate(self._tail)
        first, full = (self.rows - len(block)) // step, len(block) // step * step
        for start in range(0, len(block) if last else full, step):
            file = self.layout.chunk_file(self.root, first + start // step)
            write_whole(file, encode(self.layout, block[start : start + step]))
        self._tail = [block[full:].copy()] if full < len(block) else []
        self._changed = not last and bool(self._tail)
