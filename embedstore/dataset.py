"""A store's vectors, or the pictures kept in it, as a dataset for torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from embedstore.classes import order_of
from embedstore.errors import DataError
from embedstore.images.recipe import tensors
from embedstore.types import Floats, Recipe

Item = torch.Tensor | tuple[torch.Tensor, int]
Part = tuple[str, NDArray[np.intp], NDArray[np.intp]]
"""An array of vectors or pictures, (n,) raw rows of their samples, and (n,) places in the array."""


class Stored(Protocol):
    """What a dataset asks of a store, which must pickle for workers that are not forked."""

    def array(self, name: str, wanted: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """Read rows of an array."""

    def column(self, name: str) -> NDArray[np.str_]:
        """Read a column of the samples that are not deleted."""

    def column_array(self, name: str) -> str:
        """Return the array of a column."""


class StoreDataset(Dataset[Item]):
    """Items of a store, read when they are asked for: `Store.dataset` makes one.

    An item is a (d,) float32 vector, or a (c, H, W) float32 picture as the recipe's tensor; with
    a label, it is a pair of that and a class number. Workers of a ``DataLoader`` map the store's
    files for themselves, forked or spawned.

    Attributes
    ----------
    rows
        (n,) raw row numbers of the samples, ascending.
    classes
        The class of each number; empty without a label.
    targets
        (n,) int64 class numbers, None without a label.
    """

    def __init__(
        self,
        store: Stored,
        arrays: Sequence[str],
        places: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]],
        classes: tuple[str, ...] = (),
        targets: NDArray[np.int64] | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """Take (n,) rows, which of the arrays each lies in, and where in it; pictures' recipe."""
        self.store, self.arrays, self.recipe = store, tuple(arrays), recipe
        self.rows, self._which, self._at = places
        self.classes, self.targets = classes, targets

    def unnormalised(self) -> StoreDataset:
        """Return the same pictures in 0..1, (c, H, W), of one channel where the recipe is grey."""
        if self.recipe is None:
            raise DataError("vectors are no pictures")
        channels = 1 if self.recipe.colour == "grey" else 3
        recipe = replace(self.recipe, mean=(0.0,) * channels, std=(1.0,) * channels)
        places = self.rows, self._which, self._at
        return StoreDataset(self.store, self.arrays, places, self.classes, self.targets, recipe)

    @property
    def ids(self) -> NDArray[np.str_]:
        """(n,) ids of the samples."""
        return self.store.array("samples/id", self.rows)

    @property
    def groups(self) -> NDArray[np.str_]:
        """(n,) patients, for splits that part no patient."""
        return self.store.array("samples/group", self.rows)

    def __len__(self) -> int:
        """Count the items."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """Read one item."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Read a batch of items at once, as a ``DataLoader`` asks for them."""
        read = self.batch(np.asarray(indices, dtype=np.intp))
        if self.targets is None:
            return list(read)
        return list(zip(read, self.targets[np.asarray(indices)].tolist(), strict=True))

    def batch(self, indices: NDArray[np.intp]) -> torch.Tensor:
        """Read vectors or pictures at once: (b, d) or (b, c, H, W)."""
        return torch.from_numpy(self._read(self._which[indices], self._at[indices]))

    def _read(self, which: NDArray[np.intp], at: NDArray[np.intp]) -> Floats:
        out: Floats | None = None
        for number in np.unique(which):
            here = which == number
            values = self._floats(self.store.array(self.arrays[number], at[here]))
            out = np.empty((len(at), *values.shape[1:]), np.float32) if out is None else out
            out[here] = values
        return np.empty(0, np.float32) if out is None else out

    def _floats(self, values: NDArray[Any]) -> Floats:
        if self.recipe is None:
            return values.astype(np.float32)
        return tensors(self.recipe, list(values))


def dataset(
    store: Stored,
    parts: Sequence[Part],
    label: str | None = None,
    split: str | None = None,
    order: tuple[str, ...] = (),
    recipe: Recipe | None = None,
) -> StoreDataset:
    """Make a dataset of what `parts` hold; see `Store.dataset`.

    Raises
    ------
    UsageError
        There is no column `label`.
    DataError
        Nothing is left, or `order` leaves a class out.
    """
    rows = np.concatenate([rows for _, rows, _ in parts])
    which = np.repeat(np.arange(len(parts)), [len(rows) for _, rows, _ in parts])
    at = np.concatenate([at for _, _, at in parts])
    kept = np.argsort(rows, kind="stable")
    if split is not None:
        kept = kept[_of_split(store, rows[kept], split)]
    classes: tuple[str, ...] = ()
    targets = None
    if label is not None:
        classes = _classes(store, label, order)
        values = store.array(store.column_array(label), rows[kept])
        kept, values = kept[values != ""], values[values != ""]
        number = {name: n for n, name in enumerate(classes)}
        targets = np.array([number[v] for v in values.tolist()], dtype=np.int64)
    if not len(kept):
        raise DataError(f"none of these samples has a label {label!r}" if label else "no samples")
    places = (rows[kept], which[kept], at[kept])
    return StoreDataset(store, [name for name, _, _ in parts], places, classes, targets, recipe)


def _of_split(store: Stored, rows: NDArray[np.intp], split: str) -> NDArray[np.bool_]:
    values = store.array(store.column_array("split"), rows)
    here: NDArray[np.bool_] = values == split
    if not here.any():
        there = ", ".join(sorted(set(values.tolist()) - {""})) or "none"
        raise DataError(f"no sample of split {split!r}; the splits are: {there}")
    return here


def _classes(store: Stored, label: str, order: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes of all samples: a split that lacks one is numbered like the others."""
    values = store.column(label)
    known = values[values != ""]
    if not len(known):
        raise DataError(f"label {label!r} is empty for all {len(values)} images")
    return order_of(known, order)
