"""L-BFGS for all folds in one batch, along the Cs from the strongest penalty to the weakest."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from embedstore.solver.coordinates import Coordinates
from embedstore.solver.rows import Rows

MEMORY = 20
"""Steps that are remembered."""

TOLERANCE = {torch.float32: 1e-8, torch.float64: 1e-14}
"""What rounding leaves to be seen of the loss."""

CUTS = 12
"""How often a step may be shortened; after that rounding hides what is left to gain."""


class Point(NamedTuple):
    """A place for every fold: unknowns (F, m, d + 1), log loss (F,) and its slope there."""

    at: Tensor
    loss: Tensor
    slope: Tensor


class Path:
    """Where each fold stands: which C it is at, and what its steps taught of the curvature."""

    def __init__(
        self, rows: Rows, coordinates: Coordinates, Cs: Tensor, tol: float, max_iter: int
    ) -> None:
        """Take (C,) rising `Cs`; `tol` and `max_iter` as `solve` does."""
        self.rows, self.coordinates = rows, coordinates
        self.Cs, self.max_iter = Cs, max_iter
        self.tol = max(tol, TOLERANCE[rows.kind])
        shape = (len(rows.weights), len(Cs))
        like = coordinates.curvature
        self.at = torch.zeros(*shape, *like.shape[1:], dtype=like.dtype, device=like.device)
        self.loss = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.passes = torch.zeros(shape, dtype=torch.long, device=like.device)
        self.converged = torch.zeros(shape, dtype=torch.bool, device=like.device)
        self.stage = torch.zeros(shape[0], dtype=torch.long, device=like.device)
        self.good = self.stage > 0
        self.steps: list[tuple[Tensor, Tensor]] = []
        self._every = torch.arange(shape[0], device=like.device)

    def run(self) -> None:
        """Go the whole way; the places of all Cs are then in `at`."""
        start = self.coordinates.start()
        nothing = torch.zeros_like(start[:, 0, 0])
        every = torch.ones_like(nothing, dtype=torch.bool)
        point = self._evaluate(Point(start, nothing, start), start, every)
        stuck = ~every
        while True:
            step = self._direction(point)
            if self._arrived(point, step, stuck).any():
                # by the curvature here and now; that of the start is far off where all is sure
                self.coordinates.look(point.at)
                while (done := self._arrived(point, step, stuck)).any():
                    self._next(point, done)
                    step, stuck = self._direction(point), torch.zeros_like(stuck)
                if not (self.stage < len(self.Cs)).any():
                    return
            new, stuck = self._search(point, step)
            self._remember(point, new)
            point = new

    def _penalty(self) -> Tensor:
        """(F, 1, d + 1): 1/C for weights, 0 for intercepts, by the C each fold is at."""
        strength = 1 / self.Cs[self.stage.clamp(max=len(self.Cs) - 1)]
        penalty = strength[:, None, None].repeat(1, 1, self.at.shape[3])
        penalty[:, :, -1] = 0
        return penalty

    def _evaluate(self, old: Point, at: Tensor, asked: Tensor) -> Point:
        """Move the folds that are asked for."""
        loss, *slopes = self.rows.loss(*self.coordinates.weights(at), asked)
        wide = asked[:, None, None]
        return Point(
            torch.where(wide, at, old.at),
            torch.where(asked, loss, old.loss),
            torch.where(wide, self.coordinates.slope(*slopes), old.slope),
        )

    def _objective(self, point: Point) -> Tensor:
        return point.loss + (self._penalty() * point.at**2).sum(dim=(1, 2)) / 2

    def _arrived(self, point: Point, step: Tensor, stuck: Tensor) -> Tensor:
        """(F,): which folds are done with the C they are at."""
        penalty = self._penalty()
        slope = point.slope + penalty * point.at
        by_diagonal = (slope**2 / (self.coordinates.curvature + penalty)).sum(dim=(1, 2)) / 2
        by_memory = -(slope * step).sum(dim=(1, 2)) / 2
        self.good = torch.maximum(by_diagonal, by_memory) <= self.tol * self._objective(point)
        on_way = self.stage < len(self.Cs)
        stage = self.stage.clamp(max=len(self.Cs) - 1)
        spent = self.passes[self._every, stage] >= self.max_iter
        return on_way & (self.good | stuck | spent)

    def _next(self, point: Point, done: Tensor) -> None:
        """Note where some folds are, and send them to the next C."""
        folds = self._every[done]
        here = (folds, self.stage[folds])
        self.at[here], self.loss[here] = point.at[folds], self._objective(point)[folds]
        self.converged[here] = self.good[folds]
        self.stage[folds] += 1

    def _direction(self, point: Point) -> Tensor:
        """L-BFGS's two loops, started from the known diagonal."""
        penalty = self._penalty()
        flat = (len(self.stage), -1)
        diagonal = (self.coordinates.curvature + penalty).view(flat)
        kind = self.rows.kind
        q = (point.slope + penalty * point.at).view(flat).to(kind)
        diagonal, penalty = diagonal.to(kind), penalty.to(kind)
        if self.steps:
            steps = torch.stack([step for step, _ in self.steps])
            changes = torch.stack([change for _, change in self.steps]) + penalty * steps
            steps, changes = (part.view(len(self.steps), *flat) for part in (steps, changes))
            rhos = _inverse(torch.linalg.vecdot(steps, changes))[:, :, None]
            q = _two_loops(q, diagonal, steps, changes, rhos)
        else:
            q = q / diagonal
        return -q.double().view_as(point.at) * (self.stage < len(self.Cs))[:, None, None]

    def _search(self, point: Point, step: Tensor) -> tuple[Point, Tensor]:
        """Shorten steps until the objective falls; return the point, and which folds got nowhere.

        Rounding may hide a fall of a tenth of `tol`.
        """
        before = self._objective(point)
        falls = ((point.slope + self._penalty() * point.at) * step).sum(dim=(1, 2))
        length = torch.ones_like(before)
        new, bad = point, self.stage < len(self.Cs)
        for _ in range(CUTS):
            new = self._evaluate(new, point.at + length[:, None, None] * step, bad)
            self.passes[self._every[bad], self.stage[bad]] += 1
            after = self._objective(new)
            bad = bad & ~(after <= before + 1e-4 * length * falls + 0.1 * self.tol * before)
            if not bad.any():
                return new, bad
            # the lowest point of the parabola through what is known, within limits
            rise = after - before - length * falls
            lowest = -falls * length / (2 * rise)
            factor = torch.nan_to_num(lowest, nan=0.1).clamp(0.1, 0.5)
            length = torch.where(bad, length * factor, length)
        wide = bad[:, None, None]
        return Point(
            torch.where(wide, point.at, new.at),
            torch.where(bad, point.loss, new.loss),
            torch.where(wide, point.slope, new.slope),
        ), bad

    def _remember(self, old: Point, new: Point) -> None:
        kind = self.rows.kind
        self.steps.append(((new.at - old.at).to(kind), (new.slope - old.slope).to(kind)))
        del self.steps[:-MEMORY]


def _two_loops(q: Tensor, diagonal: Tensor, steps: Tensor, changes: Tensor, rhos: Tensor) -> Tensor:
    """Inverse Hessian times `q`, (F, l), by steps and changes (M, F, l); latest last."""
    back = []
    for step, change, rho in zip(steps.flip(0), changes.flip(0), rhos.flip(0), strict=True):
        back.append(rho * torch.linalg.vecdot(step, q)[:, None])
        q = torch.addcmul(q, back[-1], change, value=-1)
    last = changes[-1]
    size = _inverse(rhos[-1] * torch.linalg.vecdot(last / diagonal, last)[:, None])
    q = q / diagonal * torch.where(size > 0, size, 1.0)
    for step, change, rho, found in zip(steps, changes, rhos, reversed(back), strict=True):
        q = torch.addcmul(q, found - rho * torch.linalg.vecdot(change, q)[:, None], step)
    return q


def _inverse(values: Tensor) -> Tensor:
    """1 / values; 0 where they are not above 0, so that what rounding spoilt is passed over."""
    return torch.where(values > 0, 1 / values.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
