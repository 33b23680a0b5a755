"""Arrays that grow along their first axis, as plain Zarr v3 chunk files.

A chunk of numbers is its raw little-endian bytes and a crc32c, so a local reader can memory-map
it; a chunk of text is ``vlen-utf8`` and a crc32c. A chunk file is always written whole under
another name, flushed, and renamed into place: a reader sees the old file or the new one. In object
storage it is put whole, and fetched whole (`embedstore.places`).

An array whose rows change is written anew under the next form of chunk keys (``c/0/0``, ``c.0.0``,
``0.0``, and again), so that readers of an earlier commit find its chunks as they were.

Zarr v3 core specification: chunk grids "regular", chunk key encodings "default" and "v2", codecs
"bytes", "vlen-utf8" and "crc32c".
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from embedstore.errors import StoreError
from embedstore.mapping import can_map, map_files
from embedstore.places import ObjectPlace, ahead, files_below, is_remote

CHUNK_BYTES = 4 << 20
TEXT_ROWS = 8192
TEMPORARY = ".writing-"
FETCHED_BYTES = 256 << 20
"""Of chunks fetched from object storage, kept for the next rows that are asked for."""
_CHECKSUM = 4  # bytes
DIFFERS = "checksum differs; the file was damaged after it was written"
# the last two where an array is said to have other axes than it was written with
_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# with two, the chunks that a reader of the last commit but one has still to open would be
# overwritten before the commit that tells it so
_KEYS = (("default", "/"), ("default", "."), ("v2", "."))
_FILES = ("c/**/*", "c.*", "[0-9]*")
_STARTS = ("c/", "c.")


@dataclass(frozen=True, slots=True)
class Layout:
    """An array's place in the store, its element type ("string" or a numpy name) and row shape.

    `rewrites` counts how often the array was written anew, which tells the form of its chunk keys.
    """

    name: str
    dtype: str
    row: tuple[int, ...] = ()
    rewrites: int = 0

    def rewritten(self) -> Layout:
        """Return the layout under which the array is written anew."""
        return replace(self, rewrites=self.rewrites + 1)

    @property
    def chunk_rows(self) -> int:
        """Rows in one chunk: about 4 MiB of numbers, a power of two."""
        if self.dtype == "string":
            return TEXT_ROWS
        row_bytes = int(np.prod(self.row, dtype=np.int64)) * np.dtype(self.dtype).itemsize
        return 1 << max(4, (CHUNK_BYTES // max(row_bytes, 64)).bit_length() - 1)

    def metadata(self, rows: int) -> dict[str, Any]:
        """Return the ``zarr.json`` of this array at that many rows."""
        text = self.dtype == "string"
        serializer: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
        if text:
            serializer = {"name": "vlen-utf8", "configuration": {}}
        keys, separator = _KEYS[self.rewrites % len(_KEYS)]
        return {
            "shape": [rows, *self.row],
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.chunk_rows, *self.row]},
            },
            "chunk_key_encoding": {"name": keys, "configuration": {"separator": separator}},
            "fill_value": "" if text else 0,
            "codecs": [serializer, {"name": "crc32c"}],
            "attributes": {"rewrites": self.rewrites} if self.rewrites else {},
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    def chunk_file(self, root: Path, chunk: int) -> Path:
        """Name the file of one chunk (chunks span whole rows)."""
        keys, separator = _KEYS[self.rewrites % len(_KEYS)]
        parts = ["c"] * (keys == "default") + [str(chunk)] + ["0"] * len(self.row)
        return root / self.name / separator.join(parts)


def earlier_chunks(root: Path, layout: Layout) -> Iterator[Path]:
    """Yield the files an array has under other forms of chunk keys than its own."""
    own = layout.rewrites % len(_KEYS)
    if is_remote(root):
        for file in files_below(root / layout.name):
            starts = [n for n, start in enumerate(_STARTS) if file.as_posix().startswith(start)]
            form = starts[0] if starts else len(_STARTS)
            if form != own and file.name != "zarr.json":
                yield root / layout.name / file
        return
    for form, pattern in enumerate(_FILES):
        if form != own:
            yield from (f for f in (root / layout.name).glob(pattern) if f.is_file())


def write_whole(file: Path, data: bytes) -> None:
    """Put a file in place in one step: temporary name, flush, rename, flush of the folder."""
    if isinstance(file, ObjectPlace):
        file.write_bytes(data)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{TEMPORARY}{file.name}")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_chunk(root: Path, layout: Layout, chunk: int) -> NDArray[Any]:
    """Read one chunk whole, its checksum verified; text comes as an object array.

    Raises
    ------
    StoreError
        The file is missing, cut or changed, or of another array.
    """
    return read_sized(root, layout, chunk)[0]


def read_chunks(root: Path, layout: Layout, chunks: Iterable[int]) -> Iterator[NDArray[Any]]:
    """Yield `read_chunk` of each, some fetched ahead where that pays."""
    for ready in ahead(partial(read_chunk, root, layout), chunks, is_remote(root)):
        yield ready()


def read_sized(root: Path, layout: Layout, chunk: int) -> tuple[NDArray[Any], int]:
    """Return `read_chunk`, and the bytes of its file."""
    file = layout.chunk_file(root, chunk)
    try:
        data = file.read_bytes()
    except _NO_FILE as error:
        raise StoreError(f"{file}: a chunk of the store is missing") from error
    body, stored = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if _checksum(body) != stored:
        raise StoreError(f"{file}: {DIFFERS}")
    try:
        block = _decoded(layout, body)
    except ValueError as error:
        raise StoreError(f"{file}: is no chunk of {layout.name}: {error}") from error
    return block, len(data)


def _decoded(layout: Layout, body: bytes) -> NDArray[Any]:
    rows = layout.chunk_rows
    if layout.dtype != "string":
        numbers = np.frombuffer(body, dtype=np.dtype(layout.dtype).newbyteorder("<"))
        return numbers.reshape(rows, *layout.row)
    if int.from_bytes(body[:4], "little") != rows:
        raise ValueError(f"not of {rows} texts")
    from numcodecs.vlen import VLenUTF8

    return np.asarray(VLenUTF8().decode(body), dtype=object)


def no_rows(layout: Layout) -> NDArray[Any]:
    """(0, …): an empty array of a layout's type and row; text as objects."""
    return np.empty((0, *layout.row), dtype=object if layout.dtype == "string" else layout.dtype)


@dataclass(slots=True)
class Maps:
    """What is mapped so far, by array and chunk: mapping again would fault every page in anew.

    Of what is fetched, the last that were asked for; `made` counts all that ever were made.
    """

    made: int = 0
    _chunks: dict[tuple[str, int], NDArray[Any]] = field(default_factory=dict)
    _fetched: int = 0
    _one_at_a_time: Any = field(default_factory=Lock)

    def get(self, layout: Layout, chunk: int) -> NDArray[Any] | None:
        """Return what is mapped of a chunk, if anything is."""
        return self._chunks.get((layout.name, chunk))

    def add(self, layout: Layout, chunk: int, values: NDArray[Any]) -> NDArray[Any]:
        """Keep what was mapped."""
        self.made += 1
        self._chunks[layout.name, chunk] = values
        return values

    def recent(self, layout: Layout, chunk: int) -> NDArray[Any] | None:
        """Return a chunk that was fetched and is still kept, to be kept for longer."""
        with self._one_at_a_time:
            found = self._chunks.pop((layout.name, chunk), None)
            if found is not None:
                self._chunks[layout.name, chunk] = found
            return found

    def fetched(self, layout: Layout, chunk: int, values: NDArray[Any]) -> None:
        """Keep what was fetched, in place of what was not asked for for longest."""
        with self._one_at_a_time:
            self.made += 1
            if values.dtype == object or (layout.name, chunk) in self._chunks:
                return
            self._chunks[layout.name, chunk] = values
            self._fetched += values.nbytes
            while self._fetched > FETCHED_BYTES:
                self._fetched -= self._chunks.pop(next(iter(self._chunks))).nbytes


_ALL = -1  # in place of a chunk's number


def map_rows(root: Path, layout: Layout, rows: int, maps: Maps) -> NDArray[Any] | None:
    """Memory-map an array of numbers, (rows, …) read-only, without reading or checking it.

    None where its chunks are no whole pages, or are more than the system maps.

    Raises
    ------
    StoreError
        A chunk is missing or cut short.
    """
    dtype = np.dtype(layout.dtype).newbyteorder("<")
    size = layout.chunk_rows * int(np.prod(layout.row, dtype=np.int64)) * dtype.itemsize
    if is_remote(root) or not can_map(size):
        return None
    mapped = maps.get(layout, _ALL)
    if mapped is None:
        chunks = range(-(-rows // layout.chunk_rows))
        files = [layout.chunk_file(root, c) for c in chunks]
        try:
            whole = map_files(files, size) if files else np.empty(0, dtype=np.uint8)
        except _NO_FILE as error:
            raise StoreError(f"{error.filename}: a chunk of the store is missing") from error
        except ValueError as error:
            raise StoreError(f"{error}: the chunk is cut short") from error
        except OSError:
            return None
        mapped = maps.add(layout, _ALL, whole.view(dtype).reshape(-1, *layout.row))
    return mapped[:rows]


def map_chunk(
    root: Path, layout: Layout, chunk: int, maps: Maps, verify: bool = False
) -> NDArray[Any]:
    """Memory-map one chunk of numbers, (chunk_rows, …); with `verify`, check its checksum once.

    Raises
    ------
    StoreError
        The chunk is missing or cut short or, with `verify`, changed.
    """
    mapped = maps.get(layout, chunk)
    return maps.add(layout, chunk, _map(root, layout, chunk, verify)) if mapped is None else mapped


def _map(root: Path, layout: Layout, chunk: int, verify: bool) -> NDArray[Any]:
    file = layout.chunk_file(root, chunk)
    shape = (layout.chunk_rows, *layout.row)
    dtype = np.dtype(layout.dtype).newbyteorder("<")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        data = np.memmap(file, dtype=np.uint8, mode="r", shape=(size + _CHECKSUM,))
    except _NO_FILE as error:
        raise StoreError(f"{file}: a chunk of the store is missing") from error
    except ValueError as error:
        raise StoreError(f"{file}: the chunk is cut short") from error
    if verify and _checksum(data[:size]) != data[size:].tobytes():
        raise StoreError(f"{file}: {DIFFERS}")
    return data[:size].view(dtype).reshape(shape)


def read_rows(
    root: Path,
    layout: Layout,
    rows: int,
    wanted: NDArray[np.intp] | None = None,
    maps: Maps | None = None,
    verify: bool = False,
) -> NDArray[Any]:
    """Read an array of `rows` committed rows, all or those `wanted`, into memory.

    With `verify`, the checksum of each chunk these rows are in is compared, unless it is in `maps`.
    """
    maps = Maps() if maps is None else maps
    if wanted is not None and len(wanted) and (last := int(np.max(wanted))) >= rows:
        raise StoreError(f"{root}: row {last} of {layout.name} was never written: damaged")
    if layout.dtype == "string":
        if wanted is not None:
            return _texts(root, layout, np.asarray(wanted, dtype=np.intp))
        chunks = range(-(-rows // layout.chunk_rows))
        parts = list(read_chunks(root, layout, chunks))
        return np.concatenate([no_rows(layout), *parts])[:rows].astype(str)
    whole = None if verify else map_rows(root, layout, rows, maps)
    if whole is not None:
        native = np.dtype(layout.dtype)
        return whole.astype(native) if wanted is None else whole[wanted].astype(native, copy=False)
    wanted = np.arange(rows) if wanted is None else np.asarray(wanted, dtype=np.intp)
    return _gathered(root, layout, wanted, maps, verify)


def _gathered(
    root: Path, layout: Layout, wanted: NDArray[np.intp], maps: Maps, verify: bool
) -> NDArray[Any]:
    """Read rows of numbers chunk by chunk."""
    out = np.empty((len(wanted), *layout.row), dtype=layout.dtype)
    if is_remote(root):
        todo = list(_by_chunk(layout, wanted))
        fetch = partial(_fetched, root, layout, maps=maps)
        for (c, places), ready in zip(todo, ahead(fetch, [c for c, _ in todo]), strict=True):
            out[places] = ready()[wanted[places] - c * layout.chunk_rows]
        return out
    for c, places in _by_chunk(layout, wanted):
        chunk = map_chunk(root, layout, c, maps, verify)
        out[places] = chunk[wanted[places] - c * layout.chunk_rows]
    return out


def _fetched(root: Path, layout: Layout, chunk: int, maps: Maps) -> NDArray[Any]:
    found = maps.recent(layout, chunk)
    if found is None:
        found = read_chunk(root, layout, chunk)
        maps.fetched(layout, chunk, found)
    return found


def _texts(root: Path, layout: Layout, wanted: NDArray[np.intp]) -> NDArray[np.str_]:
    """Read rows of text, of the chunks they are in alone."""
    out = np.empty(len(wanted), dtype=object)
    todo = list(_by_chunk(layout, wanted))
    blocks = read_chunks(root, layout, [c for c, _ in todo])
    for (c, places), block in zip(todo, blocks, strict=True):
        out[places] = block[wanted[places] - c * layout.chunk_rows]
    return out.astype(str)


def _by_chunk(layout: Layout, wanted: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield each chunk that rows are in, and where these stand among the (n,) wanted."""
    step = layout.chunk_rows
    order = np.argsort(wanted, kind="stable")
    chunks = int(wanted.max(initial=-1)) // step + 1
    bounds = np.searchsorted(wanted[order], np.arange(chunks + 1) * step)
    for c in map(int, np.flatnonzero(np.diff(bounds))):
        yield c, order[bounds[c] : bounds[c + 1]]


def encode(layout: Layout, block: NDArray[Any]) -> bytes:
    """Return a chunk as it lies on the disk, what the block is short of filled up."""
    missing = layout.chunk_rows - len(block)
    if layout.dtype == "string":
        from numcodecs.vlen import VLenUTF8

        body = bytes(VLenUTF8().encode(np.concatenate([block, np.full(missing, "", object)])))
    else:
        # one copy: what is missing are the zeros that a bytearray begins as
        dtype = np.dtype(layout.dtype).newbyteorder("<")
        whole = bytearray(layout.chunk_rows * math.prod(layout.row) * dtype.itemsize + _CHECKSUM)
        data = np.frombuffer(whole, np.uint8)[:-_CHECKSUM]
        data.view(dtype).reshape(-1, *layout.row)[: len(block)] = block
        whole[-_CHECKSUM:] = _checksum(data)
        return bytes(whole)
    return body + _checksum(body)


def is_whole(data: bytes) -> bool:
    """Say whether a chunk, as it lies on the disk, agrees with its checksum."""
    return _checksum(data[:-_CHECKSUM]) == data[-_CHECKSUM:]


def _checksum(body: bytes | NDArray[np.uint8]) -> bytes:
    value: int = google_crc32c.value(body)
    return value.to_bytes(_CHECKSUM, "little")
