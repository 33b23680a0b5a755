"""Vectors that stay on the disk, read block by block, where all of them would not fit in memory.

`Blocks` stands in for the array: it has its shape, gives rows as float32, and takes rows and
standardises without reading anything. What asks for all of it at once (``np.asarray``) gets it
where there is room, and one line that says how much it takes where there is not.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError

IN_MEMORY = 1 << 30
"""Bytes of float32 up to which vectors are worked on in memory: some copies of them are made."""

BLOCK_ROWS = 4096
"""Rows that are read together: 8 MB of float32 for 512 dimensions."""

_COPIES = 3  # of the vectors, while a head that takes them whole is fitted

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


class Source(Protocol):
    """What vectors are read from: an array, perhaps memory-mapped, or what fetches rows of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32."""

    def __getitem__(self, rows: Any) -> Any:
        """Read rows, by slice or by numbers."""


class Blocks:
    """(n, d) vectors that are read block by block, as float32.

    Parameters
    ----------
    source
        What they are rows of.
    rows
        (n,) which, in this order; None for all.
    mean, scale
        (d,) each: what is subtracted, and then divided by; None for the vectors as they are.
    """

    ndim = 2

    def __init__(
        self,
        source: Source,
        rows: Rows | None = None,
        mean: Floats | None = None,
        scale: Floats | None = None,
    ) -> None:
        self.source, self.rows, self.mean, self.scale = source, rows, mean, scale
        self.shape = (source.shape[0] if rows is None else len(rows), source.shape[1])
        self.dtype: np.dtype[Any] = np.dtype(source.dtype)

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes as float32."""
        return self.shape[0] * self.shape[1] * 4

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Blocks:
        """Only those rows, in that order; nothing is read."""
        at = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.intp, copy=False)
        at = at if self.rows is None else self.rows[at]
        return self._like(at, self.mean, self.scale)

    def standardised(self, mean: Floats, scale: Floats) -> Blocks:
        """Less `mean` and over `scale`, (d,) each; nothing is read."""
        if self.mean is not None:
            raise ValueError("these are standardised already")
        return self._like(self.rows, mean, scale)

    def _like(self, rows: Rows | None, mean: Floats | None, scale: Floats | None) -> Blocks:
        made = Blocks(self.source, rows, mean, scale)
        if "_half" in self.__dict__:
            made.__dict__["_half"] = self._half
        return made

    def settled(self) -> Blocks | Floats:
        """Return the array where it is small enough to be worked on in memory, else these."""
        return self if self.nbytes > IN_MEMORY else self[:]

    def __getitem__(self, rows: Any) -> Floats:
        """Read rows into memory, by slice, numbers or mask."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self.fill(start, max(start, stop))
            rows = np.arange(start, stop, step)
        some = self.take(np.asarray(rows))
        return some.fill(0, len(some))

    def fill(self, start: int, stop: int, out: Floats | None = None) -> Floats:
        """Read the rows from `start` up to `stop`, into (stop - start, d) `out` where it is given.

        Memory that is used again and again is much quicker than fresh memory.
        """
        out = np.empty((stop - start, self.shape[1]), dtype=np.float32) if out is None else out
        at: slice | Rows = slice(start, stop)
        if self.rows is not None and stop > start:
            at = self.rows[start:stop]
            if at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
                at = slice(int(at[0]), int(at[-1]) + 1)
        if self._half is None:
            np.copyto(out, self.source[at])
        else:
            import torch

            some = self._half[at] if isinstance(at, slice) else self._half[torch.as_tensor(at)]
            torch.from_numpy(out).copy_(some)
        if self.mean is not None and self.scale is not None:
            out -= self.mean
            out /= self.scale
        return out

    @cached_property
    def _half(self) -> Any:
        """The vectors for torch, which turns float16 to float32 many times faster than numpy."""
        if self.dtype != np.float16 or not isinstance(self.source, np.ndarray):
            return None
        import torch

        with warnings.catch_warnings():
            # mapped memory cannot be written to, nor is it
            warnings.filterwarnings("ignore", message=".*not writable")
            return torch.from_numpy(self.source)

    def blocks(self, size: int = 0) -> Iterator[tuple[int, Floats]]:
        """Yield the number of the first row and the (b, d) rows of each block.

        A block lasts until the next one is asked for: its memory is used again.
        """
        size = size or BLOCK_ROWS
        memory = np.empty((min(size, len(self)), self.shape[1]), dtype=np.float32)
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield start, self.fill(start, stop, memory[: stop - start])

    def finite(self) -> bool:
        """Say whether no value is NaN or infinite."""
        for _, block in self.blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                total = block.sum()
            # a sum of what is finite may be infinite, but hardly ever is
            if not np.isfinite(total) and not np.isfinite(block).all():
                return False
        return True

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(d,) mean and (d,) standard deviation of each column, summed up in float64."""
        centre = self[: min(len(self), 256)].mean(axis=0)
        total, square = np.zeros((2, self.shape[1]))
        for _, block in self.blocks():
            block -= centre
            total += block.sum(axis=0, dtype=np.float64)
            square += np.einsum("ij,ij->j", block, block)
        moved = total / len(self)
        deviation = np.sqrt(np.maximum(square / len(self) - moved**2, 0))
        return centre + moved, deviation

    def whole(self) -> Floats:
        """Read all of it.

        Raises
        ------
        DataError
            There is no room for the copies that a head makes of it.
        """
        wanted, free = _COPIES * self.nbytes, free_memory()
        if wanted > free:
            raise DataError(
                f"{len(self)} vectors of {self.shape[1]} take about {wanted / 1e9:.0f} GB in "
                f"memory at once, and {free / 1e9:.0f} GB are free"
            )
        return self[:]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all of it, as `whole` does."""
        return self.whole().astype(np.float32 if dtype is None else dtype, copy=False)

    def astype(self, dtype: Any, copy: bool = True) -> NDArray[Any]:
        """Read all of it, as `whole` does."""
        return self.__array__(dtype)


def free_memory() -> int:
    """Return the bytes that may still be taken, those of the page cache among them."""
    try:
        with open("/proc/meminfo") as lines:
            known = dict(line.split(":", 1) for line in lines)
        return int(known["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")) // 2


def floats(vectors: Blocks | NDArray[Any]) -> Blocks | Floats:
    """Return an array as float32; what is read by blocks stays."""
    return vectors if isinstance(vectors, Blocks) else np.asarray(vectors, dtype=np.float32)


def all_finite(vectors: Blocks | NDArray[Any]) -> bool:
    """Say whether no value is NaN or infinite."""
    return vectors.finite() if isinstance(vectors, Blocks) else bool(np.isfinite(vectors).all())


def part(vectors: Blocks | NDArray[Any], rows: NDArray[Any]) -> Any:
    """Return those rows: in memory where they are few or `vectors` are, else by blocks."""
    return vectors.take(rows).settled() if isinstance(vectors, Blocks) else vectors[rows]
