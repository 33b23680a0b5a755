"""A store from one place to another: what its last commit covers, and what is there already not.

Chunks first, the root ``zarr.json`` after them, so that readers of the copy see a whole commit or
none. A chunk that is there with the same size and checksum is not copied again, so that a copy
that was stopped is gone on with by the same command, and a copy of an earlier commit is brought up
to date by what came since. An index is not copied; it is made of what is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from embedstore.check import check
from embedstore.chunks import is_whole, write_whole
from embedstore.commit import as_json, layout_of, read_root
from embedstore.errors import StoreError, UsageError
from embedstore.leftovers import chunk_count, is_ours, open_store, sweep
from embedstore.lock import lock_of, write_lock
from embedstore.metadata import own_metadata
from embedstore.places import (
    ObjectPlace,
    ahead,
    each,
    files_below,
    is_remote,
    place,
    quoted,
    remove,
    sizes_below,
)
from embedstore.privacy import adopt, key_file
from embedstore.store import Store
from embedstore.writer import refuse_foreign

Progress = Callable[[int, int], None]
_TAIL = 4  # bytes of a chunk's checksum
_FORMS = 3  # after so many rewrites, an array's chunks go by the names they had before


@dataclass(frozen=True, slots=True)
class Copied:
    """Chunks that were copied, their bytes, and how many were there already."""

    chunks: int
    bytes: int
    there: int
    notes: tuple[str, ...] = ()


def copy(
    source: Path | str,
    target: Path | str,
    verify: bool = False,
    overwrite: bool = False,
    with_key: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Copied:
    """Copy the last commit of a store, or what of it is not at the target yet.

    Every chunk is checked against its checksum as it is read.

    Parameters
    ----------
    verify
        Read the copy once more, whole.
    overwrite
        Replace another store that is at the target.
    with_key
        Also put the key of the patient ids, and the linkage table, beside the copy.

    Raises
    ------
    UsageError
        The target is another store, or has what the source has not.
    StoreError
        The source is damaged, or the target cannot be written; the same command goes on.
    """
    source, target = place(source), place(target)
    if source.resolve() == target.resolve():
        raise UsageError(f"{target}: is the store itself; give another place")
    store, root = open_store(source), (source / "zarr.json").read_bytes()
    _refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with write_lock(lock_of(target)):
            before = _before(store, target, overwrite)
            done = _copy_chunks(store, target, on_progress)
            if before != root:
                write_whole(target / "zarr.json", root)
            _describe(store, target)
            if before not in {root, b""}:
                sweep(target)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}") from error
    if verify and (damage := check(target).damage):
        raise StoreError(f"{target}: the copy is damaged: {damage[0]}")
    notes: tuple[str, ...] = ()
    if with_key:
        adopt([source], target, set(store.array("samples/id").tolist()), True)
    elif key_file(source).exists() and not key_file(target).exists():
        notes = (
            f"the key of the patient ids stays beside {source}; --with-key copies it, for adding "
            f"images to the copy",
        )
    return Copied(*done, notes)


def _refuse_foreign(target: Path) -> None:
    """Refuse a place that holds anything but a store, or what a copy that was stopped left."""
    stopped = target.is_dir() and all(map(is_ours, files_below(target)))
    if (target / "zarr.json").exists() or not stopped:
        refuse_foreign(target)


def _before(store: Store, target: Path, overwrite: bool) -> bytes:
    """Return the root of an earlier copy, b"" without one; another store goes, if it may."""
    try:
        there = (target / "zarr.json").read_bytes()
        trouble = _trouble(store, target)
    except FileNotFoundError:
        return b""
    if not trouble:
        return there
    if not overwrite:
        raise UsageError(f"{target}: {trouble}; --overwrite replaces it, or give another place")
    remove([target / "zarr.json"])
    remove([target / file for file in files_below(target) if is_ours(file)])
    return b""


def _trouble(store: Store, target: Path) -> str:
    """Say why a store cannot be an earlier copy of another; "" where it can."""
    read_root(target)
    other = Store.open(target)
    begun = [_begun(path) for path in (store.path, target)]
    ids = store.array("samples/id").tolist()
    rewritten = _rewrites(store, "samples/id") != _rewrites(other, "samples/id")
    known = [] if rewritten else other.array("samples/id").tolist()
    runs = {key: _started(made) for key, made in store.provenance.items()}
    if begun[0] != begun[1] or any(a != b for a, b in zip(known, ids, strict=False)):
        return "is another store"
    for name, metadata in other.arrays.items():
        if metadata["node_type"] != "array":
            continue
        newer = _rewrites(store, name) - _rewrites(other, name)
        if name not in store.arrays or newer < 0:
            return f"has what {store.path} has not"
        if newer == 0 and other.rows(name) > store.rows(name):
            return f"has what {store.path} has not"
        if newer >= _FORMS:
            return "is a copy from long ago, which cannot be brought up to date in place"
    if any(not _started(m) <= runs.get(k, set()) for k, m in other.provenance.items()):
        return "is another store"
    return ""


def _begun(path: Path) -> Any:
    return read_root(path)["attributes"]["embedstore"].get("begun")


def _rewrites(store: Store, name: str) -> int:
    return layout_of(name, store.arrays[name]).rewrites if name in store.arrays else 0


def _started(made: Any) -> set[str]:
    return {str(run["started"]) for run in made.get("runs", ())}


def _copy_chunks(store: Store, target: Path, on_progress: Progress) -> tuple[int, int, int]:
    """Copy the chunks that are not there; return how many, their bytes, and how many were."""
    layouts = [layout_of(n, m) for n, m in store.arrays.items() if m["node_type"] == "array"]
    files = [
        layout.chunk_file(Path(), chunk)
        for layout in layouts
        for chunk in range(chunk_count(store, layout))
    ]
    sizes = sizes_below(target) if target.exists() else {}
    work = partial(_copy_chunk, store.path, target, sizes)
    remote = is_remote(store.path) or is_remote(target)
    copied = written = 0
    for done, ready in enumerate(ahead(work, files, remote), 1):
        size = ready()
        copied, written = copied + bool(size), written + size
        on_progress(done, len(files))
    return copied, written, len(files) - copied


def _copy_chunk(source: Path, target: Path, sizes: dict[str, int], file: Path) -> int:
    """Copy one chunk and return its bytes; 0 where it is there."""
    size = sizes.get(file.as_posix())
    if size and _tail(target / file, size) == _tail(source / file, size):
        return 0
    try:
        data = (source / file).read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{source / file}: a chunk of the store is missing") from error
    if not is_whole(data):
        raise StoreError(
            f"{source / file}: the file is damaged: `embedstore check {quoted(source)}` says more"
        )
    write_whole(target / file, data)
    return len(data)


def _tail(file: Path, size: int) -> bytes | None:
    """Return the checksum of a chunk; None where it has another size."""
    if isinstance(file, ObjectPlace):
        return file.read_range(size - _TAIL, size + 1) if size >= _TAIL else None
    try:
        with file.open("rb") as opened:
            if opened.seek(0, 2) != size or size < _TAIL:
                return None
            opened.seek(size - _TAIL)
            return opened.read()
    except FileNotFoundError:
        return None


def _describe(store: Store, target: Path) -> None:
    """Write what arrays and groups say of themselves, where it is not there."""
    remote = is_remote(target)
    names = list(store.arrays)
    own = each(partial(own_metadata, target), names, remote)
    todo = [n for n, said in zip(names, own, strict=True) if said != store.arrays[n]]
    each(lambda n: write_whole(target / n / "zarr.json", as_json(store.arrays[n])), todo, remote)
