"""From answers to scores: values, intervals, floors, subgroups, and differences of contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.answered import Answered
from embedstore.errors import DataError, UsageError
from embedstore.metrics import (
    RESAMPLES,
    Draws,
    bca,
    floors,
    grouped,
    highest,
    jackknife,
    measured,
    patient_draws,
    percentile,
)
from embedstore.metrics.compare import (
    Areas,
    Difference,
    Discordance,
    delong,
    difference,
    holm,
    mcnemar,
)
from embedstore.results import Score, Subgroup
from embedstore.subgroups import By

Grouping = tuple[str, ...]
"""Classes that count as positive, all others being negative."""


def scores(
    answered: Answered, classes: Sequence[str], seed: int, groupings: Sequence[Grouping] = ()
) -> dict[str, Score]:
    """Score every repeat on the same drawn patients, so that their mean keeps its true spread.

    Metrics of a grouping are named ``C+D: auroc``.
    """
    draws, left_out = _resamples(answered, seed)
    values = _measured(answered, classes, groupings, draws)
    without = _measured(answered, classes, groupings, left_out)
    lows = _floors(answered, classes, groupings)
    out = {}
    for name, of_draws in values.items():
        low, high = percentile(of_draws)
        out[name] = Score(
            float(of_draws[0]),
            low,
            high,
            highest(name, lows[name]),
            bca(of_draws, without[name]),
            lows[name],
        )
    return out


def _resamples(answered: Answered, seed: int) -> tuple[Draws, Draws]:
    groups = answered.groups[_ever(answered)]
    return patient_draws(groups, RESAMPLES, seed), jackknife(groups)


def _ever(answered: Answered) -> NDArray[np.bool_]:
    ever: NDArray[np.bool_] = np.any([fold >= 0 for fold in answered.fold], axis=0)
    return ever


def _questions(
    classes: Sequence[str], groupings: Sequence[Grouping]
) -> list[tuple[str, Callable[..., Any], tuple[str, ...]]]:
    """Return a prefix of names, how truth and probabilities are joined, and the classes then."""
    out: list[tuple[str, Callable[..., Any], tuple[str, ...]]] = [
        ("", lambda truth, p: (truth, p), tuple(classes))
    ]
    for positive in groupings:
        if unknown := [c for c in positive if c not in classes]:
            raise UsageError(f"grouping: no class {unknown[0]!r}; there are {', '.join(classes)}")
        rest = tuple(c for c in classes if c not in positive)
        if not rest or not positive:
            raise UsageError("a grouping names some of the classes, not all of them")

        def join(truth: Any, p: Any, positive: Grouping = positive) -> Any:
            return grouped(truth, p, classes, positive)

        out.append((f"{'+'.join(positive)}: ", join, ("+".join(rest), "+".join(positive))))
    return out


def _measured(
    answered: Answered, classes: Sequence[str], groupings: Sequence[Grouping], draws: Draws
) -> dict[str, NDArray[np.float64]]:
    """Average over repeats, draw by draw: name to (b,)."""
    ever = _ever(answered)
    runs = []
    for fold, probabilities in zip(answered.fold, answered.runs, strict=True):
        tested = fold >= 0
        found: dict[str, NDArray[np.float64]] = {}
        for prefix, join, names in _questions(classes, groupings):
            truth, p = join(answered.truth[tested], probabilities[tested])
            values = measured(truth, p, draws.take(tested[ever]), names)
            found |= {f"{prefix}{name}": of_draws for name, of_draws in values.items()}
        runs.append(found)
    return {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}


def _floors(
    answered: Answered, classes: Sequence[str], groupings: Sequence[Grouping]
) -> dict[str, dict[str, float]]:
    """Average the floors over repeats."""
    every: dict[str, list[Mapping[str, float]]] = {}
    for fold in answered.fold:
        truth = answered.truth[fold >= 0]
        for prefix, join, names in _questions(classes, groupings):
            joined, _ = join(truth, np.zeros((len(truth), len(classes))))
            for metric, of in floors(joined, names).items():
                every.setdefault(f"{prefix}{metric}", []).append(of)
    return {
        metric: {kind: float(np.mean([of[kind] for of in found])) for kind in found[0]}
        for metric, found in every.items()
    }


def subgroups(
    answered: Answered,
    classes: Sequence[str],
    seed: int,
    by: Sequence[By],
    groupings: Sequence[Grouping] = (),
) -> tuple[Subgroup, ...]:
    """Score the images of each value of each column alone."""
    out = []
    for one in by:
        for value, rows in one.parts(answered.columns):
            part = answered.take(rows)
            if not part.tested.any():
                continue
            tested = part.take(part.tested)
            patients = len(np.unique(tested.groups))
            found = scores(part, classes, seed, groupings)
            out.append(Subgroup(one.column, value, len(tested.ids), patients, found))
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Compared:
    """A contender against the reference: by metric, and the tests of two of them.

    `p_holm` is corrected for all contenders compared, metric by metric. `areas` are there for two
    classes; both tests are of the first fold seed.
    """

    name: str
    differences: Mapping[str, Difference]
    p_holm: Mapping[str, float]
    areas: Areas | None
    discordance: Discordance


def compare(
    contenders: Mapping[str, Answered],
    reference: str,
    classes: Sequence[str],
    seed: int,
    groupings: Sequence[Grouping] = (),
) -> list[Compared]:
    """Compare each contender with the reference on the same patients, draw by draw.

    Raises
    ------
    DataError
        They did not answer for the same images by the same split.
    """
    base = contenders[reference]
    for name, one in contenders.items():
        if not comparable(one, base):
            raise DataError(f"{name} and {reference} were not tested on the same images and folds")
    draws, left_out = _resamples(base, seed)
    values, without = (
        {n: _measured(one, classes, groupings, by) for n, one in contenders.items()}
        for by in (draws, left_out)
    )
    others = [name for name in contenders if name != reference]
    found = {
        name: {
            metric: difference(
                values[name][metric],
                values[reference][metric],
                without[name][metric],
                without[reference][metric],
            )
            for metric in values[reference]
        }
        for name in others
    }
    corrected = {
        metric: dict(zip(others, holm([found[n][metric].p for n in others]).tolist(), strict=True))
        for metric in values[reference]
    }
    return [
        Compared(
            name,
            found[name],
            {metric: corrected[metric][name] for metric in corrected},
            _areas(contenders[name], base, classes),
            _discordance(contenders[name], base),
        )
        for name in others
    ]


def comparable(one: Answered, other: Answered) -> bool:
    """Say whether two were tested on the same images by the same splits."""
    return (
        np.array_equal(one.ids, other.ids)
        and len(one.fold) == len(other.fold)
        and all(np.array_equal(a, b) for a, b in zip(one.fold, other.fold, strict=True))
    )


def _areas(one: Answered, base: Answered, classes: Sequence[str]) -> Areas | None:
    rows = base.tested
    if len(classes) != 2:
        return None
    try:
        return delong(
            base.truth[rows] == 1, one.runs[0][rows, 1], base.runs[0][rows, 1], base.groups[rows]
        )
    except DataError:
        return None  # too few patients for a variance; the bootstrap is there


def _discordance(one: Answered, base: Answered) -> Discordance:
    rows = base.tested
    right = [a.runs[0][rows].argmax(axis=1) == base.truth[rows] for a in (one, base)]
    return mcnemar(right[0], right[1], base.groups[rows])
