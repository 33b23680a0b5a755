"""All variants compared: ranked, chosen honestly, and what their words do."""

from __future__ import annotations

from dataclasses import dataclass

from embedstore.prompt_bench.contest import Contest
from embedstore.tournament import Effect, Result, effects, play
from embedstore.tournament.play import SHOWN


@dataclass(frozen=True, slots=True)
class Bench:
    """What came of a contest.

    Attributes
    ----------
    by
        The metric that variants are ranked and chosen by.
    baseline
        The variant others are compared with.
    results
        For each fold seed, with priors as they are and corrected; tables are of the first.
    effects
        Of wording, priors as they are.
    """

    contest: Contest
    by: str
    baseline: int
    results: tuple[tuple[Result, Result], ...]
    effects: tuple[Effect, ...]


def bench(
    contest: Contest, by: str = "auroc", shown: int = SHOWN, baseline: str = "", search: bool = True
) -> Bench:
    """Compare all variants.

    Parameters
    ----------
    shown
        Lines of the table, whose p values are corrected for so many.
    baseline
        A variant's name; by default the first of the first set.
    search
        Also look for an ensemble and for a wording of each class that do better.

    Raises
    ------
    UsageError
        There is no such metric or variant.
    """
    named, seed = contest.find(baseline) if baseline else 0, contest.asked.how.seed
    results = []
    for n, task in enumerate(contest.tasks):
        lines = (shown, named) if n == 0 else (1, None)
        plain, corrected = play(
            task, contest.entries, by, shown=lines[0], baseline=lines[1], search=search, seed=seed
        )
        results.append((plain, corrected))
    tested = results[0][0].tested
    moved = effects(contest.parts, tested.metric(by), tested.answers())
    return Bench(contest, by, named, tuple(results), tuple(moved))
