"""What no commit of a store covers, and the words in which `check` tells what it finds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from embedstore.chunks import TEMPORARY, Layout
from embedstore.commit import damaged, layout_of
from embedstore.lock import is_left, lock_of, writer_of
from embedstore.places import files_below, is_remote, remove
from embedstore.saved_index import FOLDER, in_use
from embedstore.store import Store

_LEFT = "left by a stopped run"
_OLD = "of an earlier commit, or left by a stopped run"
_LEAVE = "harmless, --repair removes it"
_OURS = re.compile(
    r"index/.+|(?:samples|embeddings|pixels|texts|failures)/(?:.+/)?(?:zarr\.json|c/\d+(?:/0)*|c\.\d+(?:\.0)*|\d+(?:\.0)*)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a store that is not as an undisturbed commit leaves it.

    Attributes
    ----------
    kind
        Damage: missing, cut, checksum, unreadable, counts, rows, ids, values, metadata, spec.
        Harmless: leftover, lock, behind, zeros, foreign, writing, index.
    where, what, todo
        The file or array, what is wrong with it, and what to do.
    harmless
        Nothing that was committed is touched.
    ids
        The samples a damaged chunk holds something of; "row 7" where the id is lost too.
    """

    kind: str
    where: str
    what: str
    todo: str
    harmless: bool = False
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: where, what, what to do."""
        return f"{self.where}: {self.what}; {self.todo}"


@dataclass(slots=True)
class Checked:
    """What a check saw of one commit, and the files that it or `repair` found left over."""

    commit: int
    findings: list[Finding] = field(default_factory=list)
    chunks: int = 0
    bytes: int = 0
    leftovers: list[Path] = field(default_factory=list)

    @property
    def damage(self) -> list[Finding]:
        """The findings that are no leftovers."""
        return [f for f in self.findings if not f.harmless]


def open_store(path: Path) -> Store:
    """Open a store, and make sure that its root describes arrays as embedstore does."""
    store = Store.open(path)
    for name, metadata in store.arrays.items():
        if metadata["node_type"] == "array":
            if layout_of(name, metadata).metadata(store.rows(name)) != metadata:
                raise damaged(path, name)
        elif metadata["node_type"] != "group":
            raise damaged(path, name)
    return store


def find_strays(path: Path, result: Checked, locked: bool = False) -> None:
    """Add the files that no commit covers: of a stopped run, or of a writer at work.

    `locked`: the lock is ours, so there is no writer.
    """
    writer = None if locked else writer_of(lock_of(path))
    files = sorted(files_below(path))
    # after the listing: a commit made meanwhile covers its files
    store = open_store(path)
    covered = _covered(store)
    strays = [f for f in files if f.as_posix() not in covered]
    strays = strays if is_remote(path) else [f for f in strays if (path / f).is_file()]
    ours = [f for f in strays if is_ours(f)]
    if not locked:
        writer = writer_of(lock_of(path)) or writer
    for file in strays:
        if not is_ours(file):
            what, todo = "is not of this store", "left alone; move it elsewhere if you need it"
            result.findings.append(Finding("foreign", str(path / file), what, todo, True))
    if writer:
        what = f"being written by {writer}; {len(ours)} files belong to no commit yet"
        result.findings.append(Finding("writing", str(path), what, "nothing to do", True))
        return
    result.leftovers = [path / file for file in ours]
    rewritten = _rewritten(store)
    for file in result.leftovers:
        arrays = {above.as_posix() for above in file.relative_to(path).parents}
        what = _OLD if arrays & rewritten else _LEFT
        result.findings.append(Finding("leftover", str(file), what, _LEAVE, True))
    if is_left(lock_of(path)):
        result.findings.append(Finding("lock", str(lock_of(path)), _LEFT, _LEAVE, True))


def _rewritten(store: Store) -> set[str]:
    """Return the arrays that were written anew, and so have, or had, chunks of before."""
    arrays = {n: m for n, m in store.arrays.items() if m["node_type"] == "array"}
    return {name for name, metadata in arrays.items() if layout_of(name, metadata).rewrites}


def _covered(store: Store) -> set[str]:
    """Return the files of a commit and of what is indexed of it, relative to the store."""
    files = {"zarr.json"} | {f"{name}/zarr.json" for name in store.arrays}
    for name, metadata in store.arrays.items():
        if metadata["node_type"] == "array":
            layout = layout_of(name, metadata)
            chunks = range(chunk_count(store, layout))
            files |= {layout.chunk_file(Path(), c).as_posix() for c in chunks}
    return files.union(*in_use(store, store.specs.values()).values())


def is_ours(file: Path) -> bool:
    """Tell what a writer may have left from what someone else put into the folder."""
    return file.name.startswith(TEMPORARY) or _OURS.fullmatch(file.as_posix()) is not None


def sweep(path: Path) -> None:
    """Remove what no commit covers, and the folders that leaves empty; only for who has the lock.

    Raises
    ------
    OSError
        A file cannot be removed.
    """
    files = list(files_below(path))
    covered = _covered(open_store(path))
    remove([path / f for f in files if f.as_posix() not in covered and is_ours(f)])
    remove_empty_folders(path)


def remove_empty_folders(path: Path) -> None:
    """Remove the folders that are empty once their files are gone."""
    if is_remote(path):
        return
    for top in ("samples", "embeddings", "pixels", "texts", "failures", FOLDER):
        for folder, _, _ in os.walk(path / top, topdown=False):
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()


def chunk_count(store: Store, layout: Layout) -> int:
    """Count the chunks that the committed rows of an array reach into."""
    return -(-store.rows(layout.name) // layout.chunk_rows)
