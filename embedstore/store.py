"""The store: one table of samples, and the vectors of several backbones over it, in plain Zarr v3.

::

    S.zarr/
      zarr.json               the commit: what exists, and the metadata of every array
      samples/<column>        (N,) string: id, path, group, exam, view, laterality, split
      samples/labels/<name>   (N,) string, "" where unknown
      samples/deleted         (m,) int64: samples that are there no more, by their row
      embeddings/<Spec.key>/
        vectors               (n, d) float32 or float16
        rows                  (n,) int64: the sample each vector belongs to
        digests               (n, 16) uint8: leading half of the file's sha256
        cut                   (n,) float32: share of the breast a centre crop cut away
        stat                  (n, 2) int64: bytes and mtime (ns) of the file when it was read, or 0
        dropped               (k,) int64: places in these arrays that hold nothing any more
      pixels/<Recipe.pixel_key>/<kind>/
        values                (n, H, W[, 3]) uint8 or uint16, as the kind says: the model's pictures
        rows, digests, cut, stat, dropped    as above
      texts/<Spec.key>/       as `kept_texts` says
      failures/<column>       id, path, stage, reason, spec
      failures/dropped        as above

A commit is one atomic replacement of the root ``zarr.json``, whose consolidated metadata holds
every array's length, after all chunk files it covers are in place. Rows past it do not exist, so a
killed run loses only what came since, and the next one writes over it.

`Store.array` and `Store.rows` are raw: they show deleted samples and dropped vectors too, and row
numbers are places in the raw table. All else shows what is visible only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore import blocks
from embedstore.arrays import Arrays
from embedstore.blocks import Blocks
from embedstore.commit import damaged, read_root, stamp_of
from embedstore.errors import DataError, StoreError, UsageError, did_you_mean
from embedstore.kept import KeptPixels
from embedstore.places import place
from embedstore.types import Embeddings, Recipe, Spec

if TYPE_CHECKING:
    import polars as pl

    from embedstore.dataset import Part, StoreDataset
    from embedstore.kept_texts import Texts
    from embedstore.search import Hits, Per, Searcher

SAMPLE_COLUMNS = ("id", "path", "group", "exam", "view", "laterality", "split")
FAILURE_COLUMNS = ("id", "path", "stage", "reason", "spec")
_READ_TOGETHER = 1 << 19  # rows
NOTICEABLE = 0.01
"""Share of the breast a recipe may cut away, in the mean, without a word."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that gave no vector for the Spec of that key, and why."""

    id: str
    path: str
    stage: str
    reason: str
    spec: str


@dataclass(frozen=True, slots=True)
class Store(Arrays):
    """A store as of one commit; opening it again shows later ones."""

    specs: Mapping[str, Spec]
    provenance: Mapping[str, Mapping[str, Any]]
    _orders: dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _whole: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    _searchers: dict[str, Searcher] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str, verify: bool = False) -> Store:
        """Open for reading; never waits for a writer.

        With `verify`, the checksum of every chunk is compared when it is first read from; damage
        is a `StoreError` that names the file. (That of text always is.)

        Raises
        ------
        StoreError
            Nothing is there, or it is not a store of this format.
        """
        path = place(path)
        stamp = stamp_of(path)
        root = read_root(path)
        state = root["attributes"]["embedstore"]
        arrays = root["consolidated_metadata"]["metadata"]
        try:
            entries = state["embeddings"]
            specs = {key: Spec.from_dict(entry["spec"]) for key, entry in entries.items()}
            made = {key: dict(entry["provenance"]) for key, entry in entries.items()}
            for key, spec in specs.items():
                hash(spec)  # which a list in place of a text has not
                vectors = arrays[f"embeddings/{key}/vectors"]
                if (vectors["data_type"], vectors["shape"][1:]) != (spec.dtype, [spec.dim]):
                    raise ValueError(spec)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, "its embeddings") from error
        return cls(path, arrays, state["commit"], specs, made, verify=verify, _root=stamp)

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Any, ...]]:
        """Pickle without what is mapped: another process maps the files for itself."""
        values = (self.path, self.arrays, self.commit, self.specs, self.provenance)
        return partial(Store, verify=self.verify, _root=self._root), values

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.visible)

    def sets_of(self, spec: Spec) -> tuple[str, ...]:
        """Return the prefixes of the sets there are of a Spec: its vectors, pictures of its recipe.

        As `places` takes them.
        """
        ours = (f"embeddings/{spec.key}/", f"pixels/{spec.recipe.pixel_key}/")
        return tuple(
            n.removesuffix("/rows")
            for n in self.arrays
            if n.startswith(ours) and n.endswith("/rows")
        )

    def embedded(self, spec: Spec) -> NDArray[np.int64]:
        """(n,) raw row number of the sample of each vector, in the order they were written."""
        prefix = f"embeddings/{spec.key}"
        return self.array(f"{prefix}/rows", self.places(prefix))

    def count(self, spec: Spec) -> int:
        """Count the vectors."""
        return len(self.places(f"embeddings/{spec.key}"))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""
        prefix = "samples/labels/"
        return tuple(n.removeprefix(prefix) for n in self.arrays if _is(n, prefix, "array", self))

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns of the table, labels last."""
        return (*SAMPLE_COLUMNS, *self.labels)

    def column(self, name: str) -> NDArray[np.str_]:
        """(len,) str: a label, or one of id, path, group, exam, view, laterality, split."""
        values = self.array(self.column_array(name))
        return values[self.visible] if self.rows("samples/deleted") else values

    def column_array(self, name: str) -> str:
        """Return the array of a column; `UsageError` where there is no such column."""
        if name in self.labels:
            return f"samples/labels/{name}"
        if name in SAMPLE_COLUMNS:
            return f"samples/{name}"
        known = (*self.labels, *SAMPLE_COLUMNS)
        hint = did_you_mean(name, known)
        raise UsageError(f"{self.path}: no column {name!r}; there are {', '.join(known)}{hint}")

    def find(self, backbone: Spec | str) -> Spec:
        """Return the one Spec of that backbone name or key (or leading part of a key).

        Wherever a method takes a Spec or a string, this is what the string means.

        Raises
        ------
        UsageError
            There is none, or more than one.
        """
        if isinstance(backbone, Spec):
            backbone = backbone.key
        found = [
            spec
            for key, spec in self.specs.items()
            if spec.backbone == backbone or key.startswith(backbone)
        ]
        if len(found) == 1:
            return found[0]
        listed = ", ".join(f"{s.backbone} ({k}, {s.recipe})" for k, s in self.specs.items())
        trouble = "no embeddings" if not found else f"{len(found)} sets of embeddings"
        raise UsageError(f"{self.path}: {trouble} of {backbone!r}; there are: {listed or 'none'}")

    def aligned(self, spec: Spec) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(n,) raw rows, ascending, of the samples with a vector, and (n,) where each lies."""
        if spec.key not in self._orders:
            prefix = f"embeddings/{spec.key}"
            places = self.places(prefix)
            rows = self.array(f"{prefix}/rows", places).astype(np.intp)
            if (rows[1:] < rows[:-1]).any():
                order = np.argsort(rows, kind="stable")
                rows, places = rows[order], places[order]
            self._orders[spec.key] = rows, places
        return self._orders[spec.key]

    def rows_of(self, *backbones: Spec | str) -> NDArray[np.intp]:
        """(n,) raw rows, ascending, of the samples with a vector of each; of all, without any."""
        rows = self.visible
        for backbone in backbones:
            rows = rows[np.isin(rows, self.aligned(self.find(backbone))[0])]
        return rows

    def table(self, *backbones: Spec | str) -> pl.DataFrame:
        """Return the samples as a polars DataFrame: id, path, group (patient), …, and the labels.

        With backbones, only the samples that have a vector of each, so that row i of
        ``table("b")`` is row i of ``vectors("b")``. What is unknown is null. A label whose every
        known value is a number is a column of numbers; ids and all else stay text.
        """
        from embedstore.table import frame

        rows = self.rows_of(*backbones)
        columns = {n: self.array(self.column_array(n), rows).tolist() for n in self.column_names}
        return frame(columns, self.labels)

    def vectors(self, backbone: Spec | str, ids: Iterable[str] | None = None) -> NDArray[Any]:
        """(n, d) in the stored type: row i belongs to row i of ``table(backbone)``.

        Nothing is copied where the vectors lie on the disk in the order of the table, as
        extraction leaves them: the array is the files themselves, memory-mapped and read-only. It
        is a copy in memory where some were written later or are gone in between, with `verify`,
        and where a chunk is no whole number of pages.

        Parameters
        ----------
        ids
            Sample ids, to take these vectors in this order (a copy): a column of any table.

        Raises
        ------
        UsageError
            There are no such embeddings, or none of a sample asked for.
        """
        spec = self.find(backbone)
        rows, places = self.aligned(spec)
        name = f"embeddings/{spec.key}/vectors"
        if ids is not None:
            return self.array(name, places[self._positions(spec, rows, ids)])
        if spec.key not in self._whole:
            first, n = int(places[0]) if len(places) else 0, len(places)
            in_order = np.array_equal(places, np.arange(first, first + n))
            whole = self.mapped(name) if in_order else None
            if whole is None:
                return self.array(name, places)
            self._whole[spec.key] = whole[first : first + n]
        return self._whole[spec.key]

    def _positions(self, spec: Spec, rows: NDArray[np.intp], ids: Iterable[str]) -> list[int]:
        index = {v: at for at, v in enumerate(self.array("samples/id", rows).tolist())}
        try:
            return [index[i] for i in ids]
        except KeyError as error:
            raise UsageError(
                f"{self.path}: no vector of {spec.backbone} of a sample {error.args[0]!r}"
            ) from error

    def dataset(
        self,
        backbone: Spec | str,
        label: str | None = None,
        split: str | None = None,
        order: tuple[str, ...] = (),
        pixels: bool = False,
    ) -> StoreDataset:
        """Return a torch ``Dataset`` of vectors, or of the pictures kept with ``--keep-pixels``.

        Samples without a vector, picture or known label are left out.

        Parameters
        ----------
        label
            Items are then pairs with a class number, which is the place in `order`, else in the
            sorted classes of the whole store, so that it is the same in every split.
        split
            Only samples of that ``split``.
        pixels
            (c, H, W) tensors, as the backbone's recipe makes them, in place of (d,) vectors.

        Raises
        ------
        UsageError
            There is no such column, or no such embeddings, or `order` leaves a class out.
        DataError
            Nothing is left.
        """
        from embedstore.dataset import dataset

        spec = self.find(backbone)
        if not pixels:
            parts = [(f"embeddings/{spec.key}/vectors", *self.aligned(spec))]
            return dataset(self, parts, label, split, order)
        if not (parts := self._pictures(spec.recipe)):
            raise DataError(
                f"{self.path}: no pictures kept of recipe {spec.recipe}; "
                f"run `embedstore extract --keep-pixels`"
            )
        return dataset(self, parts, label, split, order, spec.recipe)

    def searcher(self, backbone: Spec | str, exact: bool = False) -> Searcher:
        """Return what searches the vectors of a backbone, by the index saved of them, if any.

        `exact` does without an index that is damaged.
        """
        from embedstore.saved_index import load
        from embedstore.search import Searcher

        spec = self.find(backbone)
        if spec.key in self._searchers:
            return self._searchers[spec.key]
        try:
            loaded = load(self, spec)
        except StoreError:
            if not exact:
                raise
            return Searcher(self, spec)
        self._searchers[spec.key] = Searcher(self, spec, loaded)
        return self._searchers[spec.key]

    def search(
        self,
        backbone: Spec | str,
        ids: str | Sequence[str | Sequence[str]] | None = None,
        vectors: NDArray[np.floating[Any]] | None = None,
        k: int = 10,
        unlike: Sequence[str] = (),
        where: str = "",
        per: Per = "image",
        include_same_patient: bool = False,
        exact: bool = False,
    ) -> Hits:
        """Find the `k` samples most like each query, by cosine, most alike first.

        A query's own images are never among them, nor, unless `include_same_patient`, any that a
        split would keep with one of them: of its patient or exam, or with the same bytes, in
        chains. Threads and processes may search at once.

        Parameters
        ----------
        ids
            Each a sample, or several that make one query: the images of an exam, say.
        vectors
            (m, d) queries of any length, in place of `ids`: of images or sentences by the same
            model.
        k
            How many; all queries get so many, whatever is left out.
        unlike
            Samples that no answer shall be like.
        where
            A filter on the table: ``view == 'MLO' and age >= 50`` (`embedstore.where`).
        per
            "patient" and "exam" answer only the most alike image of each.
        exact
            Compare every vector, though there is an index.

        Raises
        ------
        UsageError
            There is no such backbone, sample or column, or fewer than `k` to choose from.
        DataError
            None passes the filter, or a query is no direction.
        StoreError
            The index is damaged.
        """
        from embedstore.queries import asked

        searcher = self.searcher(backbone, exact)
        queries = asked(searcher, ids, vectors, unlike)
        return searcher.search(queries, k, where, per, include_same_patient, exact)

    def read(self, backbone: Spec | str, columns: Sequence[str] | None = None) -> Embeddings:
        """Everything of one Spec, in the table's order, with every column of the sample table.

        Vectors that would take more than a gigabyte as float32 stay on the disk (`blocks.Blocks`).

        Parameters
        ----------
        columns
            Only these columns, of those there are; ids, patients and exams always come.
        """
        spec = self.find(backbone)
        rows, places = self.aligned(spec)
        always = ("id", "group", "exam")
        names = [n for n in self.column_names if columns is None or n in {*always, *columns}]
        table = {name: self._column(name, rows) for name in names}
        return Embeddings(
            spec,
            table.pop("id"),
            self._vectors(spec, places),
            table.pop("group"),
            self.array(f"embeddings/{spec.key}/digests", places),
            table,
        )

    def _column(self, name: str, rows: NDArray[np.intp]) -> NDArray[np.str_]:
        """Read a column block by block: text on its way takes ten times the memory it ends in."""
        array = self.column_array(name)
        starts = range(0, max(1, len(rows)), _READ_TOGETHER)
        parts = [self.array(array, rows[a : a + _READ_TOGETHER]) for a in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _vectors(self, spec: Spec, places: NDArray[np.intp]) -> NDArray[Any] | Blocks:
        """Read vectors into memory where they are small enough to be worked on there."""
        name = f"embeddings/{spec.key}/vectors"
        if len(places) * spec.dim * 4 <= blocks.IN_MEMORY:
            return self.array(name, places)
        mapped = self.mapped(name)
        if mapped is None:
            return Blocks(_Fetched(self, name, (self.rows(name), spec.dim)), places)
        in_order = len(places) == len(mapped) and bool((np.diff(places) == 1).all())
        return Blocks(mapped, None if in_order else places)

    def texts(self, backbone: Spec | str) -> Texts:
        """Return the sentences kept of a Spec, each with its (d,) vector, not normalised."""
        from embedstore.kept_texts import read_texts

        return read_texts(self, self.find(backbone))

    def kept(self, recipe: Recipe) -> KeptPixels:
        """Return the pictures kept of a recipe, whatever its mean and std; perhaps none."""
        found: dict[int, tuple[str, int]] = {}
        for name, rows, places in self._pictures(recipe):
            prefix = name.removesuffix("/values")
            pairs = zip(rows.tolist(), places.tolist(), strict=True)
            found |= {row: (prefix, at) for row, at in pairs}
        return KeptPixels(self, found)

    def _pictures(self, recipe: Recipe) -> list[Part]:
        """Return the arrays of pictures of a recipe: name, raw rows of samples, and places."""
        start = f"pixels/{recipe.pixel_key}/"
        kinds = [n for n in self.arrays if n.startswith(start) and n.endswith("/values")]
        prefixes = [n.removesuffix("/values") for n in kinds]
        places = [self.places(prefix) for prefix in prefixes]
        rows = [self.array(f"{p}/rows", at) for p, at in zip(prefixes, places, strict=True)]
        return list(zip(kinds, rows, places, strict=True))

    def notes(self, backbone: Spec | str) -> tuple[str, ...]:
        """Return what must be said wherever results of these vectors are shown."""
        spec = self.find(backbone)
        said = [self.provenance[spec.key].get("note", "")]
        places = self.places(f"embeddings/{spec.key}")
        cut = self.array(f"embeddings/{spec.key}/cut", places) if len(places) else np.zeros(1)
        if cut.mean() >= NOTICEABLE:
            said.append(
                f"{spec.recipe.name} cuts away {cut.mean():.0%} of the breast in the mean, "
                f"{cut.max():.0%} at most; --resize pad keeps it whole"
            )
        if without := len(self) - len(places):
            said.append(f"{without} of {len(self)} images have no vector of {spec.backbone} (yet)")
        return tuple(filter(None, said))

    def failures(self) -> list[Failure]:
        """Images with no vector, leaving out those that succeeded later."""
        return list(self.failed().values())

    def failed(self) -> dict[int, Failure]:
        """Map places in the table of failures to what `failures` shows."""
        if not self.rows("failures/id"):
            return {}
        columns = [self.array(f"failures/{c}").tolist() for c in FAILURE_COLUMNS]
        every = [Failure(*row) for row in zip(*columns, strict=True)]
        dropped = set(self._listed("failures/dropped").tolist())
        last = {(f.id, f.spec): at for at, f in enumerate(every) if at not in dropped}
        done = {key: self._done_ids(key) for key in {spec for _, spec in last}}
        gone = self.deleted
        shown = (at for (i, key), at in last.items() if i not in done[key] and i not in gone)
        return {at: every[at] for at in shown}

    def _done_ids(self, key: str) -> set[str]:
        prefix = f"embeddings/{key}"
        if f"{prefix}/rows" not in self.arrays:
            return set()
        rows = self.array(f"{prefix}/rows", self.places(prefix))
        return set(self.array("samples/id", rows).tolist())


def _is(name: str, prefix: str, kind: str, store: Store) -> bool:
    return name.startswith(prefix) and store.arrays[name]["node_type"] == kind


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Rows of an array that cannot be mapped, read when they are asked for."""

    store: Store
    name: str
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = np.dtype(self.store.arrays[self.name]["data_type"])
        return found

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> NDArray[Any]:
        at = np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else rows
        return self.store.array(self.name, at)
