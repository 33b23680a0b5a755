"""The ranked table: intervals, differences and floors of the variants that are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.metrics import (
    RESAMPLES,
    Draws,
    bca,
    floors,
    highest,
    jackknife,
    low_is_good,
    measured,
    patient_draws,
    percentile,
)
from embedstore.metrics.compare import Difference, difference, holm
from embedstore.results import Score
from embedstore.tournament.collapse import Leaning, leaning
from embedstore.tournament.entries import Entries, Task
from embedstore.tournament.scores import Scores, Side, probabilities, refuse_unranked

Doubles = NDArray[np.float64]
Drawn = tuple[Doubles, Doubles]


@dataclass(frozen=True, slots=True)
class Against:
    """Value less that of another variant; `p` is corrected for all that were shown (Holm)."""

    variant: int
    difference: Difference
    p: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of the table.

    Attributes
    ----------
    metrics
        All of `metrics.measured`, with patient-clustered intervals and floors.
    answers
        (k,) shares of the answers by class.
    best, baseline
        Against the first of the table, which was chosen by these very scores, so that it is
        flattered; and against the baseline. None for itself.
    won
        In how many of the resamples it was the best of those shown.
    """

    variant: int
    metrics: Mapping[str, Score]
    answers: tuple[float, ...]
    leaning: Leaning
    best: Against | None
    baseline: Against | None
    won: float


def to_show(scores: Scores, by: str, top: int, named: Sequence[int] = ()) -> list[int]:
    """Return the numbers of the `top` variants and those named besides, the best first."""
    order = scores.order(by).tolist()
    wanted = {*order[:top], *named}
    return [v for v in order if v in wanted]


def standings(
    task: Task,
    entries: Entries,
    shown: Sequence[int],
    side: Side,
    by: str,
    baseline: int | None = None,
    seed: int = 0,
) -> list[Standing]:
    """Measure the variants that are shown, (the best first), on the same drawn patients.

    Every variant more costs some seconds with 20,000 images: of thousands a table shows ten or
    twenty, and it is those that p values are corrected for.
    """
    refuse_unranked(by)
    truth, groups = task.truth[side.rows], task.groups[side.rows]
    draws, left_out = patient_draws(groups, RESAMPLES, seed), jackknife(groups)
    lows = floors(truth, task.classes)
    found: dict[int, Drawn] = {}
    lines: dict[int, tuple[Mapping[str, Score], Doubles]] = {}
    for variant in shown:
        p = probabilities(task, entries, variant, side)
        metrics, found[variant] = interval_scores(truth, p, draws, left_out, task.classes, lows, by)
        counts = np.zeros((len(task.classes),) * 2)
        np.add.at(counts, (truth, p.argmax(axis=1)), 1)
        lines[variant] = metrics, counts
    to_best = _against(found, shown[0])
    to_baseline = {} if baseline is None else _against(found, baseline)
    won = _won(found, by)
    return [
        Standing(
            variant,
            metrics,
            tuple((counts.sum(axis=0) / counts.sum()).tolist()),
            leaning(counts),
            to_best.get(variant),
            to_baseline.get(variant),
            won[variant],
        )
        for variant, (metrics, counts) in lines.items()
    ]


def interval_scores(
    truth: NDArray[np.intp],
    p: Doubles,
    draws: Draws,
    left_out: Draws,
    classes: Sequence[str],
    lows: Mapping[str, Mapping[str, float]],
    keep: str,
) -> tuple[dict[str, Score], Drawn]:
    """Score (n, k) probabilities; also the values of one metric by draw, for differences."""
    values, without = (measured(truth, p, by, classes) for by in (draws, left_out))
    scores = {}
    for name, drawn in values.items():
        low, high = percentile(drawn)
        floor = highest(name, lows[name])
        both = bca(drawn, without[name])
        scores[name] = Score(float(drawn[0]), low, high, floor, both, lows[name])
    return scores, (values[keep], without[keep])


def _against(found: Mapping[int, Drawn], other: int) -> dict[int, Against]:
    apart = {
        variant: difference(values, found[other][0], without, found[other][1])
        for variant, (values, without) in found.items()
        if variant != other
    }
    corrected = holm([one.p for one in apart.values()]).tolist()
    return {
        variant: Against(other, one, p)
        for (variant, one), p in zip(apart.items(), corrected, strict=True)
    }


def _won(found: Mapping[int, Drawn], by: str) -> dict[int, float]:
    """Share of the resamples each variant was best in, the first of equals."""
    drawn = np.stack([values[1:] for values, _ in found.values()])
    signed = np.where(np.isnan(drawn), np.inf, drawn if low_is_good(by) else -drawn)
    wins = np.bincount(signed.argmin(axis=0), minlength=len(drawn)) / drawn.shape[1]
    return dict(zip(found, wins.tolist(), strict=True))
