"""What was found for each query, as a table to work with."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from embedstore.output import put, refuse
from embedstore.retrieval.labels import Judged


def refuse_file(to: Path, force: bool) -> None:
    """Raise `UsageError` where `save` would not write, before the work."""
    refuse(to, force, ())


def save(judged: Sequence[Judged], to: Path, force: bool = False) -> None:
    """Write a CSV row for each query of each backbone.

    Its id and label, its own value of each metric, and the labels of the k nearest, most alike
    first. One that is there is replaced only with `force`.
    """
    first = judged[0]
    depth = first.neighbours.shape[1]
    nearest = [f"neighbour_{rank}" for rank in range(1, depth + 1)]
    with put(to, force) as fresh, fresh.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["backbone", "key", "id", "label", *first.values, *nearest])
        for one in judged:
            writer.writerows(_rows(one))


def _rows(one: Judged) -> list[list[str]]:
    spec, task = one.report.spec, one.task
    labels = [task.classes[c] for c in task.truth.tolist()]
    columns = list(zip(*(v.tolist() for v in one.values.values()), strict=True))
    return [
        [
            spec.backbone,
            spec.key,
            str(task.ids[row]),
            labels[row],
            *(f"{value:.6g}" for value in columns[at]),
            *(labels[n] for n in one.neighbours[at].tolist()),
        ]
        for at, row in enumerate(task.queries.tolist())
    ]
