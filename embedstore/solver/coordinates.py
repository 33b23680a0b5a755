"""Unknowns in which the curvature at the start is diagonal."""

from __future__ import annotations

import torch
from torch import Tensor

from embedstore.solver.rows import BLOCK_LOGITS, Rows

GRAM_ROWS = 16
"""Rows for each column that the Gram matrix is taken from; it only has to be near."""


SAMPLE_ROWS = 2048
"""Rows that curvature is looked at in; it only has to be near."""

COUNTED_ROWS = 2**20

LEAST = 1e-9
"""Of the curvature at the start: no direction is ever taken for flatter."""


class Coordinates:
    """Weights of the classes but the last, against it, and their intercepts, as (F, m, d + 1).

    Attributes
    ----------
    curvature
        (F, m, d + 1): the diagonal of the Hessian of the log loss. At the start, where every row
        has the class shares for probabilities, that is all of it.
    """

    def __init__(self, rows: Rows, scale: Tensor, spectrum: Tensor | None) -> None:
        """Take the Gram matrix apart, unless the rows come with `spectrum` (d,), its diagonal."""
        self.scale = scale
        self.vectors = None
        if spectrum is None:
            middle = scale.mean(dim=0)
            spectrum, self.vectors = torch.linalg.eigh(rows.gram(middle, GRAM_ROWS * len(middle)))
            noise = torch.finfo(rows.kind).eps * len(middle) ** 0.5
            spectrum = spectrum.clamp(min=float(spectrum[-1]) * noise)
        self.shares = _shares(rows)
        self.mix, spread = _class_axes(self.shares)
        size = rows.totals / rows.totals.mean()
        by_weight = spread[:, :, None] * spectrum * size[:, None, None]
        by_intercept = (spread * rows.totals[:, None])[:, :, None]
        self.curvature = torch.cat([by_weight, by_intercept], dim=2)
        self._least = self.curvature * LEAST
        fewer = max(64, BLOCK_LOGITS // (len(scale) * rows.m))
        self._rows, self._sample = rows, rows.sample(min(SAMPLE_ROWS, fewer))
        turned = rows.some(self._sample) / scale.mean(dim=0).to(rows.kind)
        if self.vectors is not None:
            turned = turned @ self.vectors.to(rows.kind)
        self._squares = turned**2

    def start(self) -> Tensor:
        """No weights, and intercepts that give every row the class shares."""
        at = torch.zeros_like(self.curvature)
        odds = torch.log(self.shares[:, :-1] / self.shares[:, -1:])
        at[:, :, -1] = torch.linalg.solve(self.mix, odds)
        return at

    def look(self, at: Tensor) -> None:
        """Bring `curvature` up to date, from a sample: rows surely right have none left."""
        spread = self._rows.spread(*self.weights(at), self.mix, self._sample)
        by_weight = spread @ self._squares
        now = torch.cat([by_weight, spread.sum(dim=2, keepdim=True)], dim=2)
        seen = spread.sum(dim=(1, 2))[:, None, None] > 0  # of a small fold there may be no row
        self.curvature = torch.where(seen, torch.maximum(now.double(), self._least), self.curvature)

    def weights(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (F, m, d) for the columns as they are, and intercepts (F, m)."""
        mixed = self.mix @ at
        turned = mixed[:, :, :-1]
        if self.vectors is not None:
            turned = turned @ self.vectors.T
        return turned / self.scale[:, None], mixed[:, :, -1]

    def slope(self, by_weight: Tensor, by_intercept: Tensor) -> Tensor:
        """Carry a slope by weights and intercepts over to these unknowns."""
        turned = by_weight / self.scale[:, None]
        if self.vectors is not None:
            turned = turned @ self.vectors
        return self.mix.mT @ torch.cat([turned, by_intercept[:, :, None]], dim=2)


def _shares(rows: Rows) -> Tensor:
    """(F, k): each class's share of a fold's weight."""
    counts = torch.zeros(len(rows.weights), rows.m + 1, dtype=torch.float64, device=rows.device)
    for a in range(0, rows.n, COUNTED_ROWS):
        some = slice(a, a + COUNTED_ROWS)
        counts.index_add_(1, rows.codes[some], rows.weights[:, some].double())
    return counts / rows.totals[:, None]


def _class_axes(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Axes of class space in which the penalty is the identity and the covariance diagonal.

    The penalty on k classes whose weights sum to zero is, on the first k-1 taken against the last,
    ``I - 1/k``; scikit-learn penalises the one vector of two classes by itself.

    Returns
    -------
    tuple
        Axes (F, m, m) as columns, and the covariance along them (F, m).
    """
    m = shares.shape[1] - 1
    first = shares[:, :-1]
    covariance = torch.diag_embed(first) - first[:, :, None] * first[:, None]
    penalty = torch.eye(m, dtype=shares.dtype, device=shares.device)
    if m > 1:
        penalty -= 1 / (m + 1)
    half = torch.linalg.inv(torch.linalg.cholesky(penalty))
    spread, axes = torch.linalg.eigh(half @ covariance @ half.T)
    return half.T @ axes, spread.clamp(min=1e-12)
