"""Pictures and classes in batches, in an order that a run that goes on takes up where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from embedstore.dataset import StoreDataset

__all__ = ["Films", "Order", "Source", "in_order", "loader"]


class Source(Protocol):
    """What can be learnt from: batches by the numbers of their items."""

    def __len__(self) -> int:
        """Count the items."""

    def __getitem__(self, items: list[int]) -> dict[str, torch.Tensor]:
        """Read these, as tensors of equal length."""

    def name(self, item: int) -> str:
        """Say which image an item is."""


class Films(Dataset[dict[str, torch.Tensor]]):
    """Kept pictures with their classes.

    Parameters
    ----------
    pictures
        (c, H, W) in 0..1 by item.
    items
        (n,) which of them.
    truth
        (n,) class numbers.
    """

    def __init__(
        self, pictures: StoreDataset, items: NDArray[np.intp], truth: NDArray[np.intp]
    ) -> None:
        self.pictures, self.items = pictures, items
        self.truth = torch.as_tensor(truth, dtype=torch.long)

    def __len__(self) -> int:
        """Count the items."""
        return len(self.items)

    def __getitem__(self, items: list[int]) -> dict[str, torch.Tensor]:
        """Read a batch."""
        return {
            "pictures": self.pictures.batch(self.items[items]),
            "truth": self.truth[items],
            "item": torch.as_tensor(items),
        }

    def name(self, item: int) -> str:
        """Return the id of the sample."""
        return str(self.pictures.ids[self.items[item]])


class Order(Sampler[list[int]]):
    """The batches of every epoch: all items once, shuffled by seed and epoch alone.

    It begins at the step that `step` says, so that a run which goes on in the middle of an epoch
    takes the batches it had not taken yet. Batches differ by one item at most; of several
    processes each takes its part of every batch.
    """

    def __init__(
        self,
        items: int,
        batch: int,
        seed: int,
        step: Callable[[], int],
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.items, self.seed, self.step = items, seed, step
        self.batches = max(1, math.ceil(items / batch))
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yield what is left of the epoch."""
        epoch, done = divmod(self.step(), self.batches)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.items)
        for part in np.array_split(order, self.batches)[done:]:
            own = part[self.rank :: self.processes]
            # every process needs something to do in every step
            yield (own if len(own) else part[:1]).tolist()


class _Loader(DataLoader[Any]):
    """Tells its trainer that it goes on where it was: `Order` sees to that."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the number of steps says it all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


def loader(source: Source, order: Sampler[list[int]] | Sequence[list[int]], workers: int) -> Any:
    """Return a ``DataLoader`` of batches that are read at once."""
    return _Loader(
        source,  # type: ignore[arg-type]
        sampler=order,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if workers else None,
    )


def in_order(items: int, batch: int) -> list[list[int]]:
    """All items one after the other, in batches."""
    return [list(range(i, min(i + batch, items))) for i in range(0, items, batch)]
