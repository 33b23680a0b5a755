"""Is a store as it was written? Every committed byte is looked at; only leftovers can be removed.

A chunk carries a crc32c, so a changed bit is found; what the arrays say of each other is compared
with what a commit always makes equal. Files that no commit covers are what a killed run leaves:
harmless, written over by the next run, and all that `repair` removes.

Not to be seen from within a store: two full chunks of one array that changed places, and a root
``zarr.json`` of an earlier commit beside array metadata of the same one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.arrays import is_tombstones
from embedstore.chunks import DIFFERS, Layout, read_chunk, read_sized
from embedstore.commit import COPY, layout_of
from embedstore.errors import StoreError
from embedstore.leftovers import (
    Checked,
    Finding,
    chunk_count,
    find_strays,
    open_store,
    remove_empty_folders,
)
from embedstore.lock import lock_of, write_lock
from embedstore.metadata import describe_again, metadata_trouble, own_metadata
from embedstore.places import ahead, each, is_remote, place, remove
from embedstore.saved_index import folder_of, in_use, load
from embedstore.store import FAILURE_COLUMNS, SAMPLE_COLUMNS, Store

_OF_EACH_IMAGE = ("rows", "digests", "cut", "stat")
_SET = {
    "embeddings": ("vectors", *_OF_EACH_IMAGE),
    "pixels": ("values", *_OF_EACH_IMAGE),
    "texts": ("sentence", "vectors"),
}
_TOMBSTONES = {"samples/deleted": "samples/id", "failures/dropped": "failures/id"}
_SETS = ("embeddings/", "pixels/")
_HAVE_VECTORS = ("embeddings/", "texts/")
_UNKNOWN = np.iinfo(np.int64).min


Progress = Callable[[int, int], None]


def check(path: Path | str, on_progress: Progress = lambda done, total: None) -> Checked:
    """Verify one commit of a store, chunk by chunk; a writer may be at work meanwhile.

    Memory does not grow with the vectors or pictures: one chunk at a time, besides 8 bytes for
    each sample and each row of the sets of vectors. `on_progress` is told of chunks done and to do.

    Raises
    ------
    StoreError
        No store is there, or its root ``zarr.json`` cannot be understood.
    """
    path = place(path)
    work = _Check(open_store(path), on_progress)
    work.run()
    _check_indices(work)
    find_strays(path, work.result)
    return work.result


def repair(path: Path | str, on_progress: Progress = lambda done, total: None) -> Checked:
    """Verify a store and remove what no commit covers; no committed file is ever touched.

    The files removed are `leftovers` of the result, and no findings of it.

    Raises
    ------
    StoreBusy
        A writer is at work; the message names its process and host.
    StoreError
        No store is there, its root ``zarr.json`` cannot be understood, or files cannot be removed.
    """
    path = place(path)
    open_store(path)
    try:
        with write_lock(lock_of(path)):
            work = _Check(open_store(path), on_progress)
            work.run()
            _check_indices(work)
            find_strays(path, work.result, locked=True)
            describe_again(work.store)
            remove(work.result.leftovers)  # one may just have been written over
            remove_empty_folders(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be repaired: {error.strerror or error}") from error
    found = work.result.findings
    work.result.findings = [f for f in found if f.kind not in {"leftover", "lock"}]
    return work.result


def _check_indices(work: _Check) -> None:
    """Add the indices that are damaged: they are made of what is in the store, and not missed."""
    for key in in_use(work.store, work.store.specs.values()):
        spec = work.store.specs[key]
        try:
            load(work.store, spec)
        except StoreError as error:
            where = str(folder_of(work.store, spec))
            what = f"the index of {spec.backbone} cannot be used"
            work.result.findings.append(Finding("index", where, what, str(error), True))


@dataclass(slots=True)
class _Check:
    """One run over one commit. `rows` and `hashes` keep what must be compared across chunks."""

    store: Store
    on_progress: Progress
    result: Checked = field(init=False)
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    hashes: NDArray[np.int64] = field(init=False)
    damaged: list[tuple[Layout, int, str, str]] = field(default_factory=list)
    _ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.result = Checked(self.store.commit)
        self.hashes = np.zeros(self.store.rows("samples/id"), dtype=np.int64)

    def run(self) -> None:
        """Fill in `result`."""
        # array metadata before the root it is compared with: a writer at work writes it after
        names, path = list(self.store.arrays), self.store.path
        own = dict(
            zip(names, each(partial(own_metadata, path), names, is_remote(path)), strict=True)
        )
        self._compare_metadata(own, open_store(self.store.path))
        self._compare_counts()
        self._compare_specs()
        self._read_chunks()
        self._report_chunks()
        self._compare_rows()
        self._compare_ids()

    def add(self, kind: str, where: str, what: str, todo: str, **more: Any) -> None:
        self.result.findings.append(Finding(kind, str(self.store.path / where), what, todo, **more))

    # what the files say of each other

    def _compare_metadata(self, own: Mapping[str, Any], root: Store) -> None:
        for name, metadata in own.items():
            kind, what, todo = metadata_trouble(metadata, root.arrays.get(name, {}))
            if kind:
                self.add(kind, f"{name}/zarr.json", what, todo, harmless=kind == "behind")

    def _compare_counts(self) -> None:
        for prefix, members in _sets(self.store).items():
            counts = {m: self.store.rows(f"{prefix}/{m}") for m in members}
            there = all(f"{prefix}/{m}" in self.store.arrays for m in members)
            if len(set(counts.values())) > 1 or not there:
                said = ", ".join(f"{n} {m}" for m, n in counts.items())
                todo = f"the root zarr.json was changed after it was written: {COPY}"
                self.add("counts", prefix, f"the counts disagree: {said}", todo)

    def _compare_specs(self) -> None:
        for key, spec in self.store.specs.items():
            if spec.key != key:
                what = f"the Spec of key {key} was changed after it was written"
                self.add("spec", "zarr.json", what, COPY)
        for prefix in _sets(self.store):
            key = prefix.rpartition("/")[2]
            if prefix.startswith(_HAVE_VECTORS) and key not in self.store.specs:
                self.add("spec", "zarr.json", f"there is no Spec for {prefix}", COPY)

    # the chunks

    def _read_chunks(self) -> None:
        layouts = {
            name: layout_of(name, metadata)
            for name, metadata in self.store.arrays.items()
            if metadata["node_type"] == "array"
        }
        todo = [(x, c) for x in layouts.values() for c in range(chunk_count(self.store, x))]
        path = self.store.path
        blocks = ahead(lambda job: read_sized(path, *job), todo, is_remote(path))
        for done, ((layout, chunk), ready) in enumerate(zip(todo, blocks, strict=True), 1):
            block = self._read(layout, chunk, ready)
            if block is not None:
                start = chunk * layout.chunk_rows
                self._look(layout.name, block[: self.store.rows(layout.name) - start], start)
            self.on_progress(done, len(todo))

    def _read(
        self, layout: Layout, chunk: int, ready: Callable[[], tuple[NDArray[Any], int]]
    ) -> NDArray[Any] | None:
        """Return one chunk, or None where it is damaged, which is noted."""
        file = layout.chunk_file(self.store.path, chunk)
        self.result.chunks += 1
        try:
            block, size = ready()
        except (StoreError, OSError, ValueError) as error:
            self.damaged.append((layout, chunk, *_chunk_trouble(file, layout, error)))
            return None
        self.result.bytes += size
        return block

    def _look(self, name: str, block: NDArray[Any], start: int) -> None:
        """Look at the committed rows of a whole chunk, or keep what is compared later."""
        leaf = name.rpartition("/")[2]
        if name == "samples/id":
            self.hashes[start : start + len(block)] = [hash(str(i)) for i in block]
        elif (leaf in {"rows", "dropped"} and name.startswith(_SETS)) or name in _TOMBSTONES:
            known = self.rows.setdefault(name, np.full(self.store.rows(name), _UNKNOWN))
            known[start : start + len(block)] = block
        elif leaf in {"vectors", "digests"} and name.startswith((*_SETS, *_HAVE_VECTORS)):
            self._look_at_values(name, leaf, block, start)

    def _look_at_values(self, name: str, leaf: str, block: NDArray[Any], start: int) -> None:
        if leaf == "vectors" and not np.isfinite(block).all():
            at = start + np.flatnonzero(~np.isfinite(block).all(axis=1))
            what = f"{len(at)} vectors are not finite, the first at row {at[0]}"
            self.add("values", name, what, COPY)
        empty = start + np.flatnonzero(~block.any(axis=1))
        if len(empty) and leaf == "digests":
            what = f"{len(empty)} rows are empty, the first is {empty[0]}: a chunk is an old one"
            self.add("values", name, what, COPY)
        elif len(empty):
            what = f"{len(empty)} vectors are all zeros, the first at row {empty[0]}"
            todo = f"right where an image is all black, else a chunk is an old one: {COPY}"
            self.add("zeros", name, what, todo, harmless=True)

    def _report_chunks(self) -> None:
        for layout, chunk, kind, what in self.damaged:
            start = chunk * layout.chunk_rows
            stop = min(start + layout.chunk_rows, self.store.rows(layout.name))
            where = layout.chunk_file(Path(), chunk).as_posix()
            what = f"{what}: rows {start} to {stop - 1} of {layout.name}"
            ids = self._samples(layout.name, start, stop)
            todo = "make it readable, or " * (kind == "unreadable") + _chunk_todo(layout.name, ids)
            self.add(kind, where, what, todo, ids=ids)

    def _samples(self, name: str, start: int, stop: int) -> tuple[str, ...]:
        """Return the ids of the samples that these rows of an array are of."""
        if name.startswith(("failures/", "texts/")) or is_tombstones(name):
            return ()
        if not self._ids:
            self._ids = _known_ids(self.store)
        at = np.arange(start, stop)
        if not name.startswith("samples/"):
            known = self.rows.get(name.rpartition("/")[0] + "/rows", np.full(stop, _UNKNOWN))
            at = known[start:stop]
        in_table = at[(at >= 0) & (at < len(self._ids))].tolist()
        return tuple(self._ids[row] or f"row {row}" for row in in_table)

    # what must be so across chunks

    def _compare_rows(self) -> None:
        for name, rows in self.rows.items():
            prefix, _, leaf = name.rpartition("/")
            of = _TOMBSTONES.get(name, f"{prefix}/rows" if leaf == "dropped" else "samples/id")
            count = self.store.rows(of)
            known = rows[rows != _UNKNOWN]
            wrong = known[(known < 0) | (known >= count)]
            if len(wrong):
                where = (
                    f"the table of {count} samples" if of == "samples/id" else f"{count} of {of}"
                )
                self.add("rows", name, f"row {wrong[0]} is not in {where}", COPY)
            shown = rows[self._shown(prefix)] if leaf == "rows" else rows
            seen, times = np.unique(shown[shown != _UNKNOWN], return_counts=True)
            if (times > 1).any():
                what = f"{int((times > 1).sum())} samples are there twice, the first is row "
                self.add("rows", name, f"{what}{seen[times > 1][0]}", COPY)

    def _shown(self, prefix: str) -> NDArray[np.bool_]:
        """(n,): whether each row of a set is not dropped, as far as that can be told."""
        shown = np.ones(self.store.rows(f"{prefix}/rows"), dtype=bool)
        dropped = self.rows.get(f"{prefix}/dropped", np.empty(0, dtype=np.int64))
        shown[dropped[(dropped >= 0) & (dropped < len(shown))]] = False
        return shown

    def _compare_ids(self) -> None:
        if any(layout.name == "samples/id" for layout, *_ in self.damaged):
            return
        if len(np.unique(self.hashes)) == len(self.hashes):
            return
        twice = [i for i, times in Counter(_known_ids(self.store)).items() if times > 1]
        if twice:  # else two ids happen to have one hash
            what = f"{len(twice)} ids are there twice, the first is {twice[0]!r}"
            self.add("ids", "samples/id", what, COPY)


def _sets(store: Store) -> dict[str, Sequence[str]]:
    """Map each folder of arrays that have one length to the names of these arrays."""
    labels = [f"labels/{name}" for name in store.labels]
    sets: dict[str, Sequence[str]] = {"samples": [*SAMPLE_COLUMNS, *labels]}
    if "failures" in store.arrays:
        sets["failures"] = FAILURE_COLUMNS
    for name, metadata in store.arrays.items():
        top, _, _ = name.partition("/")
        if metadata["node_type"] == "array" and top in _SET:
            sets[name.rpartition("/")[0]] = _SET[top]
    return sets | {f"embeddings/{key}": _SET["embeddings"] for key in store.specs}


def _chunk_trouble(file: Path, layout: Layout, error: Exception) -> tuple[str, str]:
    """Return kind and what of a chunk that could not be read."""
    if isinstance(error, OSError):
        return "unreadable", f"cannot be read ({error.strerror or error})"
    if not file.exists():
        return "missing", "the chunk is missing"
    if layout.dtype != "string":
        row = int(np.prod(layout.row, dtype=np.int64)) * np.dtype(layout.dtype).itemsize
        size, whole = file.stat().st_size, layout.chunk_rows * row + 4
        if size != whole:
            return "cut", f"the chunk has {size} bytes, not {whole}"
    if DIFFERS not in str(error):
        return "cut", "the chunk is not of so many rows"
    return "checksum", "the checksum differs, so the chunk was changed after it was written"


def _chunk_todo(name: str, ids: Sequence[str], shown: int = 3) -> str:
    listed = ", ".join(ids[:shown]) + (f" and {len(ids) - shown} more" if len(ids) > shown else "")
    if name.startswith(("failures/", "texts/")):
        return f"{COPY}, or extract into a new store"
    if not ids:
        return f"{COPY}, or extract into a new store; which images it is of cannot be told"
    what = "these images" if name.startswith("embeddings/") else "what there is of these images"
    what = "the pictures of these images" if name.startswith("pixels/") else what
    return f"{COPY}, or extract {what} again into a new store: {listed}"


def _known_ids(store: Store) -> list[str]:
    """Return the id of each sample, "" where its chunk is damaged."""
    layout = layout_of("samples/id", store.arrays["samples/id"])
    ids: list[str] = []
    for chunk in range(chunk_count(store, layout)):
        try:
            ids += read_chunk(store.path, layout, chunk).tolist()
        except (StoreError, OSError, ValueError):
            ids += [""] * layout.chunk_rows
    return ids[: store.rows("samples/id")]
