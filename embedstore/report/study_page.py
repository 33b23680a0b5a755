"""The page of a study: one HTML file that needs no other and no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from embedstore.audit.findings import Audit, Finding, Level
from embedstore.metrics import metric_title
from embedstore.report import study_figures as figures
from embedstore.report import study_ledger as tables
from embedstore.report import study_words as words
from embedstore.report.pages import page_file, template
from embedstore.report.study_map import shown_maps
from embedstore.study.findings import Findings, Tournament, Wording
from embedstore.subgroups import FEW_PATIENTS

MARK = "<!-- embedstore study -->"
"""What a page begins with, so that nothing but an earlier page is ever replaced."""

_LEVELS: dict[Level, str] = {"wrong": "✗", "look at": "!", "fine": "✓"}
_EVIDENCE = 5
_LONG = 16  # letters, above which a part of a name may break within


def html(findings: Findings) -> str:
    """Render the page; everything from the store is escaped.

    The page holds one small script, allowed by its hash, which shows the thumbnail of a point of
    the map; without it all else is there.
    """
    maps, sheet = shown_maps(findings.maps, findings.classes)
    text = template("study.html").render(
        mark=MARK,
        findings=findings,
        style=page_file("study.css"),
        script=page_file("study.js"),
        breakable=_breakable,
        summary=words.summary(findings),
        title=metric_title,
        ledger=tables.ledger(findings) if findings.contenders else None,
        differences=tables.differences(findings),
        choices=tables.choices(findings),
        confusions=tables.confusions(findings),
        roc_panels=figures.roc_panels(findings),
        seeds=max((len(c.answered.runs) for c in findings.contenders), default=0),
        reliabilities=figures.reliabilities(findings),
        learning=figures.learning(findings),
        tournaments=[_Tournament.of(t, tables.metrics_of(findings)) for t in findings.tournaments],
        forests=tables.forests(findings),
        forest_metric=metric_title(findings.metric),
        few=FEW_PATIENTS,
        audits=[_Audited.of(a) for a in findings.audits],
        maps=maps,
        sheet=sheet,
    )
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class _Line:
    """One wording."""

    name: str
    cells: tuple[tables.Cell, ...]
    commonest: str
    collapsed: bool


@dataclass(frozen=True, slots=True)
class _Tournament:
    """A tournament's tables; `metrics` are the titles of the cells."""

    heading: str
    variants: int
    optimism: str
    metrics: tuple[str, ...]
    best: tuple[_Line, ...]
    collapsed: tuple[_Line, ...]
    n_collapsed: int

    @classmethod
    def of(cls, found: Tournament, metrics: Sequence[str]) -> _Tournament:
        known = dict.fromkeys(m for w in (*found.best, *found.collapsed) for m in w.metrics)
        names = [m for m in metrics if m in known]

        def lines(wordings: Sequence[Wording]) -> tuple[_Line, ...]:
            return tuple(
                _Line(
                    w.name, tuple(_cell(w.metrics.get(m)) for m in names), w.commonest, w.collapsed
                )
                for w in wordings
            )

        return cls(
            f"{found.backbone}, {found.set}",
            found.variants,
            "" if found.optimism is None else words.value(found.optimism, sign=True),
            tuple(metric_title(m) for m in names),
            lines(found.best),
            lines(found.collapsed),
            max(found.n_collapsed, len(found.collapsed)),
        )


def _cell(values: tuple[float, float, float] | None) -> tables.Cell:
    if values is None:
        return words.UNKNOWN, ""
    return words.value(values[0]), words.span(*values[1:])


@dataclass(frozen=True, slots=True)
class _Found:
    """One finding: its sign, level, section and text, and the first lines of its table."""

    sign: str
    level: Level
    section: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int

    @classmethod
    def of(cls, section: str, one: Finding) -> _Found:
        lines = one.evidence if one.level != "fine" else ()
        columns = tuple(lines[0]) if lines else ()
        rows = tuple(tuple(str(line.get(c, "")) for c in columns) for line in lines[:_EVIDENCE])
        more = len(lines) - len(rows)
        return cls(_LEVELS[one.level], one.level, section, one.text, columns, rows, more)


@dataclass(frozen=True, slots=True)
class _Audited:
    """An audit, the worst of its findings first, those that are fine apart."""

    heading: str
    about: str
    verdict: str
    found: tuple[_Found, ...]
    fine: tuple[_Found, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, audit: Audit) -> _Audited:
        every = [_Found.of(s.title, f) for s in audit.sections for f in s.findings]
        every.sort(key=lambda f: list(_LEVELS).index(f.level))
        number = {level: sum(f.level == level for f in every) for level in _LEVELS}
        return cls(
            audit.spec.backbone,
            f"{audit.n_images:,} images of {audit.n_patients:,} patients, label {audit.label}, "
            f"{f'split {audit.split}' if audit.split else 'no split given'}",
            f"{number['wrong']} wrong, {number['look at']} to look at, {number['fine']} fine",
            tuple(f for f in every if f.level != "fine"),
            tuple(f for f in every if f.level == "fine"),
            audit.notes,
        )


def _breakable(name: str) -> Markup:
    """Let a name break where it is joined, and keep its direction from what is around it."""
    parts = [
        piece
        for part in re.split(r"(?<=[/ ])", name)
        for piece in (re.split(r"(?<=[_@])", part) if len(part) > _LONG else [part])
    ]
    return Markup("<bdi>{}</bdi>").format(Markup("<wbr>").join(parts))
