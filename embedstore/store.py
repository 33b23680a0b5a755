"""The store: one table of samples, and the vectors of several backbones over it, in plain Zarr v3.

::

    S.zarr/
      zarr.json               the commit: what exists, and the metadata of every array
      samples/<column>        (N,) string: id, path, group, exam, view, laterality, split
      samples/labels/<name>   (N,) string, "" where unknown
      embeddings/<Spec.key>/
        vectors               (n, d) float32 or float16
        rows                  (n,) int64: the sample each vector belongs to
        digests               (n, 16) uint8: leading half of the file's sha256
        cut                   (n,) float32: share of the breast a centre crop cut away
      pixels/<Recipe.pixel_key>/<kind>/
        values                (n, H, W[, 3]) uint8 or uint16, as the kind says: the model's pictures
        rows, digests, cut    as above
      failures/<column>       id, path, stage, reason, spec

A commit is one atomic replacement of the root ``zarr.json``, whose consolidated metadata holds
every array's length, after all chunk files it covers are in place. Rows past it do not exist, so a
killed run loses only what came since, and the next one writes over it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.chunks import Layout, Maps, read_rows
from embedstore.errors import StoreError, UsageError
from embedstore.types import Embeddings, Pixels, Recipe, Spec

FORMAT = 2
SAMPLE_COLUMNS = ("id", "path", "group", "exam", "view", "laterality", "split")
FAILURE_COLUMNS = ("id", "path", "stage", "reason", "spec")
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
class Kept:
    """A picture as a recipe made it, the digest of its file, and what the recipe cut away."""

    digest: bytes
    picture: Pixels
    cut: float


@dataclass(frozen=True, slots=True)
class Store:
    """A store as of one commit; opening it again shows later ones."""

    path: Path
    arrays: Mapping[str, Mapping[str, Any]]
    specs: Mapping[str, Spec]
    provenance: Mapping[str, Mapping[str, Any]]
    commit: int
    _maps: Maps = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open for reading; never waits for a writer.

        Raises
        ------
        StoreError
            Nothing is there, or it is not a store of this format.
        """
        path = Path(path)
        root = read_root(path)
        state = root["attributes"]["embedstore"]
        entries = state["embeddings"]
        return cls(
            path,
            root["consolidated_metadata"]["metadata"],
            {key: Spec.from_dict(entry["spec"]) for key, entry in entries.items()},
            {key: entry["provenance"] for key, entry in entries.items()},
            state["commit"],
        )

    def __len__(self) -> int:
        """Count the samples."""
        return self.rows("samples/id")

    def rows(self, array: str) -> int:
        """Count the committed rows of one array, 0 where it does not exist."""
        return int(self.arrays[array]["shape"][0]) if array in self.arrays else 0

    def array(self, name: str, wanted: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """Read one array into memory, all of it or the rows `wanted`."""
        if name not in self.arrays:
            raise StoreError(f"{self.path}: no array {name!r}")
        layout = layout_of(name, self.arrays[name])
        return read_rows(self.path, layout, self.rows(name), wanted, self._maps)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""
        prefix = "samples/labels/"
        return tuple(n.removeprefix(prefix) for n in self.arrays if _is(n, prefix, "array", self))

    def column(self, name: str) -> NDArray[np.str_]:
        """(N,) str: a label, or one of id, path, group, exam, view, laterality, split."""
        if name in self.labels:
            return self.array(f"samples/labels/{name}")
        if name in SAMPLE_COLUMNS:
            return self.array(f"samples/{name}")
        known = ", ".join((*self.labels, *SAMPLE_COLUMNS))
        raise UsageError(f"{self.path}: no column {name!r}; there are {known}")

    def find(self, backbone: str) -> Spec:
        """Return the one Spec of that backbone name or key (or leading part of a key).

        Raises
        ------
        UsageError
            There is none, or more than one.
        """
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

    def vectors(self, spec: Spec, wanted: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """(n, d) in the stored type, in the order they were written."""
        return self.array(f"embeddings/{spec.key}/vectors", wanted)

    def read(self, spec: Spec) -> Embeddings:
        """Everything of one Spec, with every column of the sample table, in the table's order."""
        rows = self.array(f"embeddings/{spec.key}/rows").astype(np.intp)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        columns = {
            name: self.column(name)[rows]
            for name in (*SAMPLE_COLUMNS, *self.labels)
            if name not in {"id", "group"}
        }
        return Embeddings(
            spec,
            self.column("id")[rows],
            self.vectors(spec)[order],
            self.column("group")[rows],
            self.array(f"embeddings/{spec.key}/digests")[order],
            columns,
        )

    def kept(self, recipe: Recipe) -> KeptPixels:
        """Return the pictures kept of a recipe, whatever its mean and std; perhaps none."""
        prefix = f"pixels/{recipe.pixel_key}/"
        kinds = [n for n in self.arrays if n.startswith(prefix) and n.endswith("/values")]
        places = {
            int(row): (name.removesuffix("/values"), at)
            for name in kinds
            for at, row in enumerate(self.array(name.replace("/values", "/rows")))
        }
        return KeptPixels(self, places)

    def notes(self, spec: Spec) -> tuple[str, ...]:
        """Return what must be said wherever results of these vectors are shown."""
        said = self.provenance[spec.key].get("note", "")
        name = f"embeddings/{spec.key}/cut"
        cut = self.array(name) if self.rows(name) else np.zeros(1)
        if cut.mean() < NOTICEABLE:
            return (said,) if said else ()
        lost = (
            f"{spec.recipe.name} cuts away {cut.mean():.0%} of the breast in the mean, "
            f"{cut.max():.0%} at most; --resize pad keeps it whole"
        )
        return (said, lost) if said else (lost,)

    def failures(self) -> list[Failure]:
        """Images with no vector, leaving out those that succeeded later."""
        if "failures/id" not in self.arrays:
            return []
        columns = [self.array(f"failures/{c}").tolist() for c in FAILURE_COLUMNS]
        found = {(row[0], row[4]): Failure(*row) for row in zip(*columns, strict=True)}
        done = {key: set(self._done_ids(key)) for key in {spec for _, spec in found}}
        return [failure for (i, key), failure in found.items() if i not in done[key]]

    def _done_ids(self, key: str) -> list[str]:
        if f"embeddings/{key}/rows" not in self.arrays:
            return []
        ids: list[str] = self.column("id")[self.array(f"embeddings/{key}/rows")].tolist()
        return ids


@dataclass(frozen=True, slots=True)
class KeptPixels:
    """The pictures a store has kept of one recipe, by the row of the sample."""

    store: Store
    _places: Mapping[int, tuple[str, int]]

    @property
    def rows(self) -> NDArray[np.int64]:
        """(n,) rows of the samples whose pictures are kept."""
        return np.fromiter(self._places, dtype=np.int64, count=len(self._places))

    def read(self, row: int) -> Kept:
        """Return the picture of one sample; KeyError where it is not kept."""
        prefix, at = self._places[row]
        wanted = np.array([at], dtype=np.intp)
        values, digests, cut = (
            self.store.array(f"{prefix}/{name}", wanted)[0] for name in ("values", "digests", "cut")
        )
        return Kept(digests.tobytes(), values, float(cut))


def read_root(path: Path) -> dict[str, Any]:
    """Return the root ``zarr.json`` of a store; `StoreError` where `path` is none."""
    try:
        root: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())
        version = root["attributes"]["embedstore"]["format"]
    except FileNotFoundError as error:
        trouble = "is not an embedstore store" if path.exists() else "no such store"
        raise StoreError(f"{path}: {trouble}; make one with `embedstore extract`") from error
    except NotADirectoryError as error:
        raise StoreError(f"{path}: is a file, not a store") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: a Zarr folder that embedstore did not make") from error
    if version != FORMAT:
        raise StoreError(
            f"{path}: store format {version}, {FORMAT} is read here; extract into a new store"
        )
    return root


def _is(name: str, prefix: str, kind: str, store: Store) -> bool:
    return name.startswith(prefix) and store.arrays[name]["node_type"] == kind


def layout_of(name: str, metadata: Mapping[str, Any]) -> Layout:
    """Return the layout an array's ``zarr.json`` describes."""
    return Layout(name, metadata["data_type"], tuple(metadata["shape"][1:]))
