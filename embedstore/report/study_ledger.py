"""The tables of a study's page: the ledger, paired differences, confusion, subgroups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from embedstore.metrics import metric_title
from embedstore.metrics.compare import p_value
from embedstore.report import study_words as words
from embedstore.report.charts import interval, interval_scale, ruler
from embedstore.report.svg import Scale, Style
from embedstore.report.table import SHOWN
from embedstore.results import Score
from embedstore.study.findings import Choice, Contender, Findings
from embedstore.subgroups import FEW_PATIENTS

KIND_STYLES = {"probe": Style(0), "finetune": Style(1), "prompts": Style(2)}
"""Circle, square, triangle."""

OPEN = 2
"""How many contenders' subgroups are unfolded from the start."""

Cell = tuple[str, str]
"""A value and its interval."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contender."""

    name: str
    kind: str
    remarks: tuple[str, ...]
    plot: Markup
    cells: tuple[Cell, ...]
    difference: Cell
    p: str
    seconds: str
    labels: str
    label_patients: str
    trained: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """The table of all contenders.

    `metrics` are its titles, the first the one it is ordered by; `leaks` what leaks, and to whom.
    """

    metrics: tuple[str, ...]
    ruler: Markup
    rows: tuple[Row, ...]
    floors: tuple[str, ...]
    leaks: tuple[tuple[str, str], ...]
    kinds: tuple[tuple[Markup, str], ...]
    comparisons: int


def metrics_of(findings: Findings) -> tuple[str, ...]:
    """Return the metrics of the ledger: the main one, other usual ones, those of groupings."""
    main = findings.metric
    grouped = [f"{'+'.join(g)}: auroc" for g in findings.groupings]
    everywhere = [c.report.metrics for c in findings.contenders]
    wanted = [main, *(m for m in SHOWN if m != main), *grouped]
    return tuple(m for m in wanted if all(m in found for found in everywhere))


def ledger(findings: Findings) -> Ledger:
    """Set all contenders against one another, the best first."""
    metrics, order = metrics_of(findings), words.ranked(findings)
    main = metrics[0]
    scale = interval_scale([c.report.metrics[main] for c in order])
    named = {c.name: c for c in order}
    reference = named.get(findings.reference, order[0])
    rows = tuple(_row(c, findings, metrics, reference, scale=scale) for c in order)
    leaks: dict[str, list[str]] = {}
    for one in order:
        if one.report.leak:
            leaks.setdefault(one.report.leak, []).append(one.name)
    kinds = dict.fromkeys(c.kind for c in order)
    title = metric_title(main)
    return Ledger(
        tuple(metric_title(m) for m in metrics),
        ruler(scale, f"{title}, {scale.low:.2f} to {scale.high:.2f}"),
        rows,
        tuple(words.value(reference.report.metrics[m].floor) for m in metrics),
        tuple((leak, ", ".join(names)) for leak, names in leaks.items()),
        tuple((KIND_STYLES[k].mark_key(), words.KINDS[k]) for k in kinds),
        len(findings.compared),
    )


def _row(
    one: Contender, findings: Findings, metrics: Sequence[str], reference: Contender, scale: Scale
) -> Row:
    report = one.report
    score = report.metrics[metrics[0]]
    level = reference.report.metrics[metrics[0]].value
    found = findings.compared.get(one.name)
    cells = tuple(_cell(report.metrics[m]) for m in metrics)
    difference, p = _difference(one, findings, metrics[0])
    return Row(
        one.name,
        words.KINDS[one.kind],
        _remarks(one, findings, found is not None),
        interval(
            score,
            scale,
            f"{metric_title(metrics[0])} {words.score_words(score)}",
            KIND_STYLES[one.kind],
            level,
        ),
        cells,
        difference,
        p,
        words.seconds(one.seconds),
        f"{report.n_train:,}",
        f"{report.n_train_patients:,}",
        f"{one.trained:,}",
    )


def _remarks(one: Contender, findings: Findings, compared: bool) -> tuple[str, ...]:
    said = []
    if one.name == findings.reference:
        said.append("reference")
    if one.report.leak:
        said.append("the split leaks")
    if one.report.split_fingerprint != findings.split_fingerprint:
        said.append("another split")
    return tuple(said)


def _difference(one: Contender, findings: Findings, metric: str) -> tuple[Cell, str]:
    found = findings.compared.get(one.name)
    if found is None:
        return (("reference" if one.name == findings.reference else words.UNKNOWN), ""), ""
    d = found.differences[metric]
    cell = words.value(d.value, sign=True), words.span(d.low, d.high, sign=True)
    return cell, p_value(found.p_holm[metric])


def _cell(score: Score) -> Cell:
    return words.value(score.value), words.span(score.low, score.high)


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """One contender less the reference, metric by metric with p; `tests` says who is right."""

    name: str
    cells: tuple[tuple[Cell, str], ...]
    tests: str


@dataclass(frozen=True, slots=True)
class Differences:
    """Every contender less the reference."""

    metrics: tuple[str, ...]
    rows: tuple[DifferenceRow, ...]


def differences(findings: Findings) -> Differences:
    """Set each contender against the reference on the same patients."""
    metrics, rows = metrics_of(findings), []
    for one in words.ranked(findings):
        found = findings.compared.get(one.name)
        if found is None:
            continue
        kept = [m for m in metrics if m in found.differences]
        cells = tuple(_difference(one, findings, m) for m in kept)
        only = found.discordance
        tests = f"{only.only_one} against {only.only_other}; McNemar {p_value(only.p)}"
        if found.areas:
            tests += f"; DeLong {p_value(found.areas.p)}"
        rows.append(DifferenceRow(one.name, cells, tests))
    return Differences(tuple(metric_title(m) for m in metrics), tuple(rows))


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts by truth (rows) and answer: each with its share of the row and its shade, 0 to 10."""

    name: str
    classes: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[tuple[int, str, int], ...]], ...]


def confusions(findings: Findings) -> list[Confusion]:
    """Return a matrix for each contender."""
    return [_confusion(one) for one in words.ranked(findings)]


def _confusion(one: Contender) -> Confusion:
    rows = []
    for name, counts in zip(one.report.classes, one.report.confusion, strict=True):
        total = sum(counts)
        shares = [n / total if total else 0.0 for n in counts]
        cells = tuple(
            (n, f"{share:.0%}" if total else words.UNKNOWN, round(10 * share))
            for n, share in zip(counts, shares, strict=True)
        )
        rows.append((name, total, cells))
    return Confusion(one.name, one.report.classes, tuple(rows))


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """What one choice of a protocol is worth; `difference` is empty for the corrected one."""

    name: str
    plot: Markup
    score: Cell
    difference: Cell | None
    paired: bool


@dataclass(frozen=True, slots=True)
class Choices:
    """The corrected protocol and what is changed in it."""

    metric: str
    ruler: Markup
    rows: tuple[ChoiceRow, ...]


def choices(findings: Findings) -> Choices | None:
    """Set each choice beside the corrected protocol; None where there are none."""
    if not findings.choices:
        return None
    scale = interval_scale([c.score for c in findings.choices])
    title, level = metric_title(findings.metric), findings.choices[0].score.value
    rows = tuple(_choice(c, scale, title, level) for c in findings.choices)
    return Choices(title, ruler(scale, f"{title}, {scale.low:.2f} to {scale.high:.2f}"), rows)


def _choice(one: Choice, scale: Scale, title: str, level: float) -> ChoiceRow:
    name = f"{one.name}, {title} {words.score_words(one.score)}"
    plot = interval(one.score, scale, name, KIND_STYLES["probe"], level)
    found = None
    if one.difference is not None:
        value, low, high = one.difference
        found = words.value(value, sign=True), words.span(low, high, sign=True)
    return ChoiceRow(one.name, plot, _cell(one.score), found, one.paired)


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One subgroup, or all; `column` is "" where it is that of the row above."""

    column: str
    value: str
    images: int
    patients: int
    few: bool
    cell: Cell
    plot: Markup


@dataclass(frozen=True, slots=True)
class Forest:
    """One contender's subgroups."""

    name: str
    unfolded: bool
    ruler: Markup
    rows: tuple[ForestRow, ...]


def forests(findings: Findings) -> list[Forest]:
    """Return the subgroups of each contender that has some, the best and the reference first."""
    metric = findings.metric
    with_some = [c for c in words.ranked(findings) if c.report.subgroups]
    first = [c.name for c in with_some[:1]] + [findings.reference]
    with_some.sort(key=lambda c: first.index(c.name) if c.name in first else len(first))
    scores = [
        s
        for c in with_some
        for s in (c.report.metrics[metric], *(g.metrics[metric] for g in c.report.subgroups))
    ]
    if not scores:
        return []
    scale = interval_scale(scores)
    axis = ruler(scale, f"{metric_title(metric)}, {scale.low:.2f} to {scale.high:.2f}")
    return [
        Forest(c.name, n < OPEN, axis, tuple(_forest_rows(c, metric, scale)))
        for n, c in enumerate(with_some)
    ]


def _forest_rows(one: Contender, metric: str, scale: Scale) -> Iterator[ForestRow]:
    report, above = one.report, ""
    whole = report.metrics[metric]
    lines: list[tuple[str, str, int, int, Mapping[str, Score]]] = [
        ("all", "", report.n_test, report.n_patients, report.metrics)
    ]
    lines += [(g.column, g.value, g.n_images, g.n_patients, g.metrics) for g in report.subgroups]
    for column, value, images, patients, metrics in lines:
        score, few = metrics[metric], patients < FEW_PATIENTS
        said = f"{column} {value}, {metric_title(metric)} {words.score_words(score)}"
        style = Style(3, plain=True) if column == "all" and not value else KIND_STYLES[one.kind]
        plot = interval(score, scale, said, style, whole.value, few)
        shown = column if column != above else ""
        yield ForestRow(shown, value, images, patients, few, _cell(score), plot)
        above = column
