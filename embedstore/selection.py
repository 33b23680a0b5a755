"""Which samples of a store are handed over to other tools, and their vectors, block by block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedstore.errors import DataError
from embedstore.store import Store
from embedstore.types import Spec

BLOCK = 4096
"""Rows held in memory at a time."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Selection:
    """The samples that have a vector of each of some Specs, in the order of the store."""

    store: Store
    specs: tuple[Spec, ...]

    @classmethod
    def of(cls, store: Store, backbones: Sequence[Spec | str] = ()) -> Selection:
        """Select by Specs or their names; without any, by all that have vectors.

        Raises
        ------
        UsageError
            There are no embeddings of that name.
        DataError
            No sample has a vector of each.
        """
        asked = backbones or [s for s in store.specs.values() if store.count(s)]
        chosen = cls(store, tuple(dict.fromkeys(store.find(b) for b in asked)))
        if not chosen.specs or not len(chosen.rows):
            which = f" of each of {', '.join(s.backbone for s in chosen.specs)}" * bool(asked)
            raise DataError(f"{store.path}: no sample has a vector{which}")
        return chosen

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """(n,) raw row numbers of the samples."""
        return self.store.rows_of(*self.specs)

    @cached_property
    def table(self) -> pl.DataFrame:
        """The n samples, as `Store.table` gives them."""
        return self.store.table(*self.specs)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the vectors of each Spec are called: "embedding", with the backbone if of several.

        No two are equal, nor like a column of the table.
        """
        if len(self.specs) == 1 and "embedding" not in self.table.columns:
            return ("embedding",)
        taken, names = set(self.table.columns), []
        for spec in self.specs:
            name = f"embedding_{re.sub(r'[^A-Za-z0-9]+', '_', spec.backbone).strip('_')}"
            names.append(name if name not in taken else f"{name}_{spec.key}")
            taken.add(names[-1])
        return tuple(names)

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Map the name of each Spec's vectors to the Spec, its key with it."""
        pairs = zip(self.names, self.specs, strict=True)
        return {name: spec.to_dict() | {"key": spec.key} for name, spec in pairs}

    def blocks(self, show: Progress) -> Iterator[tuple[slice, tuple[NDArray[Any], ...]]]:
        """Yield some rows at a time, and the vectors of each Spec for them, as they are stored."""
        total = len(self.rows)
        every = [self.store.aligned(spec) for spec in self.specs]
        places = [at[np.searchsorted(rows, self.rows)] for rows, at in every]
        arrays = [f"embeddings/{spec.key}/vectors" for spec in self.specs]
        for start in range(0, total, BLOCK):
            part = slice(start, min(start + BLOCK, total))
            pairs = zip(arrays, places, strict=True)
            yield part, tuple(self.store.array(name, at[part]) for name, at in pairs)
            show(part.stop, total)
