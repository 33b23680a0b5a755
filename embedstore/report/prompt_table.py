"""Prompt variants as tables: the ranking, what choosing is worth, and what words do."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from rich.markup import escape
from rich.table import Table

from embedstore.metrics import TITLES
from embedstore.metrics.compare import p_value
from embedstore.prompt_bench import Bench, Contest
from embedstore.results import Score
from embedstore.tournament import Against, Honest, Pick, Result, Standing

SHOWN = ("auroc", "macro_f1", "quadratic_kappa")
"""Metrics of the ranking unless others are asked for; the first is ranked by."""

_EFFECTS = 24


def ranking(found: Bench, result: Result, metrics: Sequence[str] = SHOWN) -> Table:
    """One row a variant, each score over its 95 % interval, and the floor in the last row."""
    contest, (images, patients) = found.contest, found.contest.tested
    how, lines = contest.asked.how, result.table
    table = Table(
        title=f"{escape(contest.asked.label)}: {len(contest.names):,} prompt variants, "
        f"{escape(contest.spec.backbone)}, class priors {priors_title(result)}\n"
        f"{contest.split}, {images} {how.level}s of {patients} patients",
        caption=_caption(found, result),
        show_lines=True,
    )
    table.add_column("variant", overflow="fold", min_width=12)
    for name in metrics:
        table.add_column(escape(TITLES.get(name, name)), justify="right", no_wrap=True)
    for title in ("commonest answer", "to best", "to baseline"):
        table.add_column(title, no_wrap=title[:2] == "to", overflow="fold")
    for one in lines:
        name = short(contest, one.variant) + "\n(baseline)" * (one.variant == found.baseline)
        cells = [_cell(one.metrics[m]) for m in metrics]
        more = (_leaning(contest, one), _difference(one.best), _difference(one.baseline))
        table.add_row(escape(name), *cells, *map(escape, more))
    floors = [f"{lines[0].metrics[m].floor:.3f}" for m in metrics]
    table.add_row("floor", *floors, "", "", "")
    return table


def legend(found: Bench) -> list[str]:
    """Return the names of the variants that the tables call by what is before the colon."""
    contest = found.contest
    lines = {one.variant: None for result in found.results[0] for one in result.table}
    return [contest.names[v] for v in lines if short(contest, v) != contest.names[v]]


def short(contest: Contest, variant: int) -> str:
    """Name a variant by what is before the colon, where no other is called so."""
    stem = contest.names[variant].partition(": ")[0]
    alike = sum(name.partition(": ")[0] == stem for name in contest.names)
    return stem if alike == 1 else contest.names[variant]


def priors_title(result: Result) -> str:
    """Say what was done about class priors."""
    return "corrected without test labels" if result.correct else "as they are"


def _caption(found: Bench, result: Result) -> str:
    contest, said = found.contest, ""
    if contest.leak:
        said = f"THE SPLIT LEAKS: {escape(contest.leak)}\n"
    return (
        f"{said}split {contest.split_fingerprint}; logit scale {contest.logit_scale:.4g}, "
        f"{contest.scale_of}\n"
        f"ranked by {TITLES.get(found.by, found.by)}; below each score its 95 % interval from "
        f"resampling patients; p of the differences corrected for their number (Holm)\n"
        f"the first was chosen by these very scores: what it is worth stands below; floor: the "
        f"best that answering without looking gets"
    )


def _cell(score: Score) -> str:
    if isnan(score.value):
        return "–"
    return f"{score.value:.3f}\n{score.low:.2f} to {score.high:.2f}"


def _leaning(contest: Contest, one: Standing) -> str:
    lean = one.leaning
    said = f"{contest.classes[lean.commonest]} {lean.share:.0%}"
    if lean.collapsed:
        said += "\nCOLLAPSED"
    if lean.never:
        said += f"\nnever {', '.join(contest.classes[c] for c in lean.never)}"
    return said


def _difference(one: Against | None) -> str:
    if one is None:
        return "–"
    d = one.difference
    if isnan(d.value):
        return "–"
    return f"{d.value:+.3f}\n{d.low:+.2f} to {d.high:+.2f}\n{p_value(one.p)}"


def winners(found: Bench) -> Table:
    """One row for each way to choose: its score where chosen, and where not."""
    by = TITLES.get(found.by, found.by)
    table = Table(
        title=f"what choosing is worth: {by} of what was chosen",
        caption="chosen on one side of the patient split (of folds, on the other folds) and scored "
        "on the other; optimism: by how much the first looks better",
        show_lines=True,
    )
    for title in ("choice", "priors", "where chosen", "where not chosen", "optimism"):
        table.add_column(title, no_wrap=title not in {"choice", "priors"})
    table.add_column("chosen", overflow="fold", ratio=1)
    for number, of_seed in enumerate(found.results):
        for result in of_seed:
            for choice, one in _choices(result):
                if one is None:
                    continue
                seed = f"\nseed {found.contest.asked.how.seed + number}"
                table.add_row(
                    choice + (seed if len(found.results) > 1 else ""),
                    "corrected" if result.correct else "as they are",
                    f"{one.chosen:.3f}",
                    _cell(one.metrics[found.by]),
                    f"{one.optimism:+.3f}",
                    escape(_said(found.contest, one)),
                )
    return table


def _choices(result: Result) -> list[tuple[str, Honest | None]]:
    return [
        ("best variant", result.best),
        ("greedy ensemble", result.ensemble),
        ("class by class", result.per_class),
    ]


def _said(contest: Contest, one: Honest, most: int = 2) -> str:
    """Say what was chosen most often."""
    picks = {pick.wording: pick for pick in one.picks}
    listed = [(_named(contest, picks[w]), share) for w, share in one.frequency.items()]
    if len(one.picks) == 1:
        return listed[0][0]
    named = [f"{name} ({share:.0%} of folds)" for name, share in listed[:most]]
    left = len(listed) - most
    more = f"; {left} other{'s' if left > 1 else ''}" if left > 0 else ""
    return "; ".join(named) + more


def _named(contest: Contest, pick: Pick) -> str:
    if pick.variant is not None:
        return contest.names[pick.variant]
    sizes = sorted({len(own) for own in pick.wording})
    several = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    return f"{several} sentence{'s' if sizes[-1] > 1 else ''} a class"


def wording_table(found: Bench) -> Table:
    """One row for each choice for a part of a prompt: what it does to the score and answers."""
    contest = found.contest
    by = TITLES.get(found.by, found.by)
    table = Table(
        title="what words do",
        caption=f"{by} and share of each answer, less the mean over all choices for the part with "
        f"all else alike; class priors as they are",
    )
    table.add_column("part", overflow="fold")
    table.add_column("choice", overflow="fold", ratio=1)
    table.add_column(escape(by), justify="right", no_wrap=True)
    for name in contest.classes:
        table.add_column(escape(name), justify="right")
    table.add_column("of", justify="right")
    part = ""
    for one in found.effects[:_EFFECTS]:
        if one.part != part:
            table.add_section()
        shown, part = (one.part if one.part != part else ""), one.part
        moved = [f"{100 * a:+.0f} %" for a in one.answers]
        choice = one.choice or "(nothing)"
        cells = (f"{one.change:+.3f}", *moved, str(one.comparisons))
        table.add_row(escape(shown), escape(choice), *cells)
    return table


def wording_left(found: Bench) -> int:
    """Count the effects that the table leaves out."""
    return max(0, len(found.effects) - _EFFECTS)
