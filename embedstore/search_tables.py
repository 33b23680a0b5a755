"""What a search needs of a store: its vectors, and tables of every place in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.distinct import distinct, same_bytes
from embedstore.links import chained
from embedstore.types import Floats, Spec

_BLOCK = 65536
_TEXTS = 1 << 19  # texts read together


class Stored(Protocol):
    """What an index, and a search, ask of a store."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def arrays(self) -> Mapping[str, Mapping[str, Any]]:
        """Metadata by array."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns."""

    def column_array(self, name: str) -> str:
        """Return the array of a column."""

    def rows(self, array: str) -> int:
        """Count the raw rows of an array."""

    def array(self, name: str, wanted: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """Read raw rows of an array."""

    def mapped(self, name: str) -> NDArray[Any] | None:
        """Memory-map an array."""

    def places(self, prefix: str) -> NDArray[np.intp]:
        """Return the places of the vectors that are there."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What a search needs of every place in the vectors of one Spec, n of them, and of samples.

    Attributes
    ----------
    inverse
        (n,) float32: one over the length, 0 for a vector of zeros.
    sets
        (n,) int32: number of what a split would keep together with it, in chains: of one patient,
        exam or file; -1 where nothing is there.
    order
        (N,) int32: raw rows of all samples, by their ids.
    """

    inverse: Floats
    sets: NDArray[np.int32]
    order: NDArray[np.int32]


def vectors_of(store: Stored, spec: Spec) -> NDArray[np.floating[Any]]:
    """(n, d) every vector by its place, also dropped ones; memory-mapped where that can be."""
    name = f"embeddings/{spec.key}/vectors"
    mapped = store.mapped(name)
    return store.array(name) if mapped is None else mapped


def tables_of(store: Stored, spec: Spec, inverse: Floats | None = None) -> Tables:
    """Make the tables of what a store holds now, given what is known of the lengths already."""
    prefix = f"embeddings/{spec.key}"
    places = store.places(prefix)
    rows = store.array(f"{prefix}/rows", places).astype(np.intp)
    sets = np.full(store.rows(f"{prefix}/rows"), -1, dtype=np.int32)
    if len(places):
        named = [_numbered(_texts(store, f"samples/{name}", rows)) for name in ("group", "exam")]
        digests = same_bytes(store.array(f"{prefix}/digests", places))
        sets[places] = chained([*named, digests])
    known = np.empty(0, dtype=np.float32) if inverse is None else inverse
    lengths = [lengths_of(block) for block in blocks_of(vectors_of(store, spec), len(known))]
    with np.errstate(divide="ignore"):
        more = [np.where(length > 0, 1 / length, 0).astype(np.float32) for length in lengths]
    every = np.arange(store.rows("samples/id"))
    order = np.argsort(_texts(store, "samples/id", every), kind="stable").astype(np.int32)
    return Tables(np.concatenate([known, *more]), sets, order)


def _texts(store: Stored, name: str, rows: NDArray[np.intp]) -> NDArray[np.bytes_]:
    """Read a column of text as UTF-8, which sorts as its characters do, in a quarter of the memory.

    Block by block: text on its way takes ten times the memory it ends in.
    """
    starts = range(0, max(1, len(rows)), _TEXTS)
    return np.concatenate([_utf8(store.array(name, rows[a : a + _TEXTS])) for a in starts])


def _utf8(texts: NDArray[np.str_]) -> NDArray[np.bytes_]:
    width = texts.dtype.itemsize // 4
    codes = np.ascontiguousarray(texts).view(np.uint32).reshape(len(texts), width)
    if not width or codes.max(initial=0) >= 128:
        return np.char.encode(texts, "utf-8")
    return codes.astype(np.uint8).view(f"S{width}").reshape(len(texts))


def _numbered(values: NDArray[np.bytes_]) -> NDArray[np.intp]:
    """(n,) numbers that are equal where values are; an unknown one, b"", is like no other."""
    _, number = distinct(values)
    unknown = np.flatnonzero(values == b"")
    number[unknown] = len(values) + np.arange(len(unknown))
    return number


def lengths_of(block: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(n,) float64 lengths of (n, d) vectors."""
    values = block.astype(np.float32, copy=False)
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return lengths


def blocks_of(vectors: NDArray[Any], start: int = 0) -> Iterator[NDArray[Any]]:
    """Yield the rows from `start` on, some at a time."""
    for at in range(start, len(vectors), _BLOCK):
        yield vectors[at : at + _BLOCK]
