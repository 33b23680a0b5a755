"""The page of an audit: what was found, worst first within a section, with the first examples."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from embedstore.audit.findings import Audit, Evidence, Finding, Level

MARK = "<!-- embedstore audit -->"
"""What an HTML page begins with, so that nothing but an earlier page is ever replaced."""

_SHOWN = 5
_STYLES: dict[Level, str] = {"wrong": "bold red", "look at": "yellow", "fine": "green"}
_WIDTH = 120
_MARGIN = 8


def page(found: Audit) -> RenderableType:
    """Everything found of one backbone."""
    parts: list[RenderableType] = [Text(_heading(found), style="bold")]
    for section in found.sections:
        parts.append(Rule(escape(section.title), align="left", style="dim"))
        for level in _STYLES:
            for finding in (f for f in section.findings if f.level == level):
                parts += _finding(finding)
    parts.append(Rule(style="dim"))
    parts += [Text(f"note: {note}") for note in found.notes]
    parts.append(_verdict(found))
    return Group(*parts)


def html(audits: Sequence[Audit]) -> str:
    """One page that needs nothing else."""
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, force_terminal=True)
    for found in audits:
        console.print(page(found))
    return f"{MARK}\n{console.export_html(inline_styles=True)}"


def _heading(found: Audit) -> str:
    split = f"split: {found.split}" if found.split else "no split given"
    return (
        f"{found.store}, {found.spec.backbone} ({found.spec.key}), {found.label}: "
        f"{found.n_images} images of {found.n_patients} patients; {split}"
    )


def _finding(finding: Finding) -> list[RenderableType]:
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(width=_MARGIN - 1)
    line.add_column(overflow="fold")
    line.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(finding.text))
    out: list[RenderableType] = [line]
    if finding.evidence and finding.level != "fine":
        out.append(Padding(_table(finding.evidence), (0, 0, 0, _MARGIN)))
    return out


def _table(evidence: Sequence[Evidence]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in evidence[0]:
        table.add_column(escape(column), overflow="fold")
    for one in evidence[:_SHOWN]:
        table.add_row(*(escape(str(value)) for value in one.values()))
    if len(evidence) > _SHOWN:
        table.add_row(f"… {len(evidence) - _SHOWN} more: --json", *[""] * (len(evidence[0]) - 1))
    return table


def _verdict(found: Audit) -> Text:
    wrong, look = len(found.of("wrong")), len(found.of("look at"))
    said = f"{wrong} wrong, {look} to look at, {found.seconds:.0f} s"
    return Text(said, style=_STYLES["wrong" if wrong else "look at" if look else "fine"])
