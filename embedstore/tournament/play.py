"""The whole tournament: all variants scored, the table, and winners scored honestly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedstore.errors import UsageError
from embedstore.tournament.better import best_variant, ensemble, per_class
from embedstore.tournament.entries import Entries, Task
from embedstore.tournament.honest import Honest, Pick, honest
from embedstore.tournament.scores import (
    Scores,
    Side,
    choosing_rows,
    choosing_side,
    refuse_unranked,
    scored,
    tested_side,
)
from embedstore.tournament.table import Standing, standings, to_show

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it, with priors as they are or corrected.

    Attributes
    ----------
    tested
        All variants on all that is tested.
    table
        Those shown, the best first.
    best, ensemble, per_class
        Choosing the best variant, a greedy ensemble, and each class's wording by itself, each
        scored where it was not chosen; the latter two only where asked for.
    """

    correct: bool
    tested: Scores
    table: tuple[Standing, ...]
    best: Honest
    ensemble: Honest | None = None
    per_class: Honest | None = None


def play(
    task: Task,
    entries: Entries,
    by: str = "auroc",
    corrections: Sequence[bool] = (False, True),
    shown: int = SHOWN,
    named: Sequence[int] = (),
    baseline: int | None = None,
    search: bool = False,
    seed: int = 0,
) -> list[Result]:
    """Score all variants, once for each of `corrections`, in one pass.

    Parameters
    ----------
    by
        One of `METRICS`: what is chosen and ranked by.
    corrections
        False: probabilities as they are; True: class priors of the choosing side (`priors`).
    shown, named, baseline
        The table has so many of the best, and these variants' numbers besides.
    search
        Also look for better prompts (`better`).

    Raises
    ------
    UsageError
        There is no such metric or variant.
    """
    refuse_unranked(by)
    named = [*named, *([] if baseline is None else [baseline])]
    if unknown := [v for v in named if not 0 <= v < len(entries)]:
        raise UsageError(f"no variant {unknown[0]}; there are {len(entries)}")
    rows = choosing_rows(task)
    every = [
        [tested_side(task, correct), *(choosing_side(fit, correct) for fit in rows)]
        for correct in corrections
    ]
    areas = [True, *(by == "auroc" for _ in rows)] * len(every)
    found = scored(task, entries, [side for sides in every for side in sides], areas)
    results = []
    for i, (correct, sides) in enumerate(zip(corrections, every, strict=True)):
        own = found[i * len(sides) : (i + 1) * len(sides)]
        lines = to_show(own[0], by, shown, named)
        table = standings(task, entries, lines, sides[0], by, baseline, seed)
        chosen = _chosen(task, entries, list(zip(own[1:], sides[1:], strict=True)), by, search)
        worth = [honest(task, entries, picks, by, correct, seed) for picks in chosen]
        results.append(Result(correct, own[0], tuple(table), *worth))
    return results


def _chosen(
    task: Task, entries: Entries, made: Sequence[tuple[Scores, Side]], by: str, search: bool
) -> list[list[Pick]]:
    """Return the picks of each fold: the best variants, and what else is searched."""
    picks = [[best_variant(entries, found, by) for found, _ in made]]
    for how in (ensemble, per_class) if search else ():
        picks.append([how(task, entries, found, side, by) for found, side in made])
    return picks
