"""The vectors, laid out so that one product serves all folds: log loss and its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.solver.desk import Desk
from embedstore.solver.threads import Crew

BLOCK_ROWS = {"cpu": 4096, "cuda": 65536}
"""Rows whose logits are worked on together: many, so that small operations do not add up."""

STRIP_BYTES = {"cpu": 2**19, "cuda": 2**30}
"""Vectors of one product: on a CPU what stays in a core's cache."""

GRAM_BLOCK = 4096

BLOCK_LOGITS = 2**22
"""At most so many logits at once, for many classes and folds."""

KEPT_TRUTH = 2**24
"""Up to so many, rows times classes, the truth is kept as zeros and ones."""


class Span(NamedTuple):
    """Rows that train the same folds."""

    start: int
    stop: int
    folds: Tensor


class View(NamedTuple):
    """What a span's f folds come with: weights (f, n), and `Rows._columns`."""

    folds: Tensor
    weights: Tensor
    columns: Tensor
    shift: Tensor


class Block(NamedTuple):
    """Rows of one product, all of one span."""

    start: int
    stop: int
    span: int


class Rows:
    """Rows that train some fold, centred.

    Attributes
    ----------
    x
        (n, d), less `centre`, in the precision of the products.
    n, d, kind, device
        Its shape, precision and where it is.
    centre
        (d,) float64.
    codes, weights, offset
        (n,), (F, n) and (m, n), rows as in `x`; `offset` holds log-odds against the last class.
    """

    offset: Tensor | None

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
        self._take_rest(
            codes[order], torch.as_tensor(weights[:, order]).to(device, kind), bounds, self.x.shape
        )
        if offset is not None:
            against = offset[order, : self.m] - offset[order, self.m :]
            self.offset = torch.as_tensor(np.ascontiguousarray(against.T)).to(device, kind)
        self.centre = self._centred()

    def _take_rest(
        self, codes: NDArray[np.intp], weights: Tensor, bounds: Sequence[int], shape: Sequence[int]
    ) -> None:
        """Take what comes with the rows: classes, weights, and where each kind of rows begins."""
        (self.n, self.d), self.kind, self.device = shape, weights.dtype, weights.device
        self.codes, self.weights = torch.as_tensor(codes).to(self.device), weights
        row_bytes = self.d * weights.element_size()
        self._strip = max(32, STRIP_BYTES[self.device.type] // row_bytes)
        self.m = int(codes.max())
        self._classes = torch.arange(self.m + 1, device=self.device)[:, None]
        self.offset = None
        every = torch.arange(len(weights), device=self.device)
        trains = self.weights > 0
        self.spans = [
            Span(a, b, every[trains[:, a:b].any(dim=1)])
            for a, b in zip(bounds[:-1], bounds[1:], strict=True)
        ]
        self.span_weights = [self.weights[s.folds, s.start : s.stop] for s in self.spans]
        self._kept: tuple[Tensor, Tensor] | None = None
        if (self.m + 1) * self.n <= KEPT_TRUTH:
            self._kept = self._truth(0, self.n)
        self.totals = self.weights.sum(dim=1, dtype=torch.float64)

    def some(self, rows: Tensor) -> Tensor:
        """(s, d): those rows of `x`."""
        return self.x[rows]

    def _read(self, start: int, stop: int) -> Tensor:
        """Rows of `x`, to be done with before the same thread asks for the next."""
        return self.x[start:stop]

    def _centred(self) -> Tensor:
        """Centre `x` in place by its weighted mean; any shift would do, this one parts best."""
        share = self.weights.double().sum(dim=0)
        share /= share.sum()
        share = share.to(self.kind)

        def part(blocks: Sequence[Block]) -> Tensor:
            return _summed(share[a:b] @ self.x[a:b] for a, b, _ in blocks)

        centre = _summed(self.crew.each(part, self.blocks())).to(self.kind)

        def shift(blocks: Sequence[Block]) -> None:
            for a, b, _ in blocks:
                self.x[a:b] -= centre

        self.crew.each(shift, self.blocks())
        return centre.double()

    def blocks(self, logits_a_row: int = 1) -> list[list[Block]]:
        """Cut the rows into even parts, one for each of the crew, and these into blocks."""
        most = min(BLOCK_ROWS[self.device.type], max(1, BLOCK_LOGITS // logits_a_row))
        share = -(-self.n // self.crew.size)
        return [
            [
                Block(a, min(a + most, stop), number)
                for number, span in enumerate(self.spans)
                for stop in [min(span.stop, begin + share)]
                for a in range(max(span.start, begin), stop, most)
            ]
            for begin in range(0, self.n, share)
        ]

    def moments(self) -> tuple[Tensor, Tensor]:
        """(F, d) mean and standard deviation of each fold's rows, each row counted once."""

        def part(blocks: Sequence[Block]) -> Tensor:
            pairs = (
                ((self.weights[:, a:b] > 0).to(self.kind), self._read(a, b)) for a, b, _ in blocks
            )
            return _summed(torch.stack([t @ x, t @ x**2]) for t, x in pairs)

        sums = _summed(self.crew.each(part, self.blocks()))
        mean, square = sums / (self.weights > 0).sum(dim=1, dtype=torch.float64)[:, None]
        return mean, (square - mean**2).clamp(min=0).sqrt()

    def gram(self, scale: Tensor, most: int) -> Tensor:
        """(d, d) Gram matrix of the rows over `scale`, as the average fold weighs them.

        Of `most` rows, and scaled up where there are more.
        """
        some = self.sample(most)
        weight = self.weights[:, some].double().mean(dim=0)
        up = self.totals.mean() / weight.sum()
        root = (weight * up).sqrt().to(self.kind)
        taken, inverse = self.some(some), (1 / scale).to(self.kind)

        def part(starts: Sequence[int]) -> Tensor:
            blocks = (slice(a, a + GRAM_BLOCK) for a in starts)
            scaled = (taken[rows] * root[rows, None] * inverse for rows in blocks)
            return _summed(x.T @ x for x in scaled)

        starts = range(0, len(taken), GRAM_BLOCK)
        return _summed(self.crew.each(part, self.crew.shares(starts)))

    def loss(self, v: Tensor, b: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum up log loss and its gradient, for the folds that are `asked` for, (F,) bool.

        Parameters
        ----------
        v, b
            (F, m, d) and (F, m) float64: logits of the classes but the last, against it, are
            ``x @ v.T + b``.

        Returns
        -------
        tuple
            Loss (F,), slope by `v` (F, m, d) and by `b` (F, m), float64; 0 where not asked for.
        """
        everyone = bool(asked.all())
        views = []
        for span, weights in zip(self.spans, self.span_weights, strict=True):
            kept = slice(None) if everyone else asked[span.folds]
            folds = span.folds[kept]
            views.append(View(folds, weights[kept], *self._columns(v, b, folds)))
        parts = self.crew.each(
            lambda blocks: self._part(blocks, views, v.shape), self.blocks(v.shape[0] * v.shape[1])
        )
        loss, by_v, by_b = (_summed(each) for each in zip(*parts, strict=True))
        return loss, by_v, by_b

    def _part(
        self, blocks: Sequence[Block], views: Sequence[View], shape: torch.Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and slopes of some blocks, in the shapes of all folds."""
        loss = self.totals.new_zeros(shape[0])
        by_v, by_b = self.totals.new_zeros(shape), self.totals.new_zeros(shape[:2])
        for number, of_span in groupby(blocks, key=lambda block: block.span):
            view, cut = views[number], list(of_span)
            folds = view.folds
            if not len(folds):
                continue
            desk = Desk(self.m, len(folds), max(b.stop - b.start for b in cut), self.weights)
            first, *rest = cut
            lost, slope, residual = (t.double() for t in self._block(first, desk, view))
            for block in rest:
                more = self._block(block, desk, view)
                lost, slope, residual = lost + more[0], slope.add_(more[1]), residual + more[2]
            loss[folds] += lost
            by_v[folds] += slope.view(self.m, len(folds), -1).transpose(0, 1)
            by_b[folds] += residual.view(self.m, len(folds)).T
        return loss, by_v, by_b

    def _block(self, block: Block, desk: Desk, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (f,), slope (m f, d) and sum of the residuals (m f,) of the span's f folds."""
        start, stop, number = block
        desk.take(stop - start)
        x = torch.split(self._read(start, stop), self._strip)
        strips = torch.split(desk.z, self._strip, dim=1)
        for strip, logits in zip(x, strips, strict=True):
            torch.addmm(view.shift, view.columns, strip.T, out=logits)
        if self.offset is not None:
            desk.z.view(self.m, -1, stop - start).add_(self.offset[:, None, start:stop])
        first = self.spans[number].start
        weights = view.weights[:, start - first : stop - first]
        lost = desk.settle(*self._truth(start, stop), weights)
        slope = torch.zeros_like(view.columns)
        for strip, residual in zip(x, strips, strict=True):
            slope.addmm_(residual, strip)
        return lost, slope, desk.z.sum(dim=1)

    def sample(self, most: int) -> Tensor:
        """(s,) row numbers, drawn: rows evenly spaced may all be of one fold."""
        drawn = np.random.default_rng(0).permutation(self.n)[:most]
        return torch.as_tensor(np.sort(drawn)).to(self.device)

    def spread(self, v: Tensor, b: Tensor, axes: Tensor, sample: Tensor) -> Tensor:
        """Variance of the class along each of `axes` (F, m, m), at some rows: (F, m, s).

        Times the row's weight, and scaled up from the sample's rows to all.
        """
        every = torch.arange(len(v), device=v.device)
        columns, shift = self._columns(v, b, every)
        z = torch.addmm(shift, columns, self.some(sample).T).view(self.m, len(v), len(sample))
        if self.offset is not None:
            z += self.offset[:, None, sample]
        against_last = torch.cat([z, torch.zeros_like(z[:1])])
        p = torch.softmax(against_last, dim=0)[:-1].transpose(0, 1)
        weight = self.weights[:, sample]
        up = (self.totals / weight.sum(dim=1).clamp(min=1e-30)).to(weight.dtype)
        axes = axes.to(p.dtype)
        found = ((axes**2).mT @ p - (axes.mT @ p) ** 2).clamp(min=0)
        return found * (weight * up[:, None])[:, None]

    def _columns(self, v: Tensor, b: Tensor, folds: Tensor) -> tuple[Tensor, Tensor]:
        """Lay the folds' weights side by side, class by class: (m f, d), and (m f, 1)."""
        columns = v[folds].transpose(0, 1).reshape(-1, v.shape[2]).to(self.kind)
        return columns, b[folds].T.reshape(-1, 1).to(self.kind)

    def _truth(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """(k, 1, n): 1 for each row's class and 0 for others, and the other way round."""
        if self._kept is not None:
            truth, others = self._kept
            return truth[:, :, start:stop], others[:, :, start:stop]
        truth = (self.codes[start:stop] == self._classes).to(self.kind)[:, None]
        return truth, 1 - truth


def _summed(parts: Iterable[Tensor]) -> Tensor:
    """Sum in float64, one after the other as they come."""
    each = iter(parts)
    total = next(each).to(torch.float64, copy=True)
    for part in each:
        total += part
    return total


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
