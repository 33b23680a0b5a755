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
from embedstore.blocks import floats
from embedstore.calibration import fit_temperature
from embedstore.choose import Chosen, Grid, answers, chosen
from embedstore.errors import DataError, UsageError
from embedstore.fitted import Answers, Fitted, fit
from embedstore.levels import differing_note, missing_notes, units
from embedstore.levels import sides as left_right
from embedstore.metrics import Draws
from embedstore.metrics.counts import confusion
from embedstore.protocol import Posed, Protocol, pose
from embedstore.remarks import grid_notes, order_notes, subgroup_notes
from embedstore.results import Report
from embedstore.results import Sides as LeftRight
from embedstore.scoring import scores, subgroups
from embedstore.split_files import fingerprint_of
from embedstore.types import Embeddings, Floats, Split


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


def _scored(
    answered: Answered, posed: Posed, how: Protocol
) -> tuple[Answered, LeftRight | None, tuple[str, ...]]:
    """Bring answers to the level asked for, and temper them: also left against right, and notes."""
    label = posed.label
    scored, lateral = answered, None
    notes: tuple[str, ...] = ()
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
        others = [c for c in texts or {} if c not in classes]
        more = f"; {', '.join(others)} is no class of it" if others else ""
        raise UsageError(
            f"{name} needs a description of each class: --prompt {missing[0]}=TEXT{more}"
        )
    numbered = {i: texts[c] for i, c in enumerate(classes)} if texts else {}
    return partial(make, class_vectors=numbered)


def parameters_of(probe: Any) -> dict[str, Any]:
    """Return what a head was made with, but for the vectors of descriptions."""
    found = probe.get_params() if hasattr(probe, "get_params") else {}
    return {k: v for k, v in found.items() if k != "class_vectors"}


def _mean_number(sets: Iterable[NDArray[np.intp]]) -> int:
    return int(np.mean([len(np.unique(one)) for one in sets]))


def _said(splits: Sequence[Split]) -> str:
    return splits[0].method + (f", {len(splits)} seeds" if len(splits) > 1 else "")


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
