"""Winners that are scored where they were not chosen.

The best of many has the best luck, too: its score on the images it was chosen by promises more than
it keeps (Cawley and Talbot 2010). For each fold the choice is made on the other folds (a holdout's
training side) and answers the fold; the answers of all folds are scored together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedstore.errors import DataError
from embedstore.metrics import (
    RESAMPLES,
    floors,
    jackknife,
    low_is_good,
    patient_draws,
)
from embedstore.results import Score
from embedstore.tournament.entries import Entries, Task, Wording
from embedstore.tournament.scores import Side, choosing_rows, probabilities
from embedstore.tournament.table import interval_scores


@dataclass(frozen=True, slots=True)
class Pick:
    """A choice: what each class is worded by, and its score on the images it was chosen by.

    `variant` is its number, or None where it was put together of several.
    """

    wording: Wording
    chosen: float
    variant: int | None = None


@dataclass(frozen=True, slots=True)
class Honest:
    """What choosing is worth.

    Attributes
    ----------
    picks
        Of each fold.
    chosen
        Mean score of the picks on the images they were chosen by.
    metrics
        Their answers for the images they were not chosen by, all folds together.
    optimism
        By how much the first looks better than the second.
    frequency
        Of the folds, how many chose each wording: the stability of the choice.
    """

    by: str
    picks: tuple[Pick, ...]
    chosen: float
    metrics: Mapping[str, Score]
    optimism: float
    frequency: Mapping[Wording, float]


def honest(
    task: Task, entries: Entries, picks: Sequence[Pick], by: str, correct: bool, seed: int = 0
) -> Honest:
    """Score the pick of each fold on that fold.

    Parameters
    ----------
    picks
        One for each fold, chosen on `choosing_rows` of it.
    correct
        Whether priors are fitted, on the same choosing rows.

    Raises
    ------
    DataError
        There are not as many picks as folds.
    """
    sides = choosing_rows(task)
    if len(picks) != len(sides):
        raise DataError(f"{len(picks)} picks for {len(sides)} folds; give one for each")
    p = np.empty((len(task.images), len(task.classes)))
    for fold, (fit, pick) in enumerate(zip(sides, picks, strict=True)):
        rows = np.flatnonzero(task.fold == fold)
        side = Side(rows, (fit,), np.zeros(len(rows), dtype=np.intp)) if correct else Side(rows)
        p[rows] = probabilities(task, Entries.of(entries.sentences, [pick.wording]), 0, side)
    rows = task.tested
    truth, groups = task.truth[rows], task.groups[rows]
    metrics, _ = interval_scores(
        truth,
        p[rows],
        patient_draws(groups, RESAMPLES, seed),
        jackknife(groups),
        task.classes,
        floors(truth, task.classes),
        by,
    )
    chosen = float(np.mean([pick.chosen for pick in picks]))
    surplus = chosen - metrics[by].value
    times = Counter(pick.wording for pick in picks)
    return Honest(
        by,
        tuple(picks),
        chosen,
        metrics,
        -surplus if low_is_good(by) else surplus,
        {wording: n / len(picks) for wording, n in times.most_common()},
    )
