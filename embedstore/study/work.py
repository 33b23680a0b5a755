"""Pieces of work: each has a key of all that decides its result, and is done once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedstore.errors import StoreError
from embedstore.protocol import Protocol
from embedstore.split_files import SavedSplit
from embedstore.store import Store
from embedstore.study import results
from embedstore.study.results import Result
from embedstore.types import Embeddings, Spec, fingerprint

FORMAT = 1
_NAME = 60  # letters of a file's name that are for the reader

Kind = Literal["probe", "curve", "finetune", "prompts", "audit", "map"]
Show = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of work.

    Attributes
    ----------
    name
        Unique among those of its kind.
    key
        Changes with whatever changes the result.
    unit
        What `do` counts while it works.
    do
        Does it, telling how many of how many units are done.
    """

    kind: Kind
    name: str
    spec: Spec
    key: str
    unit: str
    do: Callable[[Show], Result]

    @property
    def stem(self) -> str:
        """The name of its files, without the suffix."""
        return f"{self.kind}-{slug(self.name)}-{self.key}"


def slug(name: str) -> str:
    """Reduce a name to what any file system takes."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:_NAME]


def do(piece: Piece, folder: Path, show: Show) -> Result:
    """Do a piece of work and keep its result; return it as `results.read` will give it again."""
    results.write(piece.do(show), folder / piece.stem)
    found = results.read(folder / piece.stem)
    if found is None:
        raise StoreError(f"{folder / piece.stem}: cannot be read though it was just written")
    return found


def done(piece: Piece, folder: Path) -> Result | None:
    """Return the result of a piece that was done before."""
    return results.read(folder / piece.stem)


@dataclass(slots=True)
class Bench:
    """What the pieces of a study share.

    Attributes
    ----------
    how
        As every contender is judged; its split is a `SavedSplit`.
    runs
        Where fine-tunes lie.
    device
        For fine-tunes and sentences.
    """

    store: Store
    label: str
    how: Protocol
    runs: Path
    device: str = "auto"
    _spec: Spec | None = None
    _read: Embeddings | None = None
    _said: dict[tuple[str, bool], str] = field(default_factory=dict)

    @property
    def split(self) -> SavedSplit:
        """Who is tested when."""
        assert isinstance(self.how.split, SavedSplit)
        return self.how.split

    def read(self, spec: Spec) -> Embeddings:
        """Read the vectors of a Spec, once for the pieces that come one after the other."""
        if self._read is None or self._spec != spec:
            self._spec, self._read = spec, self.store.read(spec)
        return self._read

    def key(self, kind: Kind, spec: Spec, how: Protocol | None = None, **more: Any) -> str:
        """Hash all that decides a piece's result: data, Spec, split, protocol, version, `more`."""
        how = how or self.how
        assert isinstance(how.split, SavedSplit)
        return fingerprint(
            {
                "format": FORMAT,
                "embedstore": version("embedstore"),
                "kind": kind,
                "spec": spec.key,
                "data": self._data(spec, whole=kind == "audit"),
                "label": self.label,
                "split": how.split.fingerprint,
                "order": how.order,
                "level": how.level,
                "groupings": how.groupings,
                "by": [str(by) for by in how.by],
                "seed": how.seed,
                "few": str(how.few) if how.few else "",
                **more,
            }
        )

    def _data(self, spec: Spec, whole: bool) -> str:
        """Hash what is known of the images with a vector, whatever the order of the rows."""
        if (spec.key, whole) not in self._said:
            store = self.store
            rows, places = store.aligned(spec)
            linking = ("id", "group", "exam", "view", "laterality")
            names = (*linking, self.label, *(by.column for by in self.how.by))
            names = store.column_names if whole else tuple(n for n in names if n != "patient")
            columns = [store.array(store.column_array(n), rows).tolist() for n in names]
            digests = store.array(f"embeddings/{spec.key}/digests", places)
            files = [d.tobytes().hex() for d in np.asarray(digests)]
            self._said[spec.key, whole] = fingerprint(
                [names, sorted(zip(*columns, files, strict=True))]
            )
        return self._said[spec.key, whole]
