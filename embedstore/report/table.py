"""Results as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from embedstore.predict import Prediction
from embedstore.search import Neighbour
from embedstore.store import Store
from embedstore.types import Report, Score

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced acc.",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "quadratic_kappa": "quadratic κ",
}


def probe_table(reports: Sequence[Report]) -> Table:
    """One row a report, each score over its 95 % interval, and the floor in the last row."""
    first = reports[0]
    table = Table(
        title=f"{escape(first.label)}: {first.split}, {first.n_test} images of "
        f"{first.n_patients} patients",
        caption="below each score its 95 % interval from resampling patients; floor: always the "
        "commonest class",
        show_lines=True,
    )
    table.add_column("backbone", overflow="fold")
    table.add_column("head")
    for title in METRICS.values():
        table.add_column(title, justify="right")
    keys = {(r.spec.backbone, r.spec.key) for r in reports}
    repeated = Counter(name for name, _ in keys)
    for report in reports:
        cells = [_cell(report.metrics[name]) for name in METRICS]
        backbone = report.spec.backbone
        if repeated[backbone] > 1:
            backbone += f"\n{report.spec.recipe}\n{report.spec.key}"
        head = f"{report.probe}\n{report.few}" if report.few else report.probe
        table.add_row(escape(backbone), escape(head), *cells)
    table.add_row("floor", "", *[f"{first.metrics[name].floor:.3f}" for name in METRICS])
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


def neighbour_table(query: str, found: Sequence[Neighbour], labels: Sequence[str]) -> Table:
    """One row for each neighbour, with its labels."""
    table = Table(title=f"most like {escape(query)}")
    for column in ("rank", "id", "cosine", "patient", "view", *map(escape, labels)):
        table.add_column(column)
    for n in found:
        side = f"{n.columns['laterality']} {n.columns['view']}".strip()
        values = [n.columns[name] for name in labels]
        row = [str(n.rank), n.id, f"{n.cosine:.4f}", n.group or "unknown", side, *values]
        table.add_row(*map(escape, row))
    return table
