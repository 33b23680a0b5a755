"""Printing what came of heads, and what sets them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from embedstore.cli_console import out, say
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.answered import Answered
    from embedstore.results import Report


def print_trials(
    reports: Sequence[Report],
    contenders: Mapping[str, Answered],
    metric: list[str] | None,
    groupings: Sequence[tuple[str, ...]],
    reference: str,
    seed: int,
) -> None:
    """Print the scores, then what sets contenders, subgroups and sides apart."""
    from embedstore.report.table import SHOWN, probe_table, sides_table, subgroup_table

    shown = shown_metrics(metric, SHOWN, reports, groupings)
    out.print(probe_table(reports, shown))
    _tell_differences(contenders, reference, reports[0].classes, seed, groupings, shown)
    if any(r.subgroups for r in reports):
        out.print(subgroup_table(reports, shown))
    for report in (r for r in reports if r.sides):
        out.print(sides_table(report))
    _tell(reports)


def shown_metrics(
    asked: list[str] | None,
    usual: Sequence[str],
    reports: Sequence[Report],
    groupings: Sequence[tuple[str, ...]],
) -> list[str]:
    """Return the metrics of the tables: those asked for, or the usual and a grouping's AUROC."""
    known = reports[0].metrics
    if unknown := [name for name in asked or [] if name not in known]:
        raise UsageError(f"--metric {unknown[0]}: there are {', '.join(known)}")
    joined = [f"{'+'.join(positive)}: auroc" for positive in groupings]
    return list(asked or [*usual, *joined])


def _tell_differences(
    contenders: Mapping[str, Answered],
    reference: str,
    classes: Sequence[str],
    seed: int,
    groupings: Sequence[tuple[str, ...]],
    shown: Sequence[str],
) -> None:
    """Compare the contenders with one of them; those not tested on its images are named."""
    from embedstore.report.table import difference_table
    from embedstore.scoring import comparable, compare

    ends = [name for name in contenders if name == reference or name.endswith(f"/{reference}")]
    if reference and len(ends) != 1:
        raise UsageError(f"--reference {reference}: give one of {', '.join(contenders)}")
    base = ends[0] if reference else next(iter(contenders))
    alike = {n: one for n, one in contenders.items() if comparable(one, contenders[base])}
    if len(alike) > 1:
        found = compare(alike, base, classes, seed, groupings)
        out.print(difference_table(found, base, shown))
    for name in contenders:
        if name not in alike:
            say(out, f"note: {name} is of other images than {base}: not compared")


def _tell(reports: Sequence[Report]) -> None:
    for note in dict.fromkeys(n for r in reports for n in r.notes):
        say(out, f"note: {note}")
