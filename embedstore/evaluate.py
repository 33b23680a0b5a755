"""A head on stored vectors, by a leak-free split, to a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.answered import Answered
from embedstore.blocks import all_finite, floats
from embedstore.calibration import fit_temperature
from embedstore.choose import Chosen, Grid, Sides, answers, chosen
from embedstore.classes import order_of
from embedstore.distinct import distinct
from embedstore.errors import DataError, UsageError, did_you_mean
from embedstore.few import Few
from embedstore.fitted import Answers, Fitted, fit
from embedstore.leaks import leaks
from embedstore.levels import FUSIONS, LEVELS, differing_note, fused, missing_notes, units
from embedstore.levels import sides as left_right
from embedstore.metrics import Draws
from embedstore.metrics.counts import confusion
from embedstore.remarks import grid_notes, image_notes, order_notes, subgroup_notes
from embedstore.results import Report
from embedstore.results import Sides as LeftRight
from embedstore.scoring import Grouping, scores, subgroups
from embedstore.split_columns import from_column
from embedstore.split_files import SavedSplit, fingerprint_of
from embedstore.splits import check_classes, check_sides, holdout, kfold, linked
from embedstore.subgroups import By
from embedstore.types import OUTSIDE, VALIDATION, Embeddings, Floats, Split


def labelled(embeddings: Embeddings, label: str) -> tuple[Embeddings, NDArray[np.str_], int]:
    """Leave out the images whose label is unknown; also return the labels and how many left."""
    if label not in embeddings.columns:
        hint = did_you_mean(label, embeddings.columns)
        raise UsageError(f"no column {label!r}; there are {', '.join(embeddings.columns)}{hint}")
    values = embeddings.columns[label]
    known = values != ""
    if not known.any():
        raise DataError(f"label {label!r} is empty for all {len(values)} images")
    kept = embeddings if known.all() else embeddings.take(known)
    if not all_finite(kept.vectors):
        raise DataError(f"vectors of Spec {embeddings.spec.key} hold NaN or infinity")
    return kept, kept.columns[label], int((~known).sum())


_NOTHING: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a head is judged.

    Attributes
    ----------
    folds
        By patient; every image is tested once.
    test_share
        More than 0: one stratified holdout of that share instead.
    repeats, seed
        Fold seeds to average over, and the first of them.
    order
        The classes in clinical order, for quadratic kappa.
    grid
        Parameters to choose from, for each fold on its training side alone.
    few
        Learn from a part of each training side.
    texts
        For heads with ``needs_text``: class to (d,) vector of its description.
    level, fuse
        What an answer is of, one of `levels.LEVELS`, and how images become one, of
        `levels.FUSIONS`.
    by
        Columns whose values are scored alone, too.
    calibrate
        Temper the probabilities by what the answers for other patients teach.
    groupings
        Classes to join to one against all others, for metrics of two classes.
    split
        In place of folds: a split from a file, or the column that says who is where.
    allow_leak
        Go on with a split that has patients, exams or files on both sides; the report says so.
    """

    folds: int = 5
    test_share: float = 0.0
    repeats: int = 1
    seed: int = 0
    order: tuple[str, ...] = ()
    grid: Grid | None = None
    few: Few | None = None
    texts: Mapping[str, Floats] | None = None
    level: str = "image"
    fuse: str = "probabilities"
    by: tuple[By, ...] = ()
    calibrate: bool = False
    groupings: tuple[Grouping, ...] = ()
    split: SavedSplit | str | None = None
    allow_leak: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """A judged head: the report, and what it is of.

    `images` are the labelled ones, or with fused vectors what they are of; `answered` what heads
    answered of each, and `scored` of what is scored: at the level asked for, tempered where asked.
    `make` makes such a head, unfitted; None where it was no head on vectors.
    """

    report: Report
    make: Callable[..., Any] | None
    images: Embeddings
    answered: Answered
    scored: Answered


def evaluate(
    embeddings: Embeddings, label: str, make_probe: Callable[..., Any], name: str, **how: Any
) -> Report:
    """Train and test a head, and score it: the report of `judge`, `how` as in `Protocol`."""
    return judge(embeddings, label, make_probe, name, Protocol(**how)).report


def judge(
    embeddings: Embeddings, label: str, make_probe: Callable[..., Any], name: str, how: Protocol
) -> Trial:
    """Train and test a head, and score it with intervals and floors.

    With k-fold the metrics are of all answers together; with several seeds they are averaged over
    these. Vectors are standardised by the training side of each fold, unless the head's
    ``standardize`` is False.

    Parameters
    ----------
    make_probe
        Returns a fresh head with the parameters it is given: any scikit-learn classifier.

    Raises
    ------
    DataError
        The labels, patients or vectors allow no honest score; the message says why.
    """
    began = time.monotonic()
    posed = pose(embeddings, label, how)
    make = _told(make_probe, name, posed.classes, how.texts)
    found = learnt(make, how.grid, posed, how.seed)
    trial = judged(posed, found, name, parameters_of(make_probe()), how, began)
    noted = grid_notes(f"{posed.images.spec.backbone}, {name}", how.grid, found)
    report = replace(trial.report, notes=trial.report.notes + noted)
    return replace(trial, make=make, report=report)


@dataclass(frozen=True, slots=True)
class Posed:
    """What is asked of heads, before any has learnt.

    `images` are the labelled ones; `truth`, (n,), their class numbers and `groups`, (n,), numbers
    of what is linked; `sides` the rows learnt from and answered for, fold by fold and split by
    split.
    """

    label: str
    images: Embeddings
    classes: tuple[str, ...]
    truth: NDArray[np.intp]
    groups: NDArray[np.intp]
    splits: tuple[Split, ...]
    sides: Sides
    leak: str
    notes: tuple[str, ...]


def pose(embeddings: Embeddings, label: str, how: Protocol) -> Posed:
    """Take the labelled images and say who learns from which and answers for which.

    Raises
    ------
    DataError
        The labels or patients allow no honest score; the message says why.
    """
    embeddings, how, fusing = fused_by(embeddings, label, how)
    kept, labels, left_out = labelled(embeddings, label)
    classes = order_of(labels, how.order)
    names, number = distinct(labels)
    truth = np.array([classes.index(name) for name in names.tolist()], dtype=np.intp)[number]
    splits, leak, outside = splits_of(kept, labels, how)
    groups = linked(kept)
    sides = _sides(splits, truth, groups, how.few)
    notes = (*image_notes(kept, left_out, label), *fusing, *outside)
    return Posed(label, kept, classes, truth, groups, tuple(splits), sides, leak, notes)


def judged(
    posed: Posed,
    found: Sequence[Chosen],
    name: str,
    parameters: Mapping[str, Any],
    how: Protocol,
    began: float,
) -> Trial:
    """Score what was answered, in `found` for each of the sides, with intervals and floors."""
    kept, label, classes = posed.images, posed.label, posed.classes
    runs = tuple(_together(posed, found))
    columns = {"patient": kept.groups, **kept.columns}
    folds = tuple(split.fold for split in posed.splits)
    answered = Answered(kept.ids, posed.truth, posed.groups, columns, runs, folds)
    scored, lateral, noted = _scored(answered, posed, how)
    tested = scored.take(scored.tested)
    report = Report(
        probe=name,
        parameters=parameters,
        spec=kept.spec,
        label=label,
        classes=classes,
        split=_said(posed.splits),
        split_fingerprint=fingerprint_of(posed.splits if how.split else posed.splits[:1]),
        metrics=scores(scored, classes, how.seed, how.groupings),
        confusion=_confusion(tested.truth, tested.runs[0]),
        n_train=_mean_number(train for train, _ in posed.sides),
        n_test=len(tested.ids),
        n_patients=len(np.unique(tested.groups)),
        seconds=time.monotonic() - began,
        notes=(*posed.notes, *noted, *subgroup_notes(scored, how.by))
        + order_notes(classes, how.order),
        chosen=tuple(dict(c.parameters) for c in found) if how.grid else (),
        few=str(how.few) if how.few else "",
        n_train_patients=_mean_number(posed.groups[train] for train, _ in posed.sides),
        leak=posed.leak,
        level=how.level,
        fuse=how.fuse if how.level != "image" else "",
        sides=lateral,
        subgroups=subgroups(scored, classes, how.seed, how.by, how.groupings),
        reliability=scored.reliability(),
    )
    return Trial(report, None, kept, answered, scored)


def final(trial: Trial, how: Protocol) -> tuple[Fitted, float]:
    """Fit the head to every labelled image; also return its temperature.

    Parameters are chosen from the grid on folds of all images; the temperature is fitted to the
    answers of the trial, which are for unseen patients.
    """
    make = trial.make
    assert make is not None
    vectors = floats(trial.images.vectors)
    truth, groups = trial.answered.truth, trial.answered.groups
    point: Mapping[str, Any] = {}
    if how.grid:
        sides = [(np.arange(len(vectors)), np.arange(1))]
        grid = how.grid
        point = chosen(make, grid, vectors, truth, groups, sides, how.seed)[0].parameters
    fitted = fit(make(**point), vectors, truth, groups)
    seen = trial.answered.tested
    return fitted, fit_temperature(trial.answered.runs[0][seen], truth[seen])


def fused_by(
    embeddings: Embeddings, label: str, how: Protocol
) -> tuple[Embeddings, Protocol, tuple[str, ...]]:
    """Fuse vectors, and the split, where that is asked for; also return what is to be said."""
    if how.level not in LEVELS or how.fuse not in FUSIONS:
        raise UsageError(f"level {how.level!r}, fuse {how.fuse!r}: give {LEVELS} and {FUSIONS}")
    if how.level == "image" or how.fuse == "probabilities" or label not in embeddings.columns:
        return embeddings, how, ()
    of = units(embeddings, how.level)
    made, notes = fused(embeddings, of, how.fuse)
    _, differ = of.agreed(embeddings.columns[label])
    if isinstance(how.split, SavedSplit):
        how = replace(how, split=how.split.at(of, embeddings.ids))
    notes += differing_note(of, differ, label) + missing_notes(embeddings, how.level)
    return made, how, notes


def _scored(
    answered: Answered, posed: Posed, how: Protocol
) -> tuple[Answered, LeftRight | None, tuple[str, ...]]:
    """Bring answers to the level asked for, and temper them: also left against right, and notes."""
    label = posed.label
    scored, lateral = answered, None
    notes = _NOTHING
    if how.level != "image" and how.fuse == "probabilities":
        of = units(posed.images, how.level)
        scored, differ = answered.at(of, answered.columns[label])
        lateral = left_right(posed.images, of, answered.runs[0], answered.tested, posed.classes)
        notes = differing_note(of, differ, label) + missing_notes(posed.images, how.level)
        if len(left := np.unique(scored.truth[scored.tested])) < 2:
            raise DataError(
                f"at the level of the {how.level} {label} has one value left, "
                f"{', '.join(posed.classes[c] for c in left) or 'none'}: it differs within the "
                f"others; score a finer level"
            )
    if not how.calibrate:
        return scored, lateral, notes
    tempered = scored.calibrated()
    if tempered is None:
        raise UsageError(
            "there is nothing to calibrate one holdout on: use folds, or a split with a "
            "validation side"
        )
    return tempered, lateral, notes


def _told(
    make: Callable[..., Any],
    name: str,
    classes: tuple[str, ...],
    texts: Mapping[str, Floats] | None,
) -> Callable[..., Any]:
    """Give a head that needs them the vectors of the classes' descriptions, by class number."""
    if not getattr(make(), "needs_text", False):
        return make
    if missing := [c for c in classes if c not in (texts or {})]:
        raise UsageError(f"{name} needs a description of each class: --prompt {missing[0]}=TEXT")
    numbered = {i: texts[c] for i, c in enumerate(classes)} if texts else {}
    return partial(make, class_vectors=numbered)


def parameters_of(probe: Any) -> dict[str, Any]:
    """Return what a head was made with, but for the vectors of descriptions."""
    found = probe.get_params() if hasattr(probe, "get_params") else {}
    return {k: v for k, v in found.items() if k != "class_vectors"}


def splits_of(
    embeddings: Embeddings, labels: NDArray[np.str_], how: Protocol
) -> tuple[list[Split], str, tuple[str, ...]]:
    """Return the splits, what leaks through them, and what is to be said."""
    if how.repeats < 1:
        raise UsageError(f"{how.repeats} repeats; give at least 1")
    seeds = range(how.seed, how.seed + how.repeats)
    if how.split is None and how.test_share:
        return [holdout(embeddings, labels, how.test_share, s) for s in seeds], "", ()
    if how.split is None:
        return [kfold(embeddings, labels, how.folds, s) for s in seeds], "", ()
    if isinstance(how.split, str):
        splits = [from_column(embeddings, labels, how.split)]
        empty = int((splits[0].fold == OUTSIDE).sum())
        notes = (f"{empty} images without {how.split} left out",) if empty else _NOTHING
    else:
        splits, notes = how.split.on(embeddings)
    check_classes(labels, np.arange(len(labels)))
    for split in splits:
        check_sides(split, labels)
    found = next((found for split in splits if (found := leaks(embeddings, split))), [])
    leak = "; ".join(map(str, found))
    if leak and not how.allow_leak:
        raise UsageError(
            f"the split leaks: {leak}; make one by patient with `embedstore split`, or go on with "
            f"--allow-leak, and the report says so"
        )
    tested = np.any([split.fold >= 0 for split in splits], axis=0)
    if untested := np.setdiff1d(labels, labels[tested]).tolist():
        notes += (f"never tested: {', '.join(untested)}",)
    return splits, leak, notes


def _mean_number(sets: Iterable[NDArray[np.intp]]) -> int:
    return int(np.mean([len(np.unique(one)) for one in sets]))


def _said(splits: Sequence[Split]) -> str:
    return splits[0].method + (f", {len(splits)} seeds" if len(splits) > 1 else "")


def _sides(
    splits: Sequence[Split], truth: NDArray[np.intp], groups: NDArray[np.intp], few: Few | None
) -> Sides:
    """Return the two sides of every fold of every split, of the first perhaps a part."""
    sides = [
        (split.seed, train, np.concatenate([test, _validation(split)]))
        for split in splits
        for train, test in split
    ]
    if few is None:
        return [(train, test) for _, train, test in sides]
    return [(few.take(truth, groups, train, seed), test) for seed, train, test in sides]


def _validation(split: Split) -> NDArray[np.intp]:
    """Return the validation side of one holdout: it is answered for, too, to calibrate on."""
    return np.flatnonzero((split.fold == VALIDATION) & (split.fold.max() == 0))


def learnt(
    make_probe: Callable[..., Any], grid: Grid | None, posed: Posed, seed: int
) -> list[Chosen]:
    """Train on each training side; with a grid, by the parameters chosen there."""
    vectors = floats(posed.images.vectors)
    truth, groups, sides = posed.truth, posed.groups, posed.sides
    if grid:
        return chosen(make_probe, grid, vectors, truth, groups, sides, seed)
    (only,) = answers(make_probe, {}, vectors, truth, groups, sides)
    return [Chosen({}, answered) for answered in only]


def _together(posed: Posed, found: Sequence[Chosen]) -> list[Answers]:
    """Put the answers of each split's folds in their rows: (n, k) for each split."""
    runs, left = [], iter(zip(posed.sides, found, strict=True))
    for split in posed.splits:
        run = np.zeros((len(posed.truth), len(posed.classes)))
        for _ in split:
            (_, test), one = next(left)
            run[test] = one.answers
        runs.append(run)
    return runs


def _confusion(
    truth: NDArray[np.intp], probabilities: NDArray[np.float64]
) -> tuple[tuple[int, ...], ...]:
    once = Draws.once(len(truth))
    counts = confusion(truth, probabilities.argmax(axis=1), probabilities.shape[1], once)
    return tuple(tuple(int(v) for v in row) for row in counts[0])
