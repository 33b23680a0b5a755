"""From the results of pieces to findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from embedstore.metrics import low_is_good
from embedstore.results import Report
from embedstore.scoring import Compared, comparable, compare
from embedstore.splits import linked
from embedstore.store import Store
from embedstore.study.findings import (
    Contender,
    Curve,
    Findings,
    Kind,
    Map,
    Tournament,
    Wording,
)
from embedstore.study.methods import CITATION, methods
from embedstore.study.pieces import Cast, Table, reference_of, strangers
from embedstore.study.plan import Study
from embedstore.study.results import Result, answered_from, audit_from, texts_from
from embedstore.study.work import Piece

CONTENDING = ("probe", "prompts", "finetune")


@dataclass(frozen=True, slots=True)
class Done:
    """A piece that is done, and what it came to."""

    piece: Piece
    result: Result


def collect(
    study: Study,
    store: Store,
    players: Cast,
    table: Table,
    pieces: Sequence[Piece],
    results: Mapping[str, Result],
    failures: Sequence[str] = (),
) -> Findings:
    """Put together what pieces came to.

    Parameters
    ----------
    results
        By the pieces' `stem`; of those that failed there is none.
    failures
        What is to be said of those.
    """
    done = [Done(p, results[p.stem]) for p in pieces if p.stem in results]
    contenders = tuple(_contender(d) for d in done if d.piece.kind in CONTENDING)
    wanted = [p.name for p in pieces if p.kind in CONTENDING]
    reference, notes = _reference(reference_of(study.reference, wanted), contenders)
    compared, others = _compared(study, contenders, reference)
    curves = _curves(study, done, contenders)
    fold = _fold_of(contenders, reference)
    return Findings(
        title=study.title or f"{study.label}, {store.path.name}",
        store=store.path.name,
        label=study.label,
        classes=fold.classes if fold else (),
        split=fold.split if fold else "",
        split_fingerprint=fold.split_fingerprint if fold else "",
        images=len(table.images),
        patients=len(np.unique(linked(table.images))),
        contenders=contenders,
        reference=reference,
        compared=compared,
        groupings=study.grouping,
        curves=curves,
        tournaments=tuple(_tournament(d, players) for d in done if d.piece.kind == "prompts"),
        audits=tuple(audit_from(d.result.told["audit"]) for d in done if d.piece.kind == "audit"),
        maps=tuple(_map(d, players) for d in done if d.piece.kind == "map"),
        methods=methods(study, store, players, table, contenders, len(compared)),
        citation=CITATION,
        notes=(*failures, *table.notes, *notes, *others, *_notes(contenders)),
        metric=study.metric,
        strangers=strangers(table.images),
    )


def _contender(done: Done) -> Contender:
    told = done.result.told
    kind = cast("Kind", done.piece.kind)
    return Contender(
        done.piece.name,
        kind,
        Report.from_dict(told["report"]),
        answered_from(done.result.arrays),
        int(told["trained"]),
        float(told["seconds"]),
    )


def _reference(wanted: str, contenders: Sequence[Contender]) -> tuple[str, tuple[str, ...]]:
    """Return the reference, or another where it failed, which is said."""
    names = [c.name for c in contenders]
    if wanted in names or not names:
        return wanted, ()
    return names[0], (f"the reference {wanted} is not there: {names[0]} takes its place",)


def _fold_of(contenders: Sequence[Contender], reference: str) -> Report | None:
    return next((c.report for c in contenders if c.name == reference), None)


def _compared(
    study: Study, contenders: Sequence[Contender], reference: str
) -> tuple[dict[str, Compared], tuple[str, ...]]:
    """Set the contenders against the reference; those of other images are only named."""
    base = next((c for c in contenders if c.name == reference), None)
    if base is None:
        return {}, ()
    alike = {
        c.name: c.answered
        for c in contenders
        if c.report.classes == base.report.classes and comparable(c.answered, base.answered)
    }
    notes = tuple(
        f"{c.name} was tested on other images than {reference}: not compared"
        for c in contenders
        if c.name not in alike
    )
    if len(alike) < 2:
        return {}, notes
    found = compare(alike, reference, base.report.classes, study.seed, study.grouping)
    return {one.name: one for one in found}, notes


def _curves(
    study: Study, done: Sequence[Done], contenders: Sequence[Contender]
) -> tuple[Curve, ...]:
    """Put the points of each curve in order, and say where it meets the best fine-tune."""
    points: dict[str, list[Report]] = {}
    for one in done:
        if one.piece.kind == "curve":
            name = one.piece.name.removesuffix(f", {one.result.told['report']['few']}")
            points.setdefault(name, []).append(Report.from_dict(one.result.told["report"]))
    sign = -1 if low_is_good(study.metric) else 1
    tuned = [
        sign * c.report.metrics[study.metric].value for c in contenders if c.kind == "finetune"
    ]
    curves = []
    for name, reports in points.items():
        reports.sort(key=lambda r: r.n_train)
        scores = [sign * r.metrics[study.metric].value for r in reports]
        goal = parity([r.n_train for r in reports], scores, max(tuned)) if tuned else None
        curves.append(Curve(name, tuple(reports), goal))
    return tuple(curves)


def parity(images: Sequence[int], scores: Sequence[float], goal: float) -> float | None:
    """Return how many images it takes to score `goal`, between the points by a straight line.

    Where the first point is that good, its number, for fewer may do; None where none is.
    """
    known = [(n, s) for n, s in zip(images, scores, strict=True) if s == s]
    if known and known[0][1] >= goal:
        return float(known[0][0])
    for (fewer, low), (more, high) in zip(known, known[1:], strict=False):
        if high >= goal:
            return float(fewer + (goal - low) / (high - low) * (more - fewer))
    return None


def _tournament(done: Done, players: Cast) -> Tournament:
    told = done.result.told["tournament"]
    lines = {
        name: tuple(
            Wording(
                one["name"],
                {metric: _three(values) for metric, values in one["metrics"].items()},
                one["commonest"],
                one["collapsed"],
            )
            for one in told[name]
        )
        for name in ("best", "collapsed")
    }
    return Tournament(
        players.names[done.piece.spec.key],
        told["set"],
        told["variants"],
        told["optimism"],
        lines["best"],
        lines["collapsed"],
        told["n_collapsed"],
    )


def _three(values: Sequence[float | None]) -> tuple[float, float, float]:
    value, low, high = (float("nan") if v is None else float(v) for v in values)
    return value, low, high


def _map(done: Done, players: Cast) -> Map:
    arrays = done.result.arrays
    pictures = arrays.get("pictures")
    return Map(
        players.names[done.piece.spec.key],
        arrays["places"],
        texts_from(arrays["labels"]),
        texts_from(arrays["ids"]),
        None if pictures is None else tuple(pictures),
        done.result.told["how"],
    )


def _notes(contenders: Sequence[Contender]) -> tuple[str, ...]:
    """Say once what several reports say."""
    return tuple(dict.fromkeys(note for c in contenders for note in c.report.notes))
