"""A saved probe's answer for one image, with the nearest cases that speak for and against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore import saved
from embedstore.errors import UsageError
from embedstore.metrics import metric_title
from embedstore.saved import SavedProbe
from embedstore.server import schemas
from embedstore.server.asking import Kind, Question, Searches
from embedstore.server.cases import cases
from embedstore.server.labels import Codes, mates
from embedstore.server.pictures import Pictures
from embedstore.server.snapshot import Snapshot
from embedstore.store import Store
from embedstore.types import Embeddings, Spec

SCORES = ("auroc", "balanced_accuracy", "quadratic_kappa")


def load_probes(folders: Mapping[str, Path], store: Store) -> dict[str, SavedProbe]:
    """Load saved probes, by name.

    Raises
    ------
    UsageError
        A folder holds none, or its vectors are not in the store.
    """
    found = {}
    for name, folder in folders.items():
        probe = saved.load(folder)
        if probe.spec.key not in store.specs:
            there = ", ".join(f"{s.backbone} ({k})" for k, s in store.specs.items()) or "none"
            raise UsageError(
                f"{folder}: takes vectors of {probe.spec.backbone} ({probe.spec.key}); the store "
                f"has {there}"
            )
        found[name] = probe
    return found


def described(name: str, probe: SavedProbe) -> schemas.Probe:
    """Say what a probe is and how it did."""
    report = probe.report
    chosen = [n for n in SCORES if n in report.metrics] or list(report.metrics)[:3]
    scores = []
    for metric in chosen:
        s = report.metrics[metric]
        numbers = {n: _finite(getattr(s, n)) for n in ("value", "low", "high", "floor")}
        scores.append(schemas.ProbeScore(name=metric, title=metric_title(metric), **numbers))
    return schemas.Probe(
        name=name,
        head=probe.head,
        label=probe.label,
        classes=list(probe.classes),
        backbone=probe.spec.key,
        scores=scores,
        notes=list(report.notes),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Desk:
    """What predictions are made with."""

    snapshot: Snapshot
    searches: Searches
    pictures: Pictures

    def predict(
        self, name: str, probe: SavedProbe, question: Question, k: int
    ) -> schemas.Prediction:
        """Apply a probe to a question's vector."""
        spec, snapshot = probe.spec, self.snapshot
        given = probe.predict(_alone(spec, question))[0]
        by_class = dict(zip(probe.classes, np.asarray(given, float).round(6).tolist(), strict=True))
        answer = probe.classes[int(np.argmax(given))]
        for_it, against = self._support(spec, probe.label, answer, question, k)
        asked = cases(snapshot, spec, self.pictures, question.rows) if len(question.rows) else []
        known = asked[0].labels.get(probe.label, "") if asked else ""
        return schemas.Prediction(
            commit=snapshot.store.commit,
            probe=name,
            label=probe.label,
            answer=answer,
            probabilities=by_class,
            known=known,
            asked=asked,
            supporting=for_it,
            opposing=against,
            notes=list(
                dict.fromkeys((*_remarks(known), *probe.report.notes, *snapshot.notes(spec)))
            ),
        )

    def _support(
        self, spec: Spec, label: str, answer: str, question: Question, k: int
    ) -> tuple[list[schemas.Case], list[schemas.Case]]:
        if label not in self.snapshot.store.labels:
            return [], []
        codes = self.snapshot.codes(spec, label)
        left = codes.counts - _counts(codes, mates(self.snapshot.searcher(spec), question.own))
        found = [
            (value, *self._nearest(spec, codes, value, question, min(k, int(n))))
            for value, n in zip(codes.values, left, strict=True)
            if n > 0
        ]
        every = [
            (c, row) for _, cosines, rows in found for c, row in zip(cosines, rows, strict=True)
        ]
        mine = {row for value, _, rows in found if value == answer for row in rows}
        every.sort(key=lambda pair: (-pair[0], pair[1]))
        sides = (
            [p for p in every if p[1] in mine][:k],
            [p for p in every if p[1] not in mine][:k],
        )
        shown = [
            cases(
                self.snapshot,
                spec,
                self.pictures,
                [row for _, row in side],
                [cosine for cosine, _ in side],
                label,
                answer,
            )
            for side in sides
        ]
        return shown[0], shown[1]

    def _nearest(
        self, spec: Spec, codes: Codes, value: str, question: Question, k: int
    ) -> tuple[list[float], list[int]]:
        where = codes.filter(value)
        if where is None:
            return [], []
        hits = self.searches.ask(Kind(self.snapshot, spec, k, where), question)
        return hits.cosines[0].tolist(), hits.rows[0].tolist()


def _counts(codes: Codes, places: NDArray[np.intp]) -> NDArray[np.intp]:
    code = codes.code[places]
    return np.bincount(code[code >= 0], minlength=len(codes.counts))


def _alone(spec: Spec, question: Question) -> Embeddings:
    """Make the question's vector the only one of its kind."""
    one = np.array([""])
    digests = np.zeros((1, 16), dtype=np.uint8)
    return Embeddings(spec, one, np.asarray(question.vector)[None], one, digests)


def _remarks(known: str) -> tuple[str, ...]:
    if not known:
        return ()
    return (
        "the probe may have learnt from this very image; its scores are of patients that it had "
        "not seen",
    )
