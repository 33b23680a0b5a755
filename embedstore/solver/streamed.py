"""The rows of `rows`, read from the disk anew for each pass, for vectors memory does not hold."""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.blocks import Blocks
from embedstore.solver.rows import BLOCK_ROWS, Rows
from embedstore.solver.threads import Crew

CENTRE_ROWS = 8192
"""So many rows the centre is taken from; any shift would do."""


class StreamedRows(Rows):
    """Rows in the order they have on the disk: every fold looks at each, at weight 0 perhaps.

    Memory holds the weights, (F, n), and a block of vectors for each thread.
    """

    def __init__(
        self,
        vectors: Blocks,
        codes: NDArray[np.intp],
        weights: NDArray[np.float32],
        offset: NDArray[np.float64] | None,
        device: str,
        crew: Crew,
    ) -> None:
        self.crew = crew
        used = np.flatnonzero(weights.any(axis=0))
        if len(used) < len(codes):
            vectors, codes, weights = vectors.take(used), codes[used], weights[:, used]
            offset = None if offset is None else offset[used]
        self._vectors = vectors
        self._memory = threading.local()
        kept = torch.as_tensor(weights).to(device, torch.float32)
        self._take_rest(codes, kept, [0, len(codes)], vectors.shape)
        if offset is not None:
            against = (offset[:, : self.m] - offset[:, self.m :]).astype(np.float32)
            self.offset = torch.as_tensor(np.ascontiguousarray(against.T)).to(device)
        self._shift = torch.zeros(self.d)
        self.centre = self._centred()

    def some(self, rows: Tensor) -> Tensor:
        """(s, d): those rows, centred."""
        taken = torch.from_numpy(self._vectors[rows.cpu().numpy()])
        return (taken - self._shift).to(self.device)

    def _centred(self) -> Tensor:
        self._shift = self.some(self.sample(CENTRE_ROWS)).mean(dim=0).cpu()
        return self._shift.double().to(self.device)

    def _read(self, start: int, stop: int) -> Tensor:
        """Read rows into this thread's own memory."""
        if not hasattr(self._memory, "block"):
            size = min(self.n, BLOCK_ROWS[self.device.type])
            self._memory.block = torch.empty(size, self.d)
        block: Tensor = self._memory.block[: stop - start]
        self._vectors.fill(start, stop, block.numpy())
        block -= self._shift
        return block.to(self.device)
