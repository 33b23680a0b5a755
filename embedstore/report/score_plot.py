"""Scores as a picture: each contender with its interval, over the floor; or learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.metrics import metric_title
from embedstore.output import put
from embedstore.results import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = "osD^vP*X"


def draw_scores(
    reports: Sequence[Report], metrics: Sequence[str], file: Path, force: bool = False
) -> None:
    """Draw a panel for each metric: scores, 95 % intervals from resampling patients, the floor.

    Reports that learnt from parts of the labels become curves over the images learnt from. `file`
    ends in one of `reliability.FORMATS`; one that is there is replaced only with `force`.
    """
    from matplotlib.figure import Figure

    curves = any(r.few for r in reports)
    height = 3.6 if curves else 1.4 + 0.34 * len(reports)
    figure = Figure(figsize=(1.6 + 2.9 * len(metrics), height), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=not curves)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        (_curves if curves else _intervals)(panel, reports, metric)
    if curves:
        panels[0].legend(fontsize=7)
    first = reports[0]
    figure.suptitle(
        f"{_plain(first.label)}: {first.split}, {first.n_patients} patients tested; dashed: floor",
        fontsize=9,
    )
    with put(file, force) as fresh:
        figure.savefig(fresh, format=file.suffix[1:], dpi=150)


def _intervals(panel: Axes, reports: Sequence[Report], metric: str) -> None:
    for place, report in enumerate(reports):
        score = report.metrics[metric]
        panel.hlines(place, score.low, score.high, color="black", linewidth=1)
        panel.plot(score.value, place, "o", color="black", markersize=5)
    panel.axvline(reports[0].metrics[metric].floor, color="grey", linestyle="--", linewidth=1)
    panel.set_yticks(range(len(reports)), [_name(r) for r in reports])
    panel.tick_params(axis="y", labelsize=8)
    panel.set(xlabel=_plain(metric_title(metric)), ylim=(len(reports) - 0.5, -0.5))


def _curves(panel: Axes, reports: Sequence[Report], metric: str) -> None:
    """One line a contender, each with a mark of its own, so that colour is not needed."""
    for number, name in enumerate(dict.fromkeys(map(_name, reports))):
        own = sorted((r for r in reports if _name(r) == name), key=lambda r: r.n_train)
        scores = [r.metrics[metric] for r in own]
        spread = [
            [s.value - s.low for s in scores],
            [s.high - s.value for s in scores],
        ]
        panel.errorbar(
            [r.n_train * (1 + 0.02 * number) for r in own],  # so that intervals stand side by side
            [s.value for s in scores],
            spread,
            label=name,
            marker=_MARKS[number % len(_MARKS)],
            markersize=5,
            linewidth=1,
            capsize=2,
        )
    panel.axhline(reports[0].metrics[metric].floor, color="grey", linestyle="--", linewidth=1)
    panel.set(xscale="log", xlabel="images learnt from", ylabel=_plain(metric_title(metric)))
    learnt = sorted({r.n_train for r in reports})
    panel.set_xticks(learnt, list(map(str, learnt)))
    panel.minorticks_off()


def _name(report: Report) -> str:
    return _plain(f"{report.spec.backbone}, {report.probe}")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar would begin mathematics
