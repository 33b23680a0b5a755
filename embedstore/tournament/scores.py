"""Every variant scored: one pass over blocks of variants, a block's cosines by one product.

Within a block each variant is worked on by itself, so that what is not a product stays in the
processor's cache; memory depends on the number of images, hardly on that of variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.errors import UsageError
from embedstore.metrics import low_is_good
from embedstore.metrics.counts import FROM_COUNTS
from embedstore.metrics.ratio import mean_known
from embedstore.solver.threads import crew
from embedstore.tournament.areas import areas
from embedstore.tournament.entries import Entries, Task
from embedstore.tournament.priors import LOWEST, class_shares, matching_weights
from embedstore.types import TRAIN, Floats

_BLOCK = 16 << 20  # bytes of the cosines of a block
Rows = NDArray[np.intp]
Real = TypeVar("Real", Floats, NDArray[np.float64])

METRICS = ("auroc", *FROM_COUNTS)
"""What variants may be ranked by."""


@dataclass(frozen=True, slots=True)
class Side:
    """Images to score variants on, and what priors are fitted on.

    Attributes
    ----------
    rows
        (m,) row numbers.
    fits
        Row numbers of what class weights are fitted on; none: answers stay as they are.
    part
        (m,) which of the fits each row's weights are of; where there is none, (0,).
    """

    rows: Rows
    fits: tuple[Rows, ...] = ()
    part: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))


def tested_side(task: Task, correct: bool) -> Side:
    """All that is tested, each fold's priors from its own choosing side."""
    rows = task.tested
    if not correct:
        return Side(rows)
    return Side(rows, tuple(choosing_rows(task)), task.fold[rows])


def choosing_side(rows: Rows, correct: bool) -> Side:
    """Images to choose on, priors fitted on the same."""
    return Side(rows, (rows,), np.zeros(len(rows), dtype=np.intp)) if correct else Side(rows)


def choosing_rows(task: Task) -> list[Rows]:
    """Row numbers that may be chosen on for each fold: all but the fold, as `Split` has it."""
    known = task.fold >= TRAIN
    return [np.flatnonzero(known & (task.fold != k)) for k in range(int(task.fold.max()) + 1)]


@dataclass(frozen=True, slots=True)
class Scores:
    """What came of v variants on one side.

    Attributes
    ----------
    counts
        (v, k, k) images by true class (rows) and answer.
    auroc
        (v,) as `metrics.measured` has it: of two classes for the second, else the mean over each
        against the rest; NaN where it was not asked for.
    """

    counts: NDArray[np.int32]
    auroc: NDArray[np.float64]

    def metric(self, name: str) -> NDArray[np.float64]:
        """(v,) values.

        Raises
        ------
        UsageError
            Variants are not ranked by it.
        """
        refuse_unranked(name)
        if name == "auroc":
            return self.auroc
        return FROM_COUNTS[name](self.counts.astype(np.float64))

    def answers(self) -> NDArray[np.float64]:
        """(v, k) share of the answers each class got."""
        shares: NDArray[np.float64] = (
            self.counts.sum(axis=1) / self.counts.sum(axis=(1, 2))[:, None]
        )
        return shares

    def order(self, name: str) -> NDArray[np.intp]:
        """(v,) variant numbers, the best first, the first of equals before the others."""
        values = self.metric(name)
        signed = values if low_is_good(name) else -values
        return np.argsort(np.where(np.isnan(signed), np.inf, signed), kind="stable")


def refuse_unranked(name: str) -> None:
    """Raise `UsageError` for a metric that variants cannot be ranked by."""
    if name not in METRICS:
        raise UsageError(f"prompts are ranked by {', '.join(METRICS)}, not by {name!r}")


def scored(
    task: Task, entries: Entries, sides: Sequence[Side], auroc: bool | Sequence[bool] = True
) -> list[Scores]:
    """Score all variants on each side.

    Probabilities are the softmax of cosines over the temperature, the answer is the most probable
    class, the first of equals. Areas are of the odds, which order images as probabilities do and do
    not run into each other near 1.

    Parameters
    ----------
    auroc
        Whether areas are wanted, which take most of the time; of all sides, or of each.
    """
    n, k, v = len(task.images), len(task.classes), len(entries)
    if entries.sets.shape[1] != k:
        raise UsageError(f"variants are of {entries.sets.shape[1]} classes, the task has {k}")
    if entries.sentences.shape[1] != task.images.shape[1]:
        raise UsageError(
            f"sentences have {entries.sentences.shape[1]} dimensions, images "
            f"{task.images.shape[1]}: encode both by one backbone"
        )
    wanted = [auroc] * len(sides) if isinstance(auroc, bool) else list(auroc)
    found = [Scores(np.zeros((v, k, k), np.int32), np.full(v, np.nan)) for _ in sides]
    work = [_Side(task, side, area) for side, area in zip(sides, wanted, strict=True)]
    step = max(1, _BLOCK // (4 * n * k))
    blocks = [slice(start, min(start + step, v)) for start in range(0, v, step)]
    images = torch.from_numpy(task.images).T

    def score(some: Sequence[slice]) -> None:
        room = torch.empty((step * k, n))  # taken once: freed and taken anew it falls to pieces
        for block in some:
            cosines, place = _cosines(entries, block, images, room)
            for i, variant in enumerate(range(block.start, block.stop)):
                likelihood = _likelihood(cosines[place[i]], task.temperature)
                for side, out in zip(work, found, strict=True):
                    out.counts[variant], out.auroc[variant] = side.score(likelihood)

    with crew(len(blocks)) as team:
        team.each(score, team.shares(blocks))
    return found


def _cosines(
    entries: Entries, block: slice, images: torch.Tensor, room: torch.Tensor
) -> tuple[Floats, NDArray[np.intp]]:
    """Cosines of the distinct sets of a block, (u, n), and which each class has, (b, k)."""
    sets, place = np.unique(entries.sets[block], return_inverse=True)
    vectors = torch.from_numpy(entries.vectors(sets))
    cosines: Floats = torch.mm(vectors, images, out=room[: len(sets)]).numpy()
    return cosines, place.reshape(-1, entries.sets.shape[1])


def _likelihood(cosines: Real, temperature: float) -> Real:
    """(k, n) in place to exp(logit less the image's largest)."""
    cosines -= cosines.max(axis=0)
    cosines /= temperature
    np.maximum(cosines, LOWEST, out=cosines)
    return np.exp(cosines, out=cosines)


class _Side:
    """A side made ready: truth in its order, and what its areas' positives are."""

    def __init__(self, task: Task, side: Side, area: bool) -> None:
        self.side = side
        self.all = len(side.rows) == len(task.images) and bool((np.diff(side.rows) > 0).all())
        self.k = len(task.classes)
        truth = task.truth[side.rows]
        self.row = (truth * self.k).astype(np.intp)
        kinds = [1] if self.k == 2 else list(range(self.k))
        self.kinds = kinds if area else []
        self.positive = truth == np.array(kinds)[:, None]
        self.shares = [class_shares(task.truth[fit], self.k) for fit in side.fits]

    def score(self, likelihood: Floats) -> tuple[NDArray[np.intp], float]:
        """(k, n) of one variant to its counts (k, k) and area."""
        own = likelihood if self.all else likelihood.take(self.side.rows, axis=1)
        if self.side.fits:
            weights = self._weights(likelihood)
            own = own * (weights if weights.shape[1] == 1 else weights.take(self.side.part, axis=1))
        cells = self.row + _answers(own)
        counts = np.bincount(cells, minlength=self.k**2).reshape(self.k, self.k)
        if not self.kinds:
            return counts, float("nan")
        each = areas(_odds(own, self.kinds), self.positive)
        return counts, float(mean_known(each[None])[0])

    def _weights(self, likelihood: Floats) -> Floats:
        """(k, f): what each class is multiplied by in each part."""
        fitted = [
            matching_weights(likelihood.take(fit, axis=1), shares)
            for fit, shares in zip(self.side.fits, self.shares, strict=True)
        ]
        return np.stack(fitted, axis=1).astype(np.float32)


def _answers(likelihood: Floats) -> NDArray[np.unsignedinteger[Any]]:
    """(n,) the most likely of (k, n), the first of equals."""
    best = likelihood[0].copy()
    small = np.min_scalar_type(len(likelihood)).type
    answer = np.zeros(len(best), dtype=small)
    for c in range(1, len(likelihood)):
        # c is above every answer so far; quicker than writing where it is better
        np.maximum(answer, (likelihood[c] > best) * small(c), out=answer)
        np.maximum(best, likelihood[c], out=best)
    return answer


def _odds(likelihood: Floats, kinds: Sequence[int]) -> Floats:
    """(r, n) of each class against the others, which are summed without it: no digits are lost."""
    k = len(likelihood)
    odds = np.empty((len(kinds), likelihood.shape[1]), dtype=np.float32)
    for row, c in zip(odds, kinds, strict=True):
        others = [likelihood[j] for j in range(k) if j != c]
        row[:] = others[0]
        for other in others[1:]:
            row += other
        np.maximum(row, np.finfo(np.float32).tiny, out=row)
        np.divide(likelihood[c], row, out=row)
    return odds


def probabilities(task: Task, entries: Entries, variant: int, side: Side) -> NDArray[np.float64]:
    """(m, k) of one variant for the rows of a side, as `scored` has them, in float64."""
    vectors = torch.from_numpy(entries.vectors(entries.sets[variant]))
    cosines = (vectors @ torch.from_numpy(task.images).T).numpy().astype(np.float64)
    likelihood = _likelihood(cosines, task.temperature)
    own = likelihood[:, side.rows]
    for part, fit in enumerate(side.fits):
        shares = class_shares(task.truth[fit], len(own))
        own[:, side.part == part] *= matching_weights(likelihood[:, fit], shares)[:, None]
    p: NDArray[np.float64] = (own / own.sum(axis=0)).T
    return p
