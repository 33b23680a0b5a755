"""Quality of retrieval as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from rich.markup import escape
from rich.table import Table

from embedstore.metrics.compare import p_value
from embedstore.results import Score
from embedstore.retrieval import Against, RetrievalReport
from embedstore.retrieval.measures import TITLES
from embedstore.retrieval.scores import MACRO
from embedstore.retrieval.texts import TextReport

MOST_CLASSES = 6
"""Classes that have columns of their own."""

_INTERVAL = (
    "below each value its 95 % interval from resampling the queries' patients, what can be found "
    "being fixed, and what a random order is expected to have"
)


def retrieval_table(report: RetrievalReport, name: str) -> Table:
    """One row a metric; columns for all queries, the mean over classes, and each class."""
    level, whose = report.level, "" if report.same_patient else ", of other patients only"
    table = Table(
        title=f"{escape(name)}: {escape(report.label)}, {report.n_queries} {level}s of "
        f"{report.n_patients} patients as queries, {report.n_candidates} to find{whose}",
        caption=escape(_caption(report)),
        show_lines=True,
    )
    shown = report.per_class if len(report.per_class) <= MOST_CLASSES else ()
    for title in ("", "all", "mean over\nclasses"):
        table.add_column(title, justify="right" if title else "left")
    for one in shown:
        table.add_column(
            f"{escape(one.value)}\n{one.n_images} of {one.n_patients}", justify="right"
        )
    for metric in worth_showing(report.names):
        cells = [report.metrics[metric], report.metrics[f"{MACRO}{metric}"]]
        cells += [one.metrics[metric] for one in shown]
        table.add_row(title_of(metric), *map(_cell, cells))
    return table


def _caption(report: RetrievalReport) -> str:
    gains = "1 for the same class, 0 for any other"
    if report.graded:
        gains = f"falling evenly with the distance in {', '.join(report.classes)}"
    said = [_INTERVAL, f"gains of nDCG: {gains}"]
    if report.same_patient:
        said.insert(0, "IMAGES OF THE SAME PATIENT COUNT")
    if report.n_queries < report.n_eligible:
        said.append(
            f"patients drawn at random with seed {report.seed}: {report.n_queries} of "
            f"{report.n_eligible} queries"
        )
    if len(report.per_class) > MOST_CLASSES:
        said.append(f"--json has each of the {len(report.per_class)} classes")
    return "\n".join(said)


def difference_table(found: Sequence[Against], reference: str, metrics: Sequence[str]) -> Table:
    """One row a metric, one column for each backbone: what it has more than the first."""
    table = Table(
        title=f"difference to {escape(reference)}, the same queries and candidates",
        caption=f"95 % interval and p from resampling patients, the same for both; p corrected for "
        f"{len(found)} backbone{'s' if len(found) > 1 else ''} (Holm)",
        show_lines=True,
    )
    table.add_column("")
    for one in found:
        for of in ("all", "mean over classes"):
            table.add_column(f"{escape(one.name)}\n{of}", justify="right")
    for metric in worth_showing(metrics):
        both = (metric, f"{MACRO}{metric}")
        table.add_row(title_of(metric), *(_difference(one, m) for one in found for m in both))
    return table


def _difference(one: Against, metric: str) -> str:
    d = one.differences[metric]
    return f"{d.value:+.3f}\n{d.low:+.2f} to {d.high:+.2f}\n{p_value(one.p_holm[metric])}"


def text_table(report: TextReport, name: str) -> Table:
    """One row a metric, a column for texts that ask for images and one for the reverse."""
    table = Table(
        title=f"{escape(name)}: texts of {escape(report.column)}, {report.n_patients} patients",
        caption=f"recall@k: something of its own among the first k; {_INTERVAL}",
        show_lines=True,
    )
    one, other = report.text_to_image, report.image_to_text
    table.add_column("")
    for title, way in (("texts to images", one), ("images to texts", other)):
        table.add_column(f"{title}\n{way.n_queries} to {way.n_candidates}", justify="right")
    for metric in _of_texts({**other.metrics, **one.metrics}):
        cells = [_cell(way.metrics.get(metric)) for way in (one, other)]
        table.add_row(title_of(metric), *cells)
    return table


def _of_texts(metrics: Mapping[str, Score]) -> list[str]:
    """Choose recalls by rising k, then what is of whole rankings."""
    recalls = [name for name in metrics if name.startswith("recall@")]
    return [*sorted(recalls, key=lambda n: int(n[7:])), "median_rank", "mrr", "map"]


def worth_showing(metrics: Sequence[str]) -> list[str]:
    """Leave out what equals the precision at 1, and the mean over classes."""
    same = {"map@1", "hit@1"}
    return [name for name in metrics if name not in same and not name.startswith(MACRO)]


def title_of(metric: str) -> str:
    """Name a metric: ``map@10`` is mAP@10."""
    stem, at, k = metric.partition("@")
    return f"{TITLES.get(stem, stem)}{at}{k}"


def _cell(score: Score | None) -> str:
    if score is None or isnan(score.value):
        return "–"
    digits = 1 if score.floor > 1 or score.value > 1 else 3
    value, floor = f"{score.value:.{digits}f}", f"chance {score.floor:.{digits}f}"
    if isnan(score.low):
        return f"{value}\nno interval\n{floor}"
    low, high = (f"{bound:.{max(1, digits - 1)}f}" for bound in (score.low, score.high))
    return f"{value}\n{low} to {high}\n{floor}"


def named(keys: Mapping[str, str]) -> dict[str, str]:
    """Name Specs, key to backbone, so that no two names are equal."""
    backbones = list(keys.values())
    return {k: b if backbones.count(b) == 1 else f"{b} {k}" for k, b in keys.items()}
