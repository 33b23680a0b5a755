"""What else can be read from the vectors, whether it goes with the label, and what is left without.

A column is a shortcut where all three hold: a linear probe reads it, by patient, better than
chance; it goes with the label; and erasing it costs the label more than erasing the same column
shuffled among patients does (to erase anything from few images costs something).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.audit.findings import Evidence, Finding, Level
from embedstore.audit.trials import METRICS, Measured, Question, told
from embedstore.errors import DataError, UsageError
from embedstore.metrics.compare import p_value
from embedstore.types import Embeddings, Recipe

_NEVER = {"id", "path", "group", "exam", "split"}
_MOST = 20
_CHANCE = 0.5
_PATIENTS = 5
_RARE = 0.01
_PERMUTATIONS = 1999

_ACQUISITION = re.compile(
    "film|marker|view|laterality|side|vendor|manufacturer|maker|model|device|scanner|machine|"
    "detector|software|station|site|hospital|cent(re|er)|clinic|institution|source"
)
"""Whole words in the name of a column that no diagnosis should depend on."""


def columns_of(images: Embeddings, label: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of 2 to 20 values that may be shortcuts, or those asked for.

    Raises
    ------
    UsageError
        A column asked for is not there, is the label, or has one value or too many.
    """
    if not asked:
        return tuple(
            name
            for name, values in images.columns.items()
            if name not in {label, *_NEVER} and 2 <= _several(values) <= _MOST
        )
    for name in asked:
        if name not in images.columns or name == label:
            known = ", ".join(n for n in images.columns if n not in {label, *_NEVER})
            raise UsageError(f"--shortcut {name}: no such column to look at; there are {known}")
        if not 2 <= (several := _several(images.columns[name])) <= _MOST:
            raise UsageError(f"--shortcut {name}: it has {several} values; 2 to {_MOST} are judged")
    return tuple(dict.fromkeys(asked))


def shortcut(
    question: Question, as_it_is: Measured, name: str, asked: bool, recipe: Recipe
) -> Finding:
    """Judge one column; `as_it_is` is the score of the label for all of the images."""
    values, rows = _known(question, name)
    if _several(values) < 2:
        return Finding("fine", f"{name}: not judged, no two values have {_PATIENTS} patients each")
    some = question.images.take(rows)
    try:
        column = Question.of(some, values)
        of_label = question if rows.all() else Question.of(some, question.values[rows])
    except DataError as error:
        return Finding("fine", f"{name}: not judged: {error}")
    read = column.measured(column.tell(column.splits))
    whole = as_it_is if rows.all() else of_label.measured(of_label.tell(of_label.splits))
    left = of_label.measured(of_label.tell(of_label.splits, column.truth))
    control = of_label.measured(
        [
            run
            for split in of_label.splits  # each with a shuffle of its own
            for run in of_label.tell(
                [split], shuffled(column.truth, column.groups, seed=split.seed)
            )
        ]
    )
    change = left.less(control, "auroc")
    p = chance_of(column.truth, of_label.truth, column.groups)
    bad = asked or any(map(_ACQUISITION.fullmatch, re.split("[^a-z]+", name.lower())))
    level = _level(read.low("auroc") > _CHANCE, p < _RARE, change.high < 0, bad)
    text = (
        f"{name}: read with AUROC {read.score('auroc')}, floor {_CHANCE}; Cramér's V with the "
        f"label {cramers_v(column.truth, of_label.truth):.2f} ({p_value(p)}); without it the "
        f"label's AUROC changes by {told(change)} against leaving out a shuffled {name}"
    )
    notes = _notes(name, recipe, int((~rows).sum()))
    return Finding(level, text + notes, tuple(_lines(whole, left, control)))


def _notes(name: str, recipe: Recipe, left_out: int) -> str:
    notes = []
    if name == "laterality" and recipe.flip != "none":
        notes.append(f"{recipe.name} puts every chest wall to the {recipe.flip}")
    if left_out:
        notes.append(f"{left_out} images of unknown or rare values left out")
    return f" ({'; '.join(notes)})" if notes else ""


def _level(read: bool, goes: bool, falls: bool, bad: bool) -> Level:
    if read and goes and falls and bad:
        return "wrong"
    return "look at" if read and goes else "fine"


def _lines(whole: Measured, left: Measured, control: Measured) -> Iterable[Evidence]:
    for metric, title in METRICS.items():
        yield {
            "label's": title,
            "as it is": whole.score(metric),
            "erased": left.score(metric),
            "lost": told(whole.less(left, metric)),
            "beyond shuffled": told(control.less(left, metric)),
        }


def _several(values: NDArray[np.str_]) -> int:
    return len(set(values.tolist()) - {""})


def _known(question: Question, name: str) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Return the known values that at least five patients have, and (n,) where they are."""
    values = question.images.columns[name]
    rows = values != ""
    for value in np.unique(values):
        if len(np.unique(question.groups[values == value])) < _PATIENTS:
            rows &= values != value
    return values[rows], rows


def cramers_v(one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    """How strongly two columns of (n,) class numbers go together, 0 to 1 (Cramér 1946)."""
    from scipy.stats.contingency import association

    return float(association(_table(one, other), method="cramer"))


def chance_of(
    one: NDArray[np.intp], other: NDArray[np.intp], groups: NDArray[np.intp], seed: int = 0
) -> float:
    """Say how often two columns go together as much by chance: a permutation test by patient.

    On one image a patient, at random, because images of a patient are no independent witnesses.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    rows = order[np.unique(groups[order], return_index=True)[1]]
    one, other = one[rows], other[rows]
    expected = np.outer(np.bincount(one), np.bincount(other)) + 1e-12

    def surplus(drawn: NDArray[np.intp]) -> float:
        return float((_table(one, drawn, expected.shape) ** 2 / expected).sum())

    seen = surplus(other)
    as_much = sum(surplus(rng.permutation(other)) >= seen - 1e-9 for _ in range(_PERMUTATIONS))
    return (1 + as_much) / (1 + _PERMUTATIONS)


def shuffled(values: NDArray[np.intp], groups: NDArray[np.intp], seed: int = 0) -> NDArray[np.intp]:
    """Give each patient's images the values of another's in any order, some twice if too few."""
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    donors = rng.permutation(len(order))
    donors = donors[np.argsort(groups[donors], kind="stable")]
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    other = rng.permutation(len(sizes))[groups[order]]
    place = np.arange(len(order)) - starts[groups[order]]
    out = np.empty_like(values)
    out[order] = values[donors[starts[other] + place % sizes[other]]]
    return out


def _table(
    one: NDArray[np.intp], other: NDArray[np.intp], shape: tuple[int, ...] | None = None
) -> NDArray[np.intp]:
    counts = np.zeros(shape or (int(one.max()) + 1, int(other.max()) + 1), dtype=np.intp)
    np.add.at(counts, (one, other), 1)
    return counts
