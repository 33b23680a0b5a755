"""Do the neighbours of an image have its label? Every image asks, and all others are ranked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError
from embedstore.results import Score, Subgroup
from embedstore.retrieval.measures import (
    Values,
    by_chance,
    class_gains,
    dcg,
    dcg_by_chance,
    ideal_dcg,
    measured,
)
from embedstore.retrieval.ranking import rankings
from embedstore.retrieval.scores import MACRO, Drawn, drawn, plain, resamples, scores
from embedstore.retrieval.task import Task
from embedstore.types import Floats, Spec

_ORDER = ("precision", "map", "r_precision", "ndcg", "hit", "mrr")


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """How well the vectors of one Spec find what has the same label.

    Attributes
    ----------
    k, graded, level, same_patient
        What was asked for.
    n_candidates, n_queries, n_patients
        How many can be found, how many ask, and of how many patients these are.
    n_eligible
        How many could have asked; patients were drawn where `n_queries` is less.
    metrics
        The mean over queries by name, and after ``macro`` the mean over classes.
    per_class
        The queries of each class alone.
    """

    spec: Spec
    label: str
    classes: tuple[str, ...]
    k: tuple[int, ...]
    graded: bool
    level: str
    same_patient: bool
    n_candidates: int
    n_queries: int
    n_patients: int
    n_eligible: int
    seed: int
    metrics: Mapping[str, Score]
    per_class: tuple[Subgroup, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them; what is not a number is None."""
        return without_nan(asdict(self)) | {"spec": self.spec.to_dict() | {"key": self.spec.key}}

    @property
    def names(self) -> list[str]:
        """Metrics without those of the mean over classes."""
        return [name for name in self.metrics if not name.startswith(MACRO)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A report, and what it is made of.

    `values` are (q,) by metric, `neighbours` (q, k) rows of the task's images, most alike first;
    `drawn` is what comparing takes.
    """

    report: RetrievalReport
    task: Task
    values: Values
    neighbours: NDArray[np.intp]
    drawn: Drawn


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, with None for what is not a number."""
    plain_values: dict[str, Any] = json.loads(json.dumps(values), parse_constant=lambda _: None)
    return plain_values


def judge(
    task: Task, unit: Floats, spec: Spec, show: Callable[[int, int], None] = lambda *_: None
) -> Judged:
    """Rank everything for each query, exactly, and score it with intervals and chance floors.

    Parameters
    ----------
    unit
        (n, d) unit vectors of the task's images.

    Raises
    ------
    DataError
        Vectors hold NaN or infinity, or are not of the task's images.
    """
    if len(unit) != len(task.ids):
        raise DataError(f"{len(unit)} vectors for a task of {len(task.ids)}")
    began = time.monotonic()
    values, neighbours = _asked(task, unit, show)
    chance = _chance(task)
    truth, groups = task.truth[task.queries], task.patients[task.queries]
    found = drawn(values, truth, resamples(groups, task.asked.seed))
    every = scores(found, plain(chance, truth))
    report = RetrievalReport(
        spec,
        task.asked.label,
        task.classes,
        task.asked.ks,
        bool(task.asked.order),
        task.asked.level,
        task.asked.same_patient,
        len(task.ids),
        len(task.queries),
        len(np.unique(groups)),
        task.eligible,
        task.asked.seed,
        {name: score for name, score in every.items() if ":" not in name},
        _per_class(task, every),
        time.monotonic() - began,
        task.notes,
    )
    return Judged(report, task, values, neighbours, found)


def noted(judged: Judged, notes: tuple[str, ...]) -> Judged:
    """Add to what is said."""
    return replace(judged, report=replace(judged.report, notes=judged.report.notes + notes))


def _asked(
    task: Task, unit: Floats, show: Callable[[int, int], None]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.intp]]:
    """Ask every query: name to (q,), and the (q, k) nearest."""
    ks, most = task.asked.ks, max(task.asked.ks)
    truth, asking = task.truth.astype(np.int16), task.queries  # small: gathered for every cosine
    gains = class_gains(len(task.classes), bool(task.asked.order))
    best = ideal_dcg(gains[truth[asking]], task.counts, ks)
    found: dict[str, list[NDArray[np.float64]]] = {}
    neighbours = np.empty((len(asking), most), dtype=np.intp)
    places = np.arange(len(unit))
    for part, rows in rankings(unit[asking], unit, (task.apart[asking], task.apart)):
        own = truth[asking[part]]
        of = truth[rows]
        relevant = of == own[:, None]
        relevant &= places < task.candidates[part, None]
        values = measured(relevant, task.total[part], ks)
        sums = dcg(gains[own[:, None], of[:, :most]], ks) / best[part]
        values |= {f"ndcg@{k}": sums[:, i] for i, k in enumerate(ks)}
        neighbours[part] = rows[:, :most]
        for name, of_part in values.items():
            found.setdefault(name, []).append(of_part)
        show(part.stop, len(asking))
    return _ordered({name: np.concatenate(parts) for name, parts in found.items()}), neighbours


def _chance(task: Task) -> dict[str, NDArray[np.float64]]:
    """Return what random orders are expected to give each query, by name."""
    ks = task.asked.ks
    gains = class_gains(len(task.classes), bool(task.asked.order))[task.truth[task.queries]]
    chance = by_chance(task.candidates, task.total, ks)
    sums = dcg_by_chance(gains, task.counts, ks) / ideal_dcg(gains, task.counts, ks)
    return _ordered(chance | {f"ndcg@{k}": sums[:, i] for i, k in enumerate(ks)})


def _ordered(values: Values) -> dict[str, NDArray[np.float64]]:
    """Sort as a table shows them, without the rank, whose mean says little."""
    names = [name for name in values if name != "rank"]
    names.sort(key=lambda name: _ORDER.index(name.partition("@")[0]))
    return {name: values[name] for name in names}


def _per_class(task: Task, every: Mapping[str, Score]) -> tuple[Subgroup, ...]:
    out = []
    for number, name in enumerate(task.classes):
        rows = task.queries[task.truth[task.queries] == number]
        if len(rows):
            start = f"{number}:"
            of = {n.removeprefix(start): s for n, s in every.items() if n.startswith(start)}
            patients = len(np.unique(task.patients[rows]))
            out.append(Subgroup(task.asked.label, name, len(rows), patients, of))
    return tuple(out)
