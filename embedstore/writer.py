"""Writing a store: the commit rule.

A commit is one atomic replacement of the root ``zarr.json``, whose consolidated metadata holds
every array's length, after all chunk files it covers are in place. Rows past it do not exist, so a
killed run loses only what came since, and the next one writes over it.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.chunks import TEMPORARY, Appender, Layout, rewrite, write_whole
from embedstore.errors import StoreError
from embedstore.lock import lock_of, write_lock
from embedstore.store import (
    FAILURE_COLUMNS,
    FORMAT,
    SAMPLE_COLUMNS,
    Failure,
    Kept,
    Store,
    layout_of,
    read_root,
)
from embedstore.types import Recipe, Sample, Spec

# arrays beside vectors and beside kept pictures: name, type, shape of a row
_OF_EACH_IMAGE: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("rows", "int64", ()),
    ("digests", "uint8", (16,)),
    ("cut", "float32", ()),
)


@dataclass(slots=True)
class Writer:
    """The one writer of a store; use it as a context manager, which holds the lock.

    Nothing it was given exists for anyone before `commit`.
    """

    path: Path
    _appenders: dict[str, Appender] = field(default_factory=dict)
    _state: dict[str, Any] = field(default_factory=dict)
    _on_disk: dict[str, Any] = field(default_factory=dict)
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
            self._appenders[f"samples/{name}"].append([_text(s, name) for s in samples])
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
        """Fill in blanks of a label column, one value for each committed sample.

        This takes effect at once: what was known stays, so that it needs no commit.

        Raises
        ------
        StoreError
            A value that is known would change, or the disk refuses.
        """
        known = self.store().column(name).tolist()
        if any(old not in {"", new} for old, new in zip(known, values, strict=True)):
            raise StoreError(f"{self.path}: values of {name!r} would change, not be filled in")
        layout = self._appenders[f"samples/labels/{name}"].layout
        try:
            rewrite(self.path, layout, values)
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._appenders[layout.name] = Appender(self.path, layout, len(known))

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
            layout = Layout(f"{prefix}/{name}", dtype, row)
            self._appenders[layout.name] = Appender(self.path, layout, 0)

    def append(
        self,
        spec: Spec,
        rows: NDArray[np.int64],
        vectors: NDArray[np.floating[Any]],
        digests: NDArray[np.uint8],
        cut: NDArray[np.float32] | None = None,
    ) -> None:
        """Append vectors (n, d), the samples they belong to (n,), and file digests (n, 16).

        `cut`, (n,), is the share of the breast that the recipe cut away; by default none.
        """
        cut = np.zeros(len(rows), dtype=np.float32) if cut is None else cut
        if not len(rows) == len(vectors) == len(digests) == len(cut):
            counts = f"{len(rows)} rows, {len(vectors)} vectors, {len(digests)} digests"
            raise StoreError(f"{counts}, {len(cut)} cuts")
        values = {"vectors": vectors, "rows": rows, "digests": digests, "cut": cut}
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
                    layout = Layout(f"{prefix}/{name}", dtype, row)
                    self._appenders[layout.name] = Appender(self.path, layout, 0)
            digests = np.frombuffer(b"".join(k.digest for k in some), np.uint8).reshape(-1, 16)
            self._appenders[f"{prefix}/values"].append(values)
            self._appenders[f"{prefix}/rows"].append(rows[places])
            self._appenders[f"{prefix}/digests"].append(digests)
            self._appenders[f"{prefix}/cut"].append(np.array([k.cut for k in some], np.float32))

    def add_failures(self, failures: Sequence[Failure]) -> None:
        """Append to the table of failures."""
        if failures and "failures/id" not in self._appenders:
            self._open_columns(FAILURE_COLUMNS, "failures")
        for name in FAILURE_COLUMNS if failures else ():
            self._appenders[f"failures/{name}"].append([getattr(f, name) for f in failures])

    def commit(self) -> None:
        """Make everything given so far exist, in one atomic step.

        Raises
        ------
        StoreError
            The disk is full or refuses; the store stays as of the last commit.
        """
        try:
            for appender in self._appenders.values():
                appender.flush()
            state = {**self._state, "commit": self._state["commit"] + 1}
            arrays = {n: a.layout.metadata(a.rows) for n, a in sorted(self._appenders.items())}
            write_whole(self.path / "zarr.json", _root(state, arrays))
            self._state = state
            # for clients that open one array without the root; they lag, they never run ahead
            for name, metadata in {**_groups(arrays), **arrays}.items():
                if self._on_disk.get(name) != metadata:
                    write_whole(self.path / name / "zarr.json", _json(metadata))
                    self._on_disk[name] = metadata
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def _open_columns(self, names: Sequence[str], prefix: str) -> None:
        for name in names:
            layout = Layout(f"{prefix}/{name}", "string")
            self._appenders[layout.name] = Appender(self.path, layout, 0)

    def _resume(self) -> None:
        for leftover in self.path.rglob(f"{TEMPORARY}*"):
            leftover.unlink()
        root = read_root(self.path)
        self._state = root["attributes"]["embedstore"]
        for name, metadata in root["consolidated_metadata"]["metadata"].items():
            if metadata["node_type"] == "array":
                layout = layout_of(name, metadata)
                self._appenders[name] = Appender(self.path, layout, metadata["shape"][0])


def _text(sample: Sample, column: str) -> str:
    return sample.shown_path if column == "path" else str(getattr(sample, column))


def refuse_foreign(path: Path) -> None:
    """Never write into a file, or into a folder that holds something else."""
    if path.is_file():
        raise StoreError(f"{path}: is a file, not a store; give another path")
    if path.is_dir() and not (path / "zarr.json").exists() and _holds_anything(path):
        raise StoreError(f"{path}: a folder that is not a store; give a new or empty path")


def _holds_anything(path: Path) -> bool:
    # but for what a first commit that was cut short leaves
    return any(TEMPORARY not in p.name for p in path.iterdir())


def _groups(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of every group above an array."""
    names = {p.as_posix() for n in arrays for p in Path(n).parents if p != Path()}
    return {n: {"attributes": {}, "zarr_format": 3, "node_type": "group"} for n in sorted(names)}


def _root(state: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    return _json(
        {
            "attributes": {"embedstore": state},
            "zarr_format": 3,
            "node_type": "group",
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                # sorted: zarr-python takes siblings that do not stand together for missing
                "metadata": dict(sorted({**_groups(arrays), **arrays}.items())),
            },
        }
    )


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def _disk_error(path: Path, error: OSError) -> StoreError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return StoreError(
            f"{path}: the disk is full; the store holds everything up to its last commit: "
            f"free some space and run the same command again"
        )
    return StoreError(f"{path}: cannot be written: {error.strerror or error}")
