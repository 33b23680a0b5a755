"""Cosines in bfloat16, in which some processors multiply three times as fast, with proof of margin.

bfloat16 keeps 8 binary digits, so rounding changes a number by at most u = 2^-8 of itself. For unit
vectors a and b, rounded to a' and b', Cauchy and Schwarz give |a.b - a'.b'| <= |a - a'| |b| +
|a'| |b - b'| <= 2u + u^2. The product is summed in float32 and then rounded once more, by u of
itself (Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1). What is below a limit by
more than all of these together cannot be above it; all else is compared in float32.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.types import Floats

U = 2.0**-8
MARGIN = 2 * U + U * U + 2.0**-10
"""What rounding the vectors and summing up to 8,192 products in float32 may change at most."""

QUERIES = 16  # fewer are answered as fast as memory is read
WORTH = 2**32  # products, from which on it is quicker
WORTH_LOADING = 2**36  # the same where torch must be imported first

Rows = NDArray[np.intp]


def suits(queries: int, rows: int, dim: int) -> bool:
    """Tell whether so many products are quicker this way on this processor."""
    work = queries * rows * dim
    if queries < QUERIES or work < WORTH or (work < WORTH_LOADING and "torch" not in sys.modules):
        return False
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported())


class Rough:
    """Queries, (m, d) float32 unit vectors, to be compared with blocks of up to `rows` vectors."""

    def __init__(self, queries: Floats, rows: int) -> None:
        import torch

        self.torch: Any = torch
        self.queries = torch.from_numpy(queries).bfloat16().T
        m, d = queries.shape
        # kept: new memory of this size costs more than what is done in it
        self._unit = torch.empty(rows, d)
        self._half = torch.empty(rows, d, dtype=torch.bfloat16)
        self._found = torch.empty(rows, m, dtype=torch.bfloat16)
        self._hit = torch.empty(rows, m, dtype=torch.bool)

    def above(
        self, block: Floats, inverse: Floats | None, least: Floats
    ) -> tuple[Rows, Rows, Floats]:
        """Line and query of all cosines that may be above (m,) `least`, and of some others.

        Parameters
        ----------
        block, inverse
            (b, d), and (b,) what makes each row a unit vector; None where it is one.

        Returns
        -------
        tuple
            (c,) lines, (c,) queries, and (b, d) unit vectors that are good until the next call.
        """
        torch, b = self.torch, len(block)
        limit = least - MARGIN
        limit -= 3 * U * np.abs(limit, where=np.isfinite(limit), out=np.zeros_like(limit))
        unit = torch.from_numpy(block)
        if inverse is not None:
            unit = torch.mul(unit, torch.from_numpy(inverse)[:, None], out=self._unit[:b])
        half = self._half[:b].copy_(unit)
        found = torch.mm(half, self.queries, out=self._found[:b])
        hit = torch.ge(found, torch.from_numpy(limit).bfloat16(), out=self._hit[:b])
        line, query = np.divmod(np.flatnonzero(hit.numpy()), hit.shape[1])
        return line, query, unit.numpy()
