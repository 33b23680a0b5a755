"""Writing a store: the commit rule.

A commit is one atomic replacement of the root ``zarr.json``, whose consolidated metadata holds
every array's length, after all chunk files it covers are in place. Rows past it do not exist, so a
killed run loses only what came since, and the next one writes over it.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.appender import Appender
from embedstore.arrays import set_of
from embedstore.chunks import TEMPORARY, Layout, earlier_chunks, write_whole
from embedstore.commit import FORMAT, as_json, groups_above, layout_of, read_root, root_of
from embedstore.errors import StoreError
from embedstore.kept import Kept
from embedstore.lock import lock_of, write_lock
from embedstore.places import ObjectPlace, each, is_remote, remove
from embedstore.store import FAILURE_COLUMNS, SAMPLE_COLUMNS, Failure, Store
from embedstore.types import Recipe, Sample, Spec

# arrays beside vectors and beside kept pictures: name, type, shape of a row
_OF_EACH_IMAGE: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("rows", "int64", ()),
    ("digests", "uint8", (16,)),
    ("cut", "float32", ()),
    ("stat", "int64", (2,)),
)


_SETS = ("embeddings/", "pixels/")


@dataclass(slots=True)
class Writer:
    """The one writer of a store; use it as a context manager, which holds the lock.

    Nothing it was given exists for anyone before `commit`.
    """

    path: Path
    _appenders: dict[str, Appender] = field(default_factory=dict)
    _state: dict[str, Any] = field(default_factory=dict)
    _arrays: dict[str, Any] = field(default_factory=dict)  # as of the last commit
    _on_disk: dict[str, bytes] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Writer:
        """Take the lock; create the store where there is none."""
        try:
            self._begin()
        except OSError as error:
            raise _disk_error(self.path, error) from error
        return self

    def _begin(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        refuse_foreign(self.path)
        self._stack.enter_context(write_lock(lock_of(self.path)))
        with ExitStack() as undo:
            undo.callback(self._stack.close)
            if (self.path / "zarr.json").exists():
                self._resume()
            else:
                self.path.mkdir(exist_ok=True)
                self._state = {"format": FORMAT, "commit": 0, "embeddings": {}}
                if is_remote(self.path):  # or two first commits would look like one
                    self._state["begun"] = secrets.token_hex(8)
                self._open_columns(SAMPLE_COLUMNS, "samples")
                self.commit()
            undo.pop_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back; what was not committed is gone."""
        self._stack.close()

    def store(self) -> Store:
        """Return the store as of the last commit."""
        return Store.open(self.path)

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Append samples; a label not seen before is "" for the earlier ones."""
        before = self._appenders["samples/id"].rows
        for name in SAMPLE_COLUMNS:
            of = attrgetter("shown_path" if name == "path" else name)
            self._appenders[f"samples/{name}"].append(list(map(str, map(of, samples))))
        labels = dict.fromkeys(name for s in samples for name in s.labels)
        for name in labels:
            if f"samples/labels/{name}" not in self._appenders:
                self._open_columns([name], "samples/labels")
                self._appenders[f"samples/labels/{name}"].append([""] * before)
        for array, appender in self._appenders.items():
            if array.startswith("samples/labels/"):
                name = array.removeprefix("samples/labels/")
                appender.append([s.labels.get(name, "") for s in samples])

    def add_label(self, name: str, values: Sequence[str]) -> None:
        """Add a label column to the samples there are; one value each."""
        if len(values) != self._appenders["samples/id"].rows:
            raise StoreError(f"{len(values)} values of {name!r}, not one for each sample")
        self._open_columns([name], "samples/labels")
        self._appenders[f"samples/labels/{name}"].append(values)

    def fill_label(self, name: str, values: Sequence[str]) -> None:
        """Fill in blanks of a label column, one value for each sample there is.

        Raises
        ------
        StoreError
            A value that is known would change, or the disk refuses.
        """
        array = f"samples/labels/{name}"
        known = self._appenders[array].values().tolist()
        if any(old not in {"", new} for old, new in zip(known, values, strict=True)):
            raise StoreError(f"{self.path}: values of {name!r} would change, not be filled in")
        self.rewrite(array, [values])

    def extend(self, layout: Layout, blocks: Iterable[NDArray[Any]]) -> None:
        """Append rows to one array of another store's layout, with one block and chunk in memory.

        The arrays of a set must come to the same length by the next commit.
        """
        self._open(layout.name, layout.dtype, layout.row)
        try:
            for block in blocks:
                self._appenders[layout.name].append(block)
                self._appenders[layout.name].flush(last=False)
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def rewrite(self, array: str, blocks: Iterable[NDArray[Any] | Sequence[str]]) -> None:
        """Write a committed array anew, of other rows, to be seen with the next commit.

        Readers of this commit keep the rows it has; those of earlier ones are told to open the
        store again. Memory holds one block and one chunk.

        Raises
        ------
        StoreError
            The disk is full or refuses, and the array stays as it was; or it has been written
            anew since the last commit.
        """
        layout = self._appenders[array].layout
        if array not in self._arrays or layout_of(array, self._arrays[array]) != layout:
            raise StoreError(f"{self.path}: {array} is to be committed before it is written anew")
        fresh = Appender(self.path, layout.rewritten(), 0)
        try:
            # a client that opens the array alone must not be left without its chunks
            self._describe({array: self._arrays[array]})
            remove(list(earlier_chunks(self.path, layout)))
            for block in blocks:
                fresh.append(block)
                fresh.flush(last=False)
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._appenders[array] = fresh

    def add_spec(self, spec: Spec, provenance: Mapping[str, Any]) -> None:
        """Make room for the vectors of a Spec; nothing happens where it has vectors."""
        prefix = f"embeddings/{spec.key}"
        if spec.key in self._state["embeddings"] and self._appenders[f"{prefix}/rows"].rows:
            return
        self._state["embeddings"][spec.key] = {
            "spec": spec.to_dict(),
            "provenance": dict(provenance),
        }
        for name, dtype, row in (("vectors", spec.dtype, (spec.dim,)), *_OF_EACH_IMAGE):
            self._open(f"{prefix}/{name}", dtype, row)

    def note_run(self, spec: Spec, run: Mapping[str, Any]) -> None:
        """Note a run that made vectors of a Spec, in place of what was noted of its beginning.

        Its provenance lists all ``runs``; one is told from another by when it ``started``.
        """
        made = self._state["embeddings"][spec.key]["provenance"]
        others = [r for r in made.get("runs", ()) if r["started"] != run["started"]]
        made["runs"] = [*others, dict(run)]

    def note_text(self, spec: Spec, said: Mapping[str, Any]) -> None:
        """Note in the provenance of a Spec what its text side says of itself."""
        self._state["embeddings"][spec.key]["provenance"]["text"] = dict(said)

    def append(
        self,
        spec: Spec,
        rows: NDArray[np.int64],
        vectors: NDArray[np.floating[Any]],
        digests: NDArray[np.uint8],
        cut: NDArray[np.float32] | None = None,
        stat: NDArray[np.int64] | None = None,
    ) -> None:
        """Append vectors (n, d), the samples they belong to (n,), and file digests (n, 16).

        `cut`, (n,), is the share of the breast that the recipe cut away; by default none.
        `stat`, (n, 2), is size in bytes and mtime in ns of each file when it was read; zeros,
        the default, are unknown.
        """
        cut = np.zeros(len(rows), dtype=np.float32) if cut is None else cut
        stat = np.zeros((len(rows), 2), dtype=np.int64) if stat is None else stat
        values = {"rows": rows, "vectors": vectors, "digests": digests, "cut": cut, "stat": stat}
        if len({len(block) for block in values.values()}) > 1:
            raise StoreError(", ".join(f"{len(block)} {name}" for name, block in values.items()))
        for name, block in values.items():
            self._appenders[f"embeddings/{spec.key}/{name}"].append(block)

    def keep(self, recipe: Recipe, rows: NDArray[np.int64], pictures: Sequence[Kept]) -> None:
        """Append pictures of a recipe, one for each of the samples `rows`."""
        kinds: dict[str, list[int]] = {}
        for i, kept in enumerate(pictures):
            channels = "x3" if kept.picture.ndim == 3 else ""
            kinds.setdefault(f"{kept.picture.dtype}{channels}", []).append(i)
        for kind, places in kinds.items():
            prefix, some = f"pixels/{recipe.pixel_key}/{kind}", [pictures[i] for i in places]
            values = np.stack([k.picture for k in some])
            if f"{prefix}/values" not in self._appenders:
                own = ("values", str(values.dtype), values.shape[1:])
                for name, dtype, row in (own, *_OF_EACH_IMAGE):
                    self._open(f"{prefix}/{name}", dtype, row)
            digests = np.frombuffer(b"".join(k.digest for k in some), np.uint8).reshape(-1, 16)
            self._appenders[f"{prefix}/values"].append(values)
            self._appenders[f"{prefix}/rows"].append(rows[places])
            self._appenders[f"{prefix}/digests"].append(digests)
            self._appenders[f"{prefix}/cut"].append(np.array([k.cut for k in some], np.float32))
            stat = np.array([k.stat for k in some], np.int64).reshape(-1, 2)
            self._appenders[f"{prefix}/stat"].append(stat)

    def drop(self, rows: NDArray[np.int64]) -> None:
        """Hide all that was made of these samples so far: vectors, pictures, failures.

        What is appended afterwards is shown; so a file that changed gets new vectors, in the same
        commit if need be. The samples stay. Give all rows at once: each call reads the sets' rows.
        """
        for array in [n for n in self._appenders if n.startswith(_SETS) and n.endswith("/rows")]:
            of = self._appenders[array].values()
            self._hide(f"{set_of(array)}/dropped", np.flatnonzero(np.isin(of, rows)))
        if "failures/id" in self._appenders and len(rows):
            gone = set(self._appenders["samples/id"].take(rows).tolist())
            failed = self._appenders["failures/id"].values().tolist()
            places = [n for n, sample_id in enumerate(failed) if sample_id in gone]
            self._hide("failures/dropped", np.array(places, dtype=np.int64))

    def delete(self, rows: NDArray[np.int64]) -> None:
        """Hide samples, with all there is of them, from every reader of later commits."""
        self._hide("samples/deleted", np.asarray(rows, dtype=np.int64))

    def _hide(self, array: str, places: NDArray[np.int64]) -> None:
        hidden = self._appenders[array].values() if array in self._appenders else ()
        fresh = np.setdiff1d(places, hidden)
        if len(fresh):
            self._open(array, "int64")
            self._appenders[array].append(fresh)

    def add_failures(self, failures: Sequence[Failure]) -> None:
        """Append to the table of failures."""
        if not failures:
            return
        self._open_columns(FAILURE_COLUMNS, "failures")
        for name in FAILURE_COLUMNS:
            self._appenders[f"failures/{name}"].append([getattr(f, name) for f in failures])

    def commit(self) -> None:
        """Make everything given so far exist, in one atomic step.

        Raises
        ------
        StoreError
            The disk is full or refuses; the store stays as of the last commit.
        """
        try:
            each(Appender.flush, list(self._appenders.values()), is_remote(self.path))
            state = {**self._state, "commit": self._state["commit"] + 1}
            arrays = {n: a.layout.metadata(a.rows) for n, a in sorted(self._appenders.items())}
            write_whole(self.path / "zarr.json", root_of(state, arrays))
            self._state, self._arrays = state, arrays
            self._describe({**groups_above(arrays), **arrays})
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def _describe(self, nodes: Mapping[str, Any]) -> None:
        """Write what arrays and groups say of themselves, for clients that open no root.

        They lag behind the root, they never run ahead.
        """
        texts = {name: as_json(metadata) for name, metadata in nodes.items()}
        unknown = [name for name in texts if name not in self._on_disk]
        known = each(self._own, unknown, is_remote(self.path))
        self._on_disk |= dict(zip(unknown, known, strict=True))
        todo = [name for name, text in texts.items() if self._on_disk[name] != text]
        each(
            lambda n: write_whole(self.path / n / "zarr.json", texts[n]), todo, is_remote(self.path)
        )
        self._on_disk |= {name: texts[name] for name in todo}

    def _own(self, name: str) -> bytes:
        try:
            return (self.path / name / "zarr.json").read_bytes()
        except FileNotFoundError:
            return b""

    def _open_columns(self, names: Sequence[str], prefix: str) -> None:
        for name in names:
            self._open(f"{prefix}/{name}", "string")

    def _open(self, array: str, dtype: str, row: tuple[int, ...] = ()) -> None:
        # one that is there keeps count of its rewrites
        if array not in self._appenders:
            self._appenders[array] = Appender(self.path, Layout(array, dtype, row), 0)

    def _resume(self) -> None:
        root = read_root(self.path)
        self._state = root["attributes"]["embedstore"]
        nodes = root["consolidated_metadata"]["metadata"]
        self._arrays = {n: m for n, m in nodes.items() if m["node_type"] == "array"}
        names = list(self._arrays)
        resumed = each(self._resumed, names, is_remote(self.path))
        self._appenders = dict(zip(names, resumed, strict=True))
        for folder in set() if is_remote(self.path) else self._unfinished():
            for leftover in folder.glob(f"{TEMPORARY}*"):
                leftover.unlink()

    def _resumed(self, name: str) -> Appender:
        metadata = self._arrays[name]
        return Appender(self.path, layout_of(name, metadata), metadata["shape"][0])

    def _unfinished(self) -> set[Path]:
        """Return where a stopped run may have left a file half written: not in earlier chunks."""
        folders = {self.path} | {self.path / name for name in self._arrays}
        for appender in self._appenders.values():
            chunk = appender.rows // appender.layout.chunk_rows
            folder = appender.layout.chunk_file(self.path, chunk).parent
            while folder not in folders and folder.is_dir():
                folders.add(folder)
                chunk += 1
                folder = appender.layout.chunk_file(self.path, chunk).parent
        return folders


def refuse_foreign(path: Path) -> None:
    """Never write into a file, or into a folder that holds something else."""
    if isinstance(path, ObjectPlace) and not path.key:
        raise StoreError(f"{path}: is a whole bucket; give the store a name in it: {path}/S.zarr")
    if path.is_file():
        raise StoreError(f"{path}: is a file, not a store; give another path")
    if (path / "zarr.json").exists():
        return
    if path.is_dir() and (is_remote(path) or _holds_anything(path)):
        raise StoreError(f"{path}: a folder that is not a store; give a new or empty path")


def _holds_anything(path: Path) -> bool:
    # but for what a first commit that was cut short leaves
    return any(TEMPORARY not in p.name for p in path.iterdir())


def _disk_error(path: Path, error: OSError) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return StoreError(
            f"{path}: the disk is full; the store holds everything up to its last commit: "
            f"free some space and run the same command again"
        )
    return StoreError(f"{path}: cannot be written: {error.strerror or error}")
