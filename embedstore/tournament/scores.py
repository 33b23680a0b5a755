"""Every variant scored: one pass over blocks of variants, a block's cosines by one product.

Within a block a few variants are worked on at a time, so that what is not a product stays in the
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
from embedstore.tournament.priors import LOWEST, Priors
from embedstore.types import TRAIN, Floats

_BLOCK = 16 << 20  # bytes of a block's logits
_PIECE = 3 << 19  # of those worked on at a time: with less, threads wait for the interpreter
Rows = NDArray[np.intp]
Real = TypeVar("Real", np.float32, np.float64)

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
    priors = Priors(task.truth, k)
    work = [_Side(task, side, area, priors) for side, area in zip(sides, wanted, strict=True)]
    step, few = (max(1, size // (4 * n * k)) for size in (_BLOCK, _PIECE))
    blocks = [slice(start, min(start + step, v)) for start in range(0, v, step)]
    images = torch.from_numpy(task.images).T

    def score(some: Sequence[slice]) -> None:
        room = torch.empty((step * (k - 1), n))  # once: freed and taken anew, memory fragments
        for block in some:
            margins, place = _margins(entries, block, images, room)
            for start in range(0, len(place), few):
                own = margins[place[start : start + few]]
                likelihood = _likelihood(own, task.temperature, np.float32)
                weights = priors.weights(likelihood).astype(np.float32)
                at = slice(block.start + start, block.start + start + len(own))
                for side, out in zip(work, found, strict=True):
                    out.counts[at], out.auroc[at] = side.score(likelihood, weights)

    with crew(len(blocks)) as team:
        team.each(score, team.shares(blocks))
    return found


def _margins(
    entries: Entries, block: slice, images: torch.Tensor, room: torch.Tensor
) -> tuple[Floats, NDArray[np.intp]]:
    """Cosines less the last class's, (u, n) in `room`, and which each class has, (b, k - 1).

    All that a softmax sees; one product fewer, and the difference of two vectors loses fewer digits
    than that of two cosines. Classes worded alike share theirs.
    """
    sets = entries.sets[block].astype(np.intp)
    codes = sets[:, :-1] * len(entries.starts) + sets[:, -1:]
    distinct, place = np.unique(codes, return_inverse=True)
    pairs = np.stack(np.divmod(distinct, len(entries.starts)))
    used, which = np.unique(pairs, return_inverse=True)
    one, other = entries.vectors(used)[which.reshape(pairs.shape)]
    apart = torch.from_numpy(one - other)
    margins: Floats = torch.mm(apart, images, out=room[: len(apart)]).numpy()
    return margins, place.reshape(codes.shape)


def _likelihood(margins: NDArray[Any], temperature: float, kind: type[Real]) -> NDArray[Real]:
    """(v, k - 1, n) to (v, k, n) exp(logit less the image's largest)."""
    v, others, n = margins.shape
    logits = np.zeros((v, others + 1, n), dtype=kind)
    np.divide(margins, temperature, out=logits[:, :-1], casting="same_kind")
    logits -= logits.max(axis=1, keepdims=True)
    np.maximum(logits, LOWEST, out=logits)
    return np.exp(logits, out=logits)


class _Side:
    """A side made ready: truth in its order, and what its areas' positives are."""

    def __init__(self, task: Task, side: Side, area: bool, priors: Priors) -> None:
        self.rows = side.rows
        self.fit = np.array([priors.number(fit) for fit in side.fits], dtype=np.intp)[side.part]
        self.all = len(side.rows) == len(task.images) and bool((np.diff(side.rows) > 0).all())
        self.k = len(task.classes)
        truth = task.truth[side.rows]
        self.row = (truth * self.k).astype(np.intp)
        kinds = [1] if self.k == 2 else list(range(self.k))
        self.kinds = kinds if area else []
        self.positive = truth == np.array(kinds)[:, None]

    def score(
        self, likelihood: Floats, weights: Floats
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """(v, k, n) and class weights (v, k, f) to counts (v, k, k) and areas (v,)."""
        own = likelihood if self.all else likelihood.take(self.rows, axis=2)
        if len(self.fit):
            own = own * weights.take(self.fit, axis=2)
        v, cells = len(own), self.k**2
        place = self.row + _answers(own) + cells * np.arange(v)[:, None]
        counts = np.bincount(place.ravel(), minlength=v * cells).reshape(v, self.k, self.k)
        if not self.kinds:
            return counts, np.full(v, np.nan)
        return counts, mean_known(areas(_odds(own, self.kinds), self.positive))


def _answers(likelihood: Floats) -> NDArray[np.unsignedinteger[Any]]:
    """(v, n) the most likely of (v, k, n), the first of equals."""
    best = likelihood[:, 0].copy()
    small = np.min_scalar_type(likelihood.shape[1]).type
    answer = np.zeros(best.shape, dtype=small)
    for c in range(1, likelihood.shape[1]):
        # c is above every answer so far; quicker than writing where it is better
        np.maximum(answer, (likelihood[:, c] > best) * small(c), out=answer)
        np.maximum(best, likelihood[:, c], out=best)
    return answer


def _odds(likelihood: Floats, kinds: Sequence[int]) -> Floats:
    """(v, r, n) of a class against the others, which are summed without it: no digits are lost."""
    v, k, n = likelihood.shape
    odds = np.empty((v, len(kinds), n), dtype=np.float32)
    for i, c in enumerate(kinds):
        others = [likelihood[:, j] for j in range(k) if j != c]
        odds[:, i] = others[0]
        for other in others[1:]:
            odds[:, i] += other
    np.maximum(odds, np.finfo(np.float32).tiny, out=odds)
    own = likelihood if len(kinds) == k else likelihood[:, kinds]
    return np.divide(own, odds, out=odds)


def probabilities(task: Task, entries: Entries, variant: int, side: Side) -> NDArray[np.float64]:
    """(m, k) of one variant for the rows of a side, as `scored` has them, in float64."""
    images = torch.from_numpy(task.images).T
    room = torch.empty((len(task.classes) - 1, len(task.images)))
    margins, place = _margins(entries, slice(variant, variant + 1), images, room)
    likelihood = _likelihood(margins[place], task.temperature, np.float64)
    own = likelihood[0][:, side.rows]
    if side.fits:
        priors = Priors(task.truth, len(own))
        numbers = np.array([priors.number(fit) for fit in side.fits])
        own *= priors.weights(likelihood)[0][:, numbers[side.part]]
    p: NDArray[np.float64] = (own / own.sum(axis=0)).T
    return p
