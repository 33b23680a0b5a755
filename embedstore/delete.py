"""Deleting samples: hidden at once by tombstones, gone for good when the store is compacted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.arrays import is_tombstones, set_of
from embedstore.errors import StoreError, UsageError
from embedstore.leftovers import sweep
from embedstore.metadata import describe_again
from embedstore.places import place, sizes_below
from embedstore.privacy import alias_of, unlink
from embedstore.store import Store
from embedstore.writer import Writer

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many samples were deleted, of how many patients, and how many had been before."""

    samples: int
    patients: int
    already: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """What compacting dropped for good, and the bytes the folder is smaller by."""

    samples: int
    vectors: int
    pictures: int
    links: int
    bytes: int


def delete(path: Path | str, ids: Iterable[str] = (), patients: Iterable[str] = ()) -> Deleted:
    """Hide samples, and all there is of them, from every reader from now on.

    Their bytes stay until `compact`.

    Parameters
    ----------
    ids
        As the store has them.
    patients
        Patients whose samples are all deleted; as the store has them or, where it keeps them as
        keyed hashes, as they were before.

    Raises
    ------
    UsageError
        There is no such id or patient; nothing is deleted.
    StoreError
        There is no store, it cannot be written, or the key of its hashes is gone.
    """
    path = place(path)
    Store.open(path)
    with Writer(path) as writer:
        store = writer.store()
        known: dict[str, int] = {
            sample_id: row for row, sample_id in enumerate(store.array("samples/id").tolist())
        }
        groups = store.array("samples/group")
        rows = {_row_of(store, known, sample_id) for sample_id in ids}
        rows |= set(_rows_of_patients(store, groups, patients))
        fresh = np.array(sorted(rows - set(store.hidden.tolist())), dtype=np.int64)
        if len(fresh):
            writer.delete(fresh)
            writer.commit()
    named = set(groups[fresh].tolist()) - {""}
    return Deleted(len(fresh), len(named), len(rows) - len(fresh))


def _row_of(store: Store, known: dict[str, int], sample_id: str) -> int:
    if sample_id not in known:
        first = next(iter(known), "")
        raise UsageError(
            f"{store.path}: no sample {sample_id!r}; nothing is deleted; the ids look like "
            f"{first!r}"
        )
    return known[sample_id]


def _rows_of_patients(
    store: Store, groups: NDArray[np.str_], patients: Iterable[str]
) -> Iterator[int]:
    named = dict.fromkeys(patients)
    if not named:
        return
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        rows.setdefault(group, []).append(row)
    alias = alias_of(store.path, rows)
    for patient in named:
        if not patient or alias(patient) not in rows:
            raise UsageError(f"{store.path}: no patient {patient!r}; nothing is deleted")
        yield from rows[alias(patient)]


def compact(path: Path | str, on_progress: Progress = lambda done, total: None) -> Compacted:
    """Write a store anew without what is deleted and dropped, and remove the files of before.

    One commit; killed at any moment, the store is as it was or compacted, and compacting again
    does the rest. An index of vectors that are written anew goes too: it held the deleted ones.
    Meanwhile the disk holds what stays twice. Readers that opened the store before are told to
    open it again. Deleted samples also leave the linkage table beside the store.

    Raises
    ------
    StoreError
        There is no store, it is damaged, or cannot be written; nothing is lost.
    """
    path = place(path)
    Store.open(path)
    with Writer(path) as writer:
        store, before = writer.store(), sum(sizes_below(path).values())
        links = unlink(path, store.deleted)
        try:
            describe_again(store)
            sweep(path)  # room first; and what is written must meet nothing of a killed run
            dropped = _Compaction(store, writer).run(on_progress)
            sweep(path)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
        return Compacted(*dropped, links, before - sum(sizes_below(path).values()))


@dataclass(slots=True)
class _Compaction:
    """One run of `compact`; an array of which all is kept stays as it is."""

    store: Store
    writer: Writer
    _keep: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def run(self, on_progress: Progress) -> tuple[int, int, int]:
        """Write anew and commit; return the samples, vectors and pictures there are no more."""
        names = [n for n, m in self.store.arrays.items() if m["node_type"] == "array"]
        for prefix in {set_of(name) for name in names}:
            self._keep[prefix] = self._kept(prefix)
        changed = False
        for done, name in enumerate(names, 1):
            changed |= self._rewrite(name)
            on_progress(done, len(names))
        if changed:
            self.writer.commit()
        return self._gone("samples"), self._gone("embeddings/"), self._gone("pixels/")

    def _kept(self, prefix: str) -> NDArray[np.bool_]:
        """(n,): which rows of the arrays of a set are visible."""
        if prefix == "samples":
            count, places = self.store.rows("samples/id"), self.store.visible
        elif prefix.startswith("texts/"):  # of no sample
            count = self.store.rows(f"{prefix}/sentence")
            places = np.arange(count)
        elif prefix == "failures":
            count = self.store.rows("failures/id")
            places = np.array(list(self.store.failed()), dtype=np.intp)
        else:
            count, places = self.store.rows(f"{prefix}/rows"), self.store.places(prefix)
        mask = np.zeros(count, dtype=bool)
        mask[places] = True
        return mask

    def _gone(self, top: str) -> int:
        return sum(int((~keep).sum()) for p, keep in self._keep.items() if p.startswith(top))

    def _rewrite(self, name: str) -> bool:
        """Write one array anew if it has to be; say whether."""
        keep, samples = self._keep[set_of(name)], self._keep["samples"]
        if is_tombstones(name):
            if self.store.rows(name):
                self.writer.rewrite(name, ())
            return bool(self.store.rows(name))
        renumbered = name == f"{set_of(name)}/rows" and not samples.all()
        if keep.all() and not renumbered:
            return False
        blocks = self.store.blocks(name, keep)
        if renumbered:
            number = np.cumsum(samples) - 1
            blocks = (number[block] for block in blocks)
        self.writer.rewrite(name, blocks)
        return True
