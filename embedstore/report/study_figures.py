"""The figures of a study's page, each with the figures it draws as text beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import isnan
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from embedstore.metrics import grouped, metric_title
from embedstore.report import study_words as words
from embedstore.report.charts import Line, learning_chart, reliability_chart, roc_chart
from embedstore.report.roc import roc
from embedstore.report.svg import Style
from embedstore.results import Score
from embedstore.study.findings import Contender, Curve, Findings

HIGHLIGHTED = 6
"""Contenders with a line of their own in a ROC chart; others are grey."""

Question = tuple[str, str, NDArray[np.bool_], NDArray[np.floating[Any]]]
"""What is told from what, its AUROC's name, (n,) who is positive, (n,) scores."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A drawing, its title, and lines of its legend: key, name, figures."""

    title: str
    chart: Markup
    legend: tuple[tuple[Markup, str, str], ...]
    others: tuple[tuple[str, str], ...] = ()


def roc_panels(findings: Findings) -> list[Panel]:
    """Return a chart for each class against the rest, of two for the second, and each grouping."""
    order = words.ranked(findings)
    shown = _highlighted(findings, order)
    asked: dict[str, list[tuple[Contender, Question]]] = {}
    for one in order:
        for question in _questions(one, findings):
            asked.setdefault(question[0], []).append((one, question))
    return [_roc_panel(title, found, shown) for title, found in asked.items()]


def _highlighted(findings: Findings, order: list[Contender]) -> Mapping[str, Style]:
    """Choose the reference, the best of each kind and then the best, in the order of the ledger."""
    first_of_kind = {c.kind: c.name for c in reversed(order)}
    wanted = [findings.reference, *first_of_kind.values(), *(c.name for c in order)]
    chosen = set(list(dict.fromkeys(wanted))[:HIGHLIGHTED])
    names = [c.name for c in order if c.name in chosen]
    return {name: Style(n) for n, name in enumerate(names)}


def _questions(one: Contender, findings: Findings) -> Iterator[Question]:
    answered, classes = one.answered, one.report.classes
    tested = answered.tested
    truth, p = answered.truth[tested], answered.runs[0][tested]
    for c, name in enumerate(classes):
        if len(classes) > 2:
            yield f"{name} against the rest", f"auroc:{name}", truth == c, p[:, c]
        elif c == 1:
            yield f"{name} against {classes[0]}", "auroc", truth == c, p[:, c]
    for positive in findings.groupings:
        if len(positive) == 1 and len(classes) > 2:
            continue  # that class against the rest is there
        joined, both = grouped(truth, p, classes, positive)
        name = "+".join(positive)
        yield f"{name} against the rest", f"{name}: auroc", joined == 1, both[:, 1]


def _roc_panel(
    title: str, found: list[tuple[Contender, Question]], shown: Mapping[str, Style]
) -> Panel:
    lines: list[Line] = []
    legend, others = [], []
    for one, (_, metric, positive, score) in found:
        points = roc(positive, score)
        style = shown.get(one.name)
        area = _area(one.report.metrics.get(metric))
        if style:
            legend.append((style.line_key(), one.name, area))
        else:
            others.append((one.name, area))
        if points is not None:
            lines.append((one.name, style, points))
    name = f"ROC curves of {len(lines)} contenders, {title}; their areas are listed below"
    return Panel(title, roc_chart(lines, name), tuple(legend), tuple(others))


def _area(score: Score | None) -> str:
    if score is None or isnan(score.value):
        return words.UNKNOWN
    interval = words.span(score.low, score.high)
    return f"{words.value(score.value)} ({interval})" if interval else words.value(score.value)


@dataclass(frozen=True, slots=True)
class Reliability:
    """One contender's diagram; `bins` are confidence, share right and number, as text."""

    name: str
    ece: str
    chart: Markup
    bins: tuple[tuple[str, str, str], ...]


def reliabilities(findings: Findings) -> list[Reliability]:
    """Return a diagram for each contender that has one."""
    out = []
    for one in words.ranked(findings):
        bins = one.report.reliability
        if not bins:
            continue
        ece = _area(one.report.metrics.get("ece"))
        chart = reliability_chart(bins, f"Reliability of {one.name}: expected error {ece}")
        rows = tuple((f"{b.confidence:.3f}", f"{b.accuracy:.3f}", f"{b.n:,}") for b in bins)
        out.append(Reliability(one.name, ece, chart, rows))
    return out


@dataclass(frozen=True, slots=True)
class Learning:
    """All learning curves in one drawing.

    `rows` are the curve's name, images, patients and score; `parities` a name and what it needs.
    """

    metric: str
    target: str
    chart: Markup
    legend: tuple[tuple[Markup, str], ...]
    rows: tuple[tuple[str, str, str, str], ...]
    parities: tuple[tuple[str, str], ...]


def learning(findings: Findings) -> Learning | None:
    """Draw the learning curves, and where they reach the best fine-tune; None without curves."""
    curves = [c for c in findings.curves if c.reports]
    if not curves:
        return None
    metric = findings.metric
    tuned = [c for c in words.ranked(findings) if c.kind == "finetune"]
    target = tuned[0].report.metrics[metric] if tuned else None
    if target is not None and isnan(target.value):
        target = None
    title = metric_title(metric)
    styles = _styles(findings, [c.name for c in curves])
    drawn = [(c.name, styles[c.name], c.reports, c.parity) for c in curves]
    name = f"{title} over the number of labels of {len(curves)} learning curves; as a table below"
    chart = learning_chart(drawn, metric, title, target, name)
    rows = [
        (c.name, f"{r.n_train:,}", f"{r.n_train_patients:,}", _area(r.metrics[metric]))
        for c in curves
        for r in c.reports
    ]
    best = f"{tuned[0].name}, {title} {words.value(target.value)}" if target else ""
    parities = [(c.name, _parity(c)) for c in curves] if target else []
    legend = tuple((style.line_key(), of) for of, style, _, _ in drawn)
    return Learning(title, best, chart, legend, tuple(rows), tuple(parities))


def _styles(findings: Findings, names: Sequence[str]) -> Mapping[str, Style]:
    """Give a curve the style that its contender has in the ROC charts, others what is left."""
    shown = _highlighted(findings, words.ranked(findings))
    free = count(len(shown))
    return {name: shown.get(name) or Style(next(free)) for name in names}


def _parity(curve: Curve) -> str:
    if curve.parity is None:
        return "not reached"
    fewest = curve.parity <= curve.reports[0].n_train
    return f"{'at most ' if fewest else ''}{curve.parity:,.0f} labels"
