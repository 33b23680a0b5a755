"""One wording out of a contest, to go on with as a zero-shot head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedstore.prompt_bench.contest import Contest
from embedstore.tournament import (
    Pick,
    Scores,
    Side,
    best_variant,
    choosing_rows,
    ensemble,
    honest,
    per_class,
    scored,
)
from embedstore.tournament.scores import refuse_unranked
from embedstore.types import TRAIN, Floats, unit_rows

HOW = ("best", "ensemble", "per-class")
_CALLED = {
    "best": "the best variant",
    "ensemble": "a greedy ensemble",
    "per-class": "class by class",
}


@dataclass(frozen=True, slots=True)
class Picked:
    """A wording.

    Attributes
    ----------
    sentences
        Class to its sentences, a repeated one counting twice.
    vectors
        Class to its (d,) unit vector: the unit mean of its sentences' unit vectors.
    logit_scale
        What cosines are multiplied by.
    note
        How it was chosen, and what that means for scores on the same images.
    """

    name: str
    sentences: dict[str, list[str]]
    vectors: dict[str, Floats]
    logit_scale: float
    note: str


def choose(contest: Contest, how: str = "best", variant: str = "", by: str = "auroc") -> Picked:
    """Choose a wording, or take the `variant` that is named.

    Of a holdout it is chosen on the training side; with folds on all images, which the note says.

    Parameters
    ----------
    how
        One of `HOW`.

    Raises
    ------
    UsageError
        There is no such metric or variant.
    """
    if variant:
        number = contest.find(variant)
        name = contest.names[number]
        return _picked(contest, name, contest.entries.wording(number), "")
    refuse_unranked(by)
    task, rows = contest.tasks[0], choosing_rows(contest.tasks[0])
    alone = len(rows) == 1
    every = rows if alone else [(task.fold >= TRAIN).nonzero()[0], *rows]
    sides = [Side(of_fold) for of_fold in every]
    found = scored(task, contest.entries, sides, auroc=by == "auroc")
    pick, *others = [
        _pick(contest, how, scores, side, by) for scores, side in zip(found, sides, strict=True)
    ]
    name = _CALLED[how] if pick.variant is None else contest.names[pick.variant]
    where = f"{len(every[0])} {'training' if alone else 'labelled'} images"
    said = f"{name!r} was chosen out of {len(contest.names)} variants by {by} on {where}"
    if not alone:
        worth = honest(task, contest.entries, others, by, False, contest.asked.how.seed)
        score = worth.metrics[by]
        said += (
            f", the same that it is scored on here: {by} of {pick.chosen:.3f} flatters it; chosen "
            f"without the fold that is scored it is {score.value:.3f} ({score.low:.3f} to "
            f"{score.high:.3f})"
        )
    return _picked(contest, name, pick.wording, said)


def _pick(contest: Contest, how: str, scores: Scores, side: Side, by: str) -> Pick:
    if how == "best":
        return best_variant(contest.entries, scores, by)
    search = ensemble if how == "ensemble" else per_class
    return search(contest.tasks[0], contest.entries, scores, side, by)


def _picked(contest: Contest, name: str, wording: Sequence[Sequence[int]], note: str) -> Picked:
    entries = contest.entries
    vectors = {
        c: unit_rows(unit_rows(entries.sentences[list(own)]).mean(axis=0, keepdims=True))[0]
        for c, own in zip(contest.classes, wording, strict=True)
    }
    own = contest.sentences(tuple(tuple(of) for of in wording))
    return Picked(name, own, vectors, contest.logit_scale, note)
