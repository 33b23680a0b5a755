"""Results as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from embedstore.metrics import metric_title
from embedstore.metrics.compare import p_value
from embedstore.results import Report, Score
from embedstore.subgroups import FEW_PATIENTS
from embedstore.types import OUTSIDE, TRAIN, VALIDATION, Split

if TYPE_CHECKING:
    from embedstore.predict import Prediction
    from embedstore.scoring import Compared
    from embedstore.store import Store

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "quadratic_kappa")
"""The metrics of a table unless others are asked for."""


def probe_table(reports: Sequence[Report], metrics: Sequence[str] = SHOWN) -> Table:
    """One row a report, each score over its 95 % interval, and the floor in the last row."""
    first = reports[0]
    table = Table(
        title=f"{escape(first.label)}: {first.split}, {_tested(first)}",
        caption=f"{_learnt(reports)}\nbelow each score its 95 % interval from resampling "
        "patients; floor: the best that answering without looking gets",
        show_lines=True,
    )
    table.add_column("backbone", overflow="fold")
    table.add_column("head")
    for metric in metrics:
        table.add_column(escape(metric_title(metric)), justify="right")
    keys = {(r.spec.backbone, r.spec.key) for r in reports}
    repeated = Counter(name for name, _ in keys)
    for report in reports:
        cells = [_cell(report.metrics[name]) for name in metrics]
        backbone = report.spec.backbone
        if repeated[backbone] > 1:
            backbone += f"\n{report.spec.recipe}\n{report.spec.key}"
        head = f"{report.probe}\n{report.few}" if report.few else report.probe
        table.add_row(escape(backbone), escape(head), *cells)
    if leak := next((r.leak for r in reports if r.leak), ""):
        table.caption = f"THE SPLIT LEAKS: {escape(leak)}\n{table.caption}"
    table.add_row("floor", "", *[f"{first.metrics[name].floor:.3f}" for name in metrics])
    return table


def _learnt(reports: Sequence[Report]) -> str:
    """Say by which split, and from how much a head learnt where that is the same for all."""
    first = reports[0]
    split = f"split {first.split_fingerprint}"
    if len({(r.n_train, r.n_train_patients) for r in reports}) > 1:
        return split
    of = "image" if first.fuse in {"", "probabilities"} else first.level
    return f"{split}: {first.n_train} {of}s of {first.n_train_patients} patients learnt from"


def _tested(report: Report) -> str:
    patients = f"{report.n_patients} patients"
    if report.level == "patient":
        return patients
    return f"{report.n_test} {report.level}s of {patients}"


def subgroup_table(reports: Sequence[Report], metrics: Sequence[str] = SHOWN) -> Table:
    """One row for each value of each column that scores were asked by."""
    table = Table(title="subgroups", caption=f"*: fewer than {FEW_PATIENTS} patients")
    for title in ("backbone", "head", "", "of", "patients"):
        table.add_column(title)
    for metric in metrics:
        table.add_column(escape(metric_title(metric)), justify="right")
    for report in reports:
        for group in report.subgroups:
            few = "*" if group.n_patients < FEW_PATIENTS else ""
            named = f"{group.column} {group.value}"
            cells = [_cell(group.metrics[name]) for name in metrics]
            row = [report.spec.backbone, report.probe, named, str(group.n_images)]
            table.add_row(*map(escape, row), f"{group.n_patients}{few}", *cells)
    return table


def difference_table(
    found: Sequence[Compared], reference: str, metrics: Sequence[str] = SHOWN
) -> Table:
    """One row for each contender: what it has more than the reference, interval and p."""
    table = Table(
        title=f"difference to {escape(reference)}",
        caption="95 % interval and p from resampling patients, the same for both; p corrected for "
        f"{len(found)} contender{'s' if len(found) > 1 else ''} (Holm)",
    )
    table.add_column("contender", overflow="fold")
    for metric in metrics:
        table.add_column(escape(metric_title(metric)), justify="right")
    table.add_column("right where the other is wrong")
    for one in found:
        cells = []
        for metric in metrics:
            d = one.differences[metric]
            said = f"{d.value:+.3f}\n{d.low:+.2f} to {d.high:+.2f}\n{p_value(one.p_holm[metric])}"
            cells.append(said)
        only = one.discordance
        tests = f"{only.only_one} against {only.only_other}, McNemar {p_value(only.p)}"
        if one.areas:
            tests += f"\nAUROC: DeLong {p_value(one.areas.p)}"
        table.add_row(escape(one.name), *cells, tests)
    return table


def sides_table(report: Report) -> Table:
    """Answers for the left breast by row, for the right by column."""
    sides = report.sides
    if sides is None:
        raise ValueError("a report without two sides")
    several, apart = sum(map(sum, sides.answers)), len(sides.apart)
    table = Table(
        title=f"{escape(report.spec.backbone)}, {escape(report.probe)}: left and right answered "
        f"differently in {apart} of {several} {report.level}s"
    )
    for title in ("left \\ right", *report.classes):
        table.add_column(escape(title))
    for name, row in zip(report.classes, sides.answers, strict=True):
        table.add_row(escape(name), *map(str, row))
    return table


def split_table(
    split: Split, labels: NDArray[np.str_], groups: NDArray[np.str_], folds: Sequence[str] = ()
) -> Table:
    """One row for each fold and for what no fold tests, with images, patients and classes.

    `folds` are their names, where they have any.
    """
    classes = np.unique(labels).tolist()
    table = Table(title=escape(f"{split.method}, seed {split.seed}"))
    for title in ("", "images", "patients", *classes):
        table.add_column(escape(title), justify="right" if title else "left")
    names = {TRAIN: "training only", VALIDATION: "validation", OUTSIDE: "outside"}
    names |= dict(enumerate(folds))
    for fold in [*range(int(split.fold.max()) + 1), TRAIN, VALIDATION, OUTSIDE]:
        rows = split.fold == fold
        if not rows.any():
            continue
        several = split.fold.max() > 0
        name = names.get(fold, f"fold {fold}" if several else "test")
        patients = len(np.unique(groups[rows & (groups != "")])) + int((groups[rows] == "").sum())
        counts = [str(int((labels[rows] == c).sum())) for c in classes]
        table.add_row(escape(name), str(int(rows.sum())), str(patients), *counts)
    return table


def prediction_table(found: Prediction, shown: int) -> Table:
    """One row for each of the first images or exams, with a column for each class."""
    table = Table(title=f"{len(found.ids)} {found.by}s")
    for column in (found.by, "images", "answer", *found.classes):
        table.add_column(escape(column))
    answers = found.answers
    for i in range(min(shown, len(found.ids))):
        cells = [f"{p:.3f}" for p in found.probabilities[i]]
        table.add_row(escape(str(found.ids[i])), str(found.images[i]), escape(answers[i]), *cells)
    return table


def _cell(score: Score) -> str:
    if isnan(score.value):
        return "–"
    return f"{score.value:.3f}\n{score.low:.2f} to {score.high:.2f}"


def info_table(store: Store) -> Table:
    """One row for each set of embeddings."""
    table = Table(title=f"{escape(str(store.path))}: {len(store)} samples, commit {store.commit}")
    for column in ("backbone", "key", "vectors", "type", "recipe", "pooling", "text", "made by"):
        table.add_column(column)
    for key, spec in store.specs.items():
        made = store.provenance[key]
        table.add_row(
            escape(spec.backbone),
            key,
            f"{store.count(spec)} x {spec.dim}",
            spec.dtype,
            f"{spec.recipe} ({spec.recipe.key})",
            spec.pooling,
            "yes" if spec.text else "no",
            f"embedstore {made['versions']['embedstore']}, {made['device']}, {made['precision']}, "
            f"{made['started'][:10]}",
        )
    return table


def label_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """One row for each label, with how often each value occurs."""
    table = Table(title="labels")
    table.add_column("label")
    table.add_column("values")
    for name, values in counts.items():
        shown = ", ".join(f"{value or '(empty)'} {n}" for value, n in values.items())
        table.add_row(escape(name), escape(shown))
    return table
