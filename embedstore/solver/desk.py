"""Logits to log loss and residuals, in place: the work that is no matrix product.

Memory is taken once and worked over; taking it anew for every small result costs more than the
arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Desk:
    """Room for the logits (m, f, n) of m classes against a last one, of f folds and n rows.

    Attributes
    ----------
    z
        (m f, n), class by class: the logits, and after `settle` the residuals.
    """

    def __init__(self, m: int, folds: int, rows: int, like: Tensor) -> None:
        self.shape = (m, folds, rows)
        self._logits, self._product = (like.new_empty(m * folds * rows) for _ in range(2))
        self._four = like.new_empty(4 * folds * rows)
        self.take(rows)

    def take(self, rows: int) -> None:
        """Make ready for so many rows."""
        m, folds, _ = self.shape
        size = folds * rows
        self.z = self._logits[: m * size].view(m * folds, rows)
        self._cube = self.z.view(m, folds, rows)
        self._spare = self._product[: m * size].view(m, folds, rows)
        self._flat = self._four[: 4 * size].view(4, folds, rows)

    def settle(self, truth: Tensor, others: Tensor, weight: Tensor) -> Tensor:
        """Make the logits weighted probability less truth, and give the loss (f,).

        `truth` and `others` are (k, 1, n), 1 for each row's class and for all but it; `weight` is
        (f, n). The share of the wrong classes is summed by itself: one less the right one's
        probability would lose all its digits on rows that are surely right.
        """
        z, (top, below, right, share) = self._cube, self._flat
        _highest(z, top).clamp_(min=0)
        torch.mul(z, truth[:-1], out=self._spare)
        _total(self._spare, below).sub_(top)
        z.sub_(top).exp_().mul_(others[:-1])
        wrong = _total(z, self._spare[0]).addcmul_(top.neg_().exp_(), others[-1])
        torch.exp(below, out=right)
        torch.div(weight, torch.add(wrong, right, out=share), out=share)
        each: Tensor = right.sub_(1).add_(wrong).log1p_().sub_(below).mul_(weight)
        z.addcmul_(truth[:-1], wrong, value=-1).mul_(share)
        return each.sum(dim=1, dtype=torch.float64)


FEW = 32
"""So many slices are combined one by one; torch's own way is slower over a short first axis."""


def _highest(z: Tensor, out: Tensor) -> Tensor:
    if len(z) > FEW:
        return torch.amax(z, dim=0, out=out)
    out.copy_(z[0])
    for other in z[1:]:
        torch.maximum(out, other, out=out)
    return out


def _total(z: Tensor, out: Tensor) -> Tensor:
    if len(z) > FEW:
        return torch.sum(z, dim=0, out=out)
    out.copy_(z[0])
    for other in z[1:]:
        out += other
    return out
