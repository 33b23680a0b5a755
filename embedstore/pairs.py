"""The nearest neighbours of every vector among all the others: leave-one-out, exact.

A cosine serves both of its rows, so half of the products are enough. A tile of cosines is compared
with the least that still counts for its rows, and again for its columns; what passes, ever fewer,
is merged. Tiles that share no rows are worked on side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.errors import DataError
from embedstore.solver import crew
from embedstore.types import Floats

TILE = 2048
"""Rows and columns of a tile: 16 MB of cosines."""

CROWD = 2
"""So many times k found a row, and the whole tile is ranked."""


def all_neighbours(
    unit: Floats, k: int, groups: NDArray[np.intp] | None = None
) -> tuple[Floats, NDArray[np.intp]]:
    """Find the `k` rows most alike to each row, best first, without the row itself.

    Parameters
    ----------
    unit
        (n, d) float32 unit vectors.
    groups
        (n,) numbers, such as of patients: rows of a row's own group are not its neighbours.

    Returns
    -------
    tuple
        Cosines (n, k) float32 and rows (n, k).

    Raises
    ------
    DataError
        A row has fewer than `k` others to choose from, or vectors hold NaN.
    """
    groups = np.arange(len(unit)) if groups is None else groups
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    left = len(unit) - int(sizes.max())
    if not 1 <= k <= left:
        raise DataError(f"k is {k}; there are {left} vectors to choose from")
    if not np.isfinite(unit).all():
        raise DataError("vectors hold NaN or infinity; they have no neighbours")
    table = _Table(torch.as_tensor(np.ascontiguousarray(unit)), torch.as_tensor(number), k)
    with crew(len(table.starts)) as hands:
        for side_by_side in _rounds(len(table.starts)):
            hands.each(table.work, hands.shares(side_by_side))
    return np.clip(table.best.numpy(), -1, 1), table.rows.numpy()


class _Table:
    """The best of each row so far, nearest first; -1 for rows yet to be found."""

    def __init__(self, unit: Tensor, groups: Tensor, k: int) -> None:
        self.unit, self.groups = unit, groups
        self.starts = range(0, len(unit), TILE)
        self.best = torch.full((len(unit), k), -torch.inf)
        self.rows = torch.full((len(unit), k), -1)

    def work(self, tiles: Sequence[tuple[int, int]]) -> None:
        """Work on tiles, by the numbers of their two blocks of rows."""
        for i, j in tiles:
            a, b = (slice(self.starts[t], self.starts[t] + TILE) for t in (i, j))
            cosines = self.unit[a] @ self.unit[b].T
            self._take(cosines, a, b)
            if i != j:
                self._take(cosines.T, b, a)

    def _take(self, cosines: Tensor, mine: slice, others: slice) -> None:
        """Merge what is better than the worst that `mine` have."""
        worst = self.best[mine, -1:].numpy()
        # compared as the tile lies in memory, which may be on its side; numpy is twice as quick
        lying = not cosines.is_contiguous()
        better = cosines.T.numpy() > worst.T if lying else cosines.numpy() > worst
        at = np.flatnonzero(better)
        if len(at) > CROWD * self.best.shape[1] * len(cosines):
            self._take_all(cosines.clone(), mine, others)
            return
        row, column = np.divmod(at, better.shape[1])
        if lying:
            row, column = column, row
        good = self.groups[mine].numpy()[row] != self.groups[others].numpy()[column]
        if good.any():
            row, column = row[good], column[good]
            self._take_some(cosines[row, column].numpy(), row, column, mine, others)

    def _take_all(self, cosines: Tensor, mine: slice, others: slice) -> None:
        """Merge the best of every row of the tile, where most rows gain."""
        cosines[self.groups[mine][:, None] == self.groups[others]] = -torch.inf
        top = cosines.topk(min(self.best.shape[1], cosines.shape[1]), dim=1)
        every = torch.arange(len(self.best))[mine]
        self._merge(every, top.values, top.indices + others.start)

    def _take_some(
        self,
        found: Floats,
        row: NDArray[np.intp],
        column: NDArray[np.intp],
        mine: slice,
        others: slice,
    ) -> None:
        """Merge a few of a tile's cosines, by their places."""
        order = np.lexsort((column, -found, row))
        row, column, found = row[order], column[order], found[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        touched, which = np.unique(row, return_inverse=True)
        best = torch.full((len(touched), int(place.max()) + 1), -torch.inf)
        rows = torch.full(best.shape, -1)
        cell = (torch.as_tensor(which), torch.as_tensor(place))
        best[cell] = torch.as_tensor(found)
        rows[cell] = torch.as_tensor(column + others.start)
        self._merge(torch.as_tensor(touched + mine.start), best, rows)

    def _merge(self, at: Tensor, best: Tensor, rows: Tensor) -> None:
        """Put what was found beside what the rows `at` had, and keep the best."""
        best, rows = torch.cat([self.best[at], best], 1), torch.cat([self.rows[at], rows], 1)
        top = best.topk(self.best.shape[1], dim=1)
        self.best[at], self.rows[at] = top.values, rows.gather(1, top.indices)


def _rounds(n: int) -> list[list[tuple[int, int]]]:
    """All pairs of `n` blocks, each with itself first, in rounds where no block is in two pairs.

    A round-robin tournament by the circle method.
    """
    players = [*range(n), *([-1] if n % 2 else [])]
    rounds = [[(i, i) for i in range(n)]]
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        rounds.append([(min(p), max(p)) for p in pairs if min(p) >= 0])
        players = [players[0], players[-1], *players[1:-1]]
    return rounds
