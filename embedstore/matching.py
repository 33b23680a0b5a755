"""Which samples of several stores are the same, and what the stores say against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.arrays import set_of
from embedstore.store import SAMPLE_COLUMNS, Store

_Content = tuple[bytes, str]
"""The digest of a file, and which of its frames."""


@dataclass(slots=True)
class Matching:
    """Where each visible sample of each store goes in a store of all of them.

    Attributes
    ----------
    places
        Of each store: the sample of each raw row, -1 where it is deleted.
    names
        Ids of the samples.
    problems
        What the stores say against each other, a line each.
    twice
        (store, its id, the id it goes by) of images that another store has under another id.
    shared
        How many samples another store has under the same id.
    parted
        (store, another): how many values they give for a patient or exam of the same image differ.
    """

    stores: Sequence[Store]
    places: list[NDArray[np.int64]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    twice: list[tuple[Path, str, str]] = field(default_factory=list)
    shared: int = 0
    names: list[str] = field(default_factory=list)
    parted: Counter[tuple[Path, Path]] = field(default_factory=Counter)
    _contents: list[_Content | None] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Count the samples of the new store."""
        return len(self.names)

    def match(self) -> None:
        """Find the samples that are the same, by id or by content."""
        by_id: dict[str, int] = {}
        by_content: dict[_Content, int] = {}
        for store in self.stores:
            rows, contents = store.visible, _contents(store)
            ids = store.array("samples/id")
            places = np.full(len(ids), -1, dtype=np.int64)
            fresh: dict[_Content, int] = {}
            for row in rows.tolist():
                name, content = str(ids[row]), contents.get(row)
                place = self._place(store, name, content, by_id, by_content)
                places[row] = place
                if content:
                    fresh.setdefault(content, place)
            by_id |= {str(ids[row]): int(places[row]) for row in rows.tolist()}
            by_content = fresh | by_content  # only of earlier stores: copies within one stay
            self.places.append(places)

    def _place(
        self,
        store: Store,
        name: str,
        content: _Content | None,
        by_id: Mapping[str, int],
        by_content: Mapping[_Content, int],
    ) -> int:
        if name in by_id:
            place = by_id[name]
            known = self._contents[place]
            if known and content and known != content:
                self.problems.append(
                    f"{name!r} of {store.path} is another image than the one of that id before"
                )
            self._contents[place] = known or content
            self.shared += 1
            return place
        if content and content in by_content:
            place = by_content[content]
            self.twice.append((store.path, name, self.names[place]))
            return place
        self.names.append(name)
        self._contents.append(content)
        return len(self.names) - 1

    def columns(self) -> dict[str, NDArray[np.object_]]:
        """Return (N,) values of each column, blanks filled in by the stores that know them."""
        labels = dict.fromkeys(name for store in self.stores for name in store.labels)
        columns = {"id": np.array(self.names, dtype=object)}
        for name in (*SAMPLE_COLUMNS[1:], *(f"labels/{label}" for label in labels)):
            columns[name] = self._column(name)
        return columns

    def _column(self, name: str) -> NDArray[np.object_]:
        values = np.full(len(self.names), "", dtype=object)
        source = np.zeros(len(self.names), dtype=np.intp)  # whose value it is
        for number, (store, places) in enumerate(zip(self.stores, self.places, strict=True)):
            if f"samples/{name}" not in store.arrays:
                continue
            rows = store.visible
            given, at = store.array(f"samples/{name}", rows).astype(object), places[rows]
            blank = values[at] == ""
            values[at[blank]] = given[blank]
            source[at[blank]] = number
            if name != "path":  # copies lie in two places
                self._compare(store, name, given, values, source, at)
        return values

    def _compare(
        self,
        store: Store,
        name: str,
        given: NDArray[np.object_],
        values: NDArray[np.object_],
        source: NDArray[np.intp],
        at: NDArray[np.int64],
    ) -> None:
        said = {"group": "patient"}.get(name, name.removeprefix("labels/"))
        for n in np.flatnonzero((given != "") & (given != values[at])):
            other = self.stores[source[at[n]]].path
            if name in {"group", "exam"}:
                self.parted[other, store.path] += 1
            self.problems.append(
                f"{said} of {self.names[at[n]]!r} is {given[n]!r} in {store.path} and "
                f"{values[at[n]]!r} in {other} (`embedstore update` changes it)"
            )


def _contents(store: Store) -> dict[int, _Content]:
    """Map raw rows to what their images are, as far as any set tells."""
    found: dict[int, _Content] = {}
    ids = store.array("samples/id")
    for prefix in prefixes(store):
        places = store.places(prefix)
        digests = store.array(f"{prefix}/digests", places)
        rows = store.array(f"{prefix}/rows", places).tolist()
        for row, digest in zip(rows, digests, strict=True):
            frame = str(ids[row]).rpartition("#")
            found[row] = (digest.tobytes(), frame[2] if frame[1] and frame[2].isdigit() else "")
    return found


def prefixes(store: Store) -> list[str]:
    """Return all sets of vectors and of pictures of a store, as `Store.places` takes them."""
    names = (name for name in store.arrays if name.startswith(("embeddings/", "pixels/")))
    return [set_of(name) for name in names if name.endswith("/rows")]
