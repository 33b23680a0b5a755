"""The vectors, laid out so that one product serves all folds: log loss and its gradient."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.solver.threads import Crew

BLOCK_ROWS = {"cpu": 1024, "cuda": 65536}
"""Rows of one product: on a CPU as many as stay in its cache."""

GRAM_BLOCK = 4096

BLOCK_LOGITS = 2**22
"""At most so many logits at once, for many classes and folds."""

SAMPLE_ROWS = 4096
"""Rows that curvature is taken from; it only has to be near."""


class Span(NamedTuple):
    """Rows that train the same folds."""

    start: int
    stop: int
    folds: Tensor


class Rows:
    """Rows that train some fold, centred.

    Attributes
    ----------
    x
        (n, d), less `centre`, in the precision of the products.
    centre
        (d,) float64.
    codes, weights, offset
        (n,), (F, n) and (n, m), rows as in `x`; `offset` holds log-odds against the last class.
    """

    def __init__(
        self,
        vectors: NDArray[np.floating],
        codes: NDArray[np.intp],
        weights: NDArray[np.float64],
        offset: NDArray[np.float64] | None,
        device: str,
        crew: Crew,
    ) -> None:
        self.crew = crew
        order, bounds = _sorted(weights > 0)
        kind = torch.float64 if vectors.dtype == np.float64 else torch.float32
        self.x = torch.as_tensor(np.ascontiguousarray(vectors[order])).to(device, kind)
        self.codes = torch.as_tensor(codes[order]).to(device)
        self.weights = torch.as_tensor(weights[:, order]).to(device, kind)
        self.m = int(codes.max())
        self._classes = torch.arange(self.m, device=device)[:, None]
        self.offset = None
        if offset is not None:
            against = offset[order, : self.m] - offset[order, self.m :]
            self.offset = torch.as_tensor(against).to(device, kind)
        every = torch.arange(len(weights), device=device)
        trains = self.weights > 0
        self.spans = [
            Span(a, b, every[trains[:, a:b].any(dim=1)])
            for a, b in zip(bounds[:-1], bounds[1:], strict=True)
        ]
        self.totals = self.weights.double().sum(dim=1)
        self.centre = self._centred()

    def _centred(self) -> Tensor:
        """Centre `x` in place by its weighted mean; any shift would do, this one parts best."""
        share = self.weights.double().sum(dim=0)
        share /= share.sum()
        share = share.to(self.x.dtype)

        def part(spans: Sequence[Span]) -> Tensor:
            return _summed(share[a:b] @ self.x[a:b] for a, b, _ in spans)

        centre = _summed(self.crew.shares(part, self.blocks())).to(self.x.dtype)

        def shift(spans: Sequence[Span]) -> None:
            for a, b, _ in spans:
                self.x[a:b] -= centre

        self.crew.shares(shift, self.blocks())
        return centre.double()

    def blocks(self, logits_a_row: int = 1) -> list[Span]:
        """Cut the spans to rows that fit the cache."""
        rows = min(BLOCK_ROWS[self.x.device.type], max(1, BLOCK_LOGITS // logits_a_row))
        return [
            Span(a, min(a + rows, stop), folds)
            for start, stop, folds in self.spans
            for a in range(start, stop, rows)
        ]

    def moments(self) -> tuple[Tensor, Tensor]:
        """(F, d) mean and standard deviation of each fold's rows, each row counted once."""
        trains = (self.weights > 0).to(self.x.dtype)

        def part(spans: Sequence[Span]) -> Tensor:
            pairs = ((trains[:, a:b], self.x[a:b]) for a, b, _ in spans)
            return _summed(torch.stack([t @ x, t @ x**2]) for t, x in pairs)

        sums = _summed(self.crew.shares(part, self.blocks()))
        mean, square = sums / trains.double().sum(dim=1)[:, None]
        return mean, (square - mean**2).clamp(min=0).sqrt()

    def gram(self, scale: Tensor, most: int) -> Tensor:
        """(d, d) Gram matrix of the rows over `scale`, as the average fold weighs them.

        Of about `most` rows, evenly taken, and scaled up where there are more.
        """
        step = max(1, len(self.x) // most)
        weight = self.weights[:, ::step].double().mean(dim=0)
        up = self.totals.mean() / weight.sum()
        root = (weight * up).sqrt().to(self.x.dtype)
        taken, inverse = self.x[::step], (1 / scale).to(self.x.dtype)

        def part(starts: Sequence[int]) -> Tensor:
            blocks = (slice(a, a + GRAM_BLOCK) for a in starts)
            scaled = (taken[rows] * root[rows, None] * inverse for rows in blocks)
            return _summed(x.T @ x for x in scaled)

        return _summed(self.crew.shares(part, range(0, len(taken), GRAM_BLOCK)))

    def loss(self, v: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum up log loss and its gradient.

        Parameters
        ----------
        v, b
            (F, m, d) and (F, m) float64: logits of the classes but the last, against it, are
            ``x @ v.T + b``.

        Returns
        -------
        tuple
            Loss (F,), slope by `v` (F, m, d) and by `b` (F, m), float64.
        """
        columns = {id(folds): self._columns(v, b, folds) for _, _, folds in self.spans}

        def part(spans: Sequence[Span]) -> tuple[Tensor, Tensor, Tensor]:
            loss = torch.zeros(len(v), dtype=torch.float64, device=v.device)
            by_v, by_b = torch.zeros_like(v), torch.zeros_like(b)
            for start, stop, folds in spans:
                beside, shift = columns[id(folds)]
                x = self.x[start:stop]
                z = (beside @ x.T).view(self.m, len(folds), stop - start) + shift
                lost, residual = self._residual(z, start, stop, folds)
                loss[folds] += lost
                by_b[folds] += residual.sum(dim=2, dtype=torch.float64).T
                slope = residual.view(len(beside), -1) @ x
                by_v[folds] += slope.view(self.m, len(folds), -1).transpose(0, 1)
            return loss, by_v, by_b

        parts = self.crew.shares(part, self.blocks(v.shape[0] * v.shape[1]))
        loss, by_v, by_b = (_summed(each) for each in zip(*parts, strict=True))
        return loss, by_v, by_b

    def sample(self, folds: int) -> Tensor:
        """(s,) row numbers, evenly taken, few enough for the logits of all `folds`."""
        most = min(SAMPLE_ROWS, max(64, BLOCK_LOGITS // (folds * self.m)))
        step = -(-len(self.x) // most)
        return torch.arange(0, len(self.x), step, device=self.x.device)

    def spread(self, v: Tensor, b: Tensor, axes: Tensor, sample: Tensor) -> Tensor:
        """Variance of the class along each of `axes` (F, m, m), at some rows: (F, m, s).

        Times the row's weight, and scaled up from the sample's rows to all.
        """
        every = torch.arange(len(v), device=v.device)
        columns, shift = self._columns(v, b, every)
        z = (columns @ self.x[sample].T).view(self.m, len(v), len(sample)) + shift
        if self.offset is not None:
            z += self.offset[sample].T[:, None]
        against_last = torch.cat([z, torch.zeros_like(z[:1])])
        p = torch.softmax(against_last, dim=0)[:-1].transpose(0, 1).double()
        weight = self.weights[:, sample].double()
        weight *= (self.totals / weight.sum(dim=1).clamp(min=1e-300))[:, None]
        return ((axes**2).mT @ p - (axes.mT @ p) ** 2).clamp(min=0) * weight[:, None]

    def _columns(self, v: Tensor, b: Tensor, folds: Tensor) -> tuple[Tensor, Tensor]:
        """Lay the folds' weights side by side, (m F, d), class by class, and (m, F, 1)."""
        columns = v[folds].transpose(0, 1).reshape(-1, v.shape[2]).to(self.x.dtype)
        return columns, b[folds].T[:, :, None].to(self.x.dtype)

    def _residual(self, z: Tensor, start: int, stop: int, folds: Tensor) -> tuple[Tensor, Tensor]:
        """From logits (m, F, n): loss (F,) and weighted probability less truth (m, F, n).

        The share of the wrong classes is summed by itself: one less the right one's probability
        would lose all its digits on rows that are surely right.
        """
        if self.offset is not None:
            z += self.offset[start:stop].T[:, None]
        codes = self.codes[start:stop]
        truth = (codes == self._classes)[:, None].to(z.dtype)
        last = (codes == self.m).to(z.dtype)
        top = _highest(z).clamp(min=0)
        at_truth = (z * truth).sum(dim=0)
        of_last = torch.exp(-top)
        z.sub_(top).exp_()
        right = (z * truth).sum(dim=0) + of_last * last
        z.mul_(1 - truth)
        wrong = z.sum(dim=0) + of_last * (1 - last)
        weight = self.weights[:, start:stop][folds]
        each = (top - at_truth) + torch.log1p(wrong + (right - 1))
        lost = (each * weight).sum(dim=1, dtype=torch.float64)
        z.sub_(truth * wrong).mul_(weight / (wrong + right))
        return lost, z


def _highest(z: Tensor) -> Tensor:
    """Maximum over dim 0; pairwise is an order faster than torch's where there are few."""
    return functools.reduce(torch.maximum, z.unbind()) if len(z) < 32 else z.amax(dim=0)


def _summed(parts: Iterable[Tensor]) -> Tensor:
    first, *rest = (part.double() for part in parts)
    for part in rest:
        first = first + part
    return first


def _sorted(trains: NDArray[np.bool_]) -> tuple[NDArray[np.intp], list[int]]:
    """Sort the rows by the folds (F, n) they train; return them and where each kind begins.

    All are of one kind where sorting would leave products too small to be worth it.
    """
    used = np.flatnonzero(trains.any(axis=0))
    if len(trains) < 63:
        names = (1 << np.arange(len(trains))) @ trains[:, used].astype(np.int64)
        kinds = np.unique(names)
        if len(used) >= 512 * len(kinds):
            order = np.argsort(names, kind="stable")
            starts: list[int] = np.searchsorted(names[order], kinds).tolist()
            return used[order], [*starts, len(used)]
    return used, [0, len(used)]
