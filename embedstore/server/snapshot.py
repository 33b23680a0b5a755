"""The store as of its last commit, with what every answer needs of it in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedstore.commit import stamp_of
from embedstore.errors import DataError, StoreError, UsageError
from embedstore.kept import KeptPixels
from embedstore.saved_index import load
from embedstore.search import Searcher
from embedstore.server.labels import Codes
from embedstore.store import Store
from embedstore.types import Recipe, Spec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InMemory(Store):
    """A store whose text stays in memory once it was read: every answer shows some of it."""

    _text: dict[str, NDArray[Any]] = field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    def array(self, name: str, wanted: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """Read as `Store.array` does."""
        if not name.startswith("samples/") or self._layout(name).dtype != "string":
            return Store.array(self, name, wanted)
        if name not in self._text:
            whole = Store.array(self, name)
            whole.flags.writeable = False
            self._text[name] = whole
        return self._text[name] if wanted is None else self._text[name][wanted]


class Snapshot:
    """One commit; what is made of it is made once, whichever thread asks first."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._made: dict[tuple[object, ...], Any] = {}

    def spec(self, backbone: str = "", with_text: bool = False) -> Spec:
        """Return the Spec of a name or key; without one the first, or the first that reads text."""
        if backbone:
            return self.store.find(backbone)
        there = [s for s in self.store.specs.values() if self.store.count(s)]
        if not there:
            raise DataError(f"{self.store.path.name}: holds no vectors yet")
        return next((s for s in there if s.text), there[0]) if with_text else there[0]

    def searcher(self, spec: Spec) -> Searcher:
        """Return what searches these vectors."""
        return self._once(
            ("searcher", spec.key), lambda: Searcher(self.store, spec, load(self.store, spec))
        )

    def codes(self, spec: Spec, label: str) -> Codes:
        """Return the values of a column at every place in the vectors, as numbers.

        Raises
        ------
        UsageError
            There is no such column.
        """
        self.store.column_array(label)
        return self._once(
            ("codes", spec.key, label), lambda: Codes.of(self.store, self.searcher(spec), label)
        )

    def kept(self, recipe: Recipe) -> KeptPixels:
        """Return the pictures that the store keeps of a recipe."""
        return self._once(("kept", recipe.pixel_key), lambda: self.store.kept(recipe))

    def notes(self, spec: Spec) -> tuple[str, ...]:
        """Return what must be said beside every answer."""
        return self._once(("notes", spec.key), lambda: self.store.notes(spec))

    def remembered(self, what: str, make: Callable[[], T]) -> T:
        """Return what was made under that name, made now if it is the first time."""
        return self._once((what,), make)

    def row(self, sample: str) -> int | None:
        """Return the raw row of a sample that is not deleted; None where there is none."""
        return self._once(("ids",), self._rows_by_id).get(sample)

    def _rows_by_id(self) -> dict[str, int]:
        rows = self.store.visible
        return dict(zip(self.store.array("samples/id", rows).tolist(), rows.tolist(), strict=True))

    def _once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            found: T = self._made[key]
            return found


class Latest:
    """A store, opened again as soon as somebody has written to it."""

    def __init__(self, path: Path, verify: bool = False) -> None:
        self._path, self._verify = path, verify
        self._lock = threading.Lock()
        self._stamp = stamp_of(path)
        self._snapshot = Snapshot(InMemory.open(path, verify))

    def snapshot(self) -> Snapshot:
        """Return the last commit, or the one before while the last cannot be read."""
        if stamp_of(self._path) == self._stamp:
            return self._snapshot
        with self._lock:
            stamp = stamp_of(self._path)
            if stamp != self._stamp and stamp != (0, 0):
                try:
                    fresh = Snapshot(InMemory.open(self._path, self._verify))
                except (StoreError, UsageError):
                    return self._snapshot
                self._snapshot, self._stamp = fresh, stamp
        return self._snapshot
