"""The images of an extraction, batch by batch and ahead of the model that takes them.

A picture comes out of a file, by way of a reader process, or out of the store where it was kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.errors import ImageError
from embedstore.images.prepare import Prepared, prepare
from embedstore.kept import KeptPixels
from embedstore.plan import Plan
from embedstore.readers import Readers
from embedstore.types import Pixels, Recipe, Sample

AHEAD = 2
"""Batches that wait for the model."""

NICE = 10
"""Readers give way to a model on the same processor, whose threads wait for each other."""

Levels = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Pictures of one recipe, stacked by type and shape: their places in the batch, their levels."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images, by their numbers: those that gave pictures and those that failed.

    `levels` has the pictures once more by the recipe's pixel key, stacked for a device.
    """

    items: list[tuple[int, Prepared]]
    failed: list[tuple[int, ImageError]]
    levels: Mapping[str, Levels]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.items) + len(self.failed)


@dataclass(frozen=True, slots=True)
class Feed:
    """Images to read for some recipes, and the pictures a store has kept of some of them.

    `rows` are the rows of the samples in the store; where `there`, (n,), the pictures of all
    recipes are taken out of `kept`, one for each recipe, instead of the file.
    """

    samples: Sequence[Sample]
    rows: NDArray[np.int64]
    recipes: Mapping[str, Recipe]
    kept: Sequence[KeptPixels]
    there: NDArray[np.bool_]
    plan: Plan

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def batches(self, size: int) -> Generator[Batch]:
        """Yield batches of `size` images in order, each made while earlier ones are at work."""
        readers = readers_of(self.plan)
        thread = ThreadPoolExecutor(1)
        made = self.made(readers, size)
        try:
            waiting: deque[Future[Batch | None]] = deque(
                thread.submit(next, made, None) for _ in range(AHEAD)
            )
            while batch := waiting.popleft().result():
                waiting.append(thread.submit(next, made, None))
                yield batch
        finally:
            readers.end()
            thread.shutdown(cancel_futures=True)

    def made(self, readers: Readers[Prepared], size: int) -> Iterator[Batch]:
        """Yield batches of `size` images in order, each made when it is asked for."""
        there, recipes = self.there, list(self.recipes.values())
        files = (self.samples[int(n)] for n in np.flatnonzero(~there))
        read = readers.each((s.path, s.frame, recipes) for s in files)
        for start in range(0, len(self.rows), size):
            numbers = np.arange(start, min(start + size, len(self.rows)))
            kept = iter(self._from_store(self.rows[numbers[there[numbers]]]))
            fresh = islice(read, int((~there[numbers]).sum()))
            found = [(int(n), next(kept) if there[n] else next(fresh)) for n in numbers]
            yield self._batch(found)

    def _from_store(self, rows: NDArray[np.int64]) -> list[Prepared]:
        if not len(rows):
            return []
        read = zip(*(pixels.read(rows.tolist()) for pixels in self.kept), strict=True)
        return [
            Prepared(
                found[0].digest,
                tuple(f.picture for f in found),
                tuple(f.cut for f in found),
                found[0].stat,
            )
            for found in read
        ]

    def _batch(self, found: list[tuple[int, Prepared | ImageError]]) -> Batch:
        items = [(n, f) for n, f in found if isinstance(f, Prepared)]
        failed = [(n, f) for n, f in found if isinstance(f, ImageError)]
        levels = {
            key: stacked([p.pictures[which] for _, p in items], self.plan.device)
            for which, key in enumerate(self.recipes)
        }
        return Batch(items, failed, levels)


def readers_of(plan: Plan) -> Readers[Prepared]:
    """Return the readers of a plan; the caller ends them."""
    niceness = NICE if plan.device.startswith("cpu") else 0
    return Readers(prepare, plan.workers, plan.seconds, niceness)


def stacked(pictures: Sequence[Pixels], device: str) -> Levels:
    """Stack (H, W) or (H, W, 3) pictures by type and shape, in pinned memory for a GPU."""
    kinds: dict[tuple[str, int], list[int]] = {}
    for place, levels in enumerate(pictures):
        kinds.setdefault((levels.dtype.name, levels.ndim), []).append(place)
    return [
        (torch.tensor(places), _stack([pictures[p] for p in places], device))
        for places in kinds.values()
    ]


def _stack(pictures: Sequence[Pixels], device: str) -> torch.Tensor:
    first, shape = pictures[0], (len(pictures), *pictures[0].shape)
    kind = torch.uint8 if first.dtype == np.uint8 else torch.uint16
    out = torch.empty(shape, dtype=kind, pin_memory=device.startswith("cuda"))
    np.stack(pictures, out=out.numpy())
    return out
