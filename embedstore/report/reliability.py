"""Reliability diagrams: how often answers of each confidence are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embedstore.errors import UsageError
from embedstore.output import put, refuse
from embedstore.results import Report

FORMATS = (".png", ".svg", ".pdf")


def refuse_diagram(file: Path, force: bool) -> None:
    """Raise `UsageError` where `draw_reliability` would not write, before the work."""
    if file.suffix not in FORMATS:
        raise UsageError(f"{file}: give a name that ends in {', '.join(FORMATS)}")
    refuse(file, force, ())


def draw_reliability(reports: Sequence[Report], file: Path, force: bool = False) -> None:
    """Draw a panel for each report (DeGroot and Fienberg 1983); the size of a point is its images.

    `file` ends in one of `FORMATS`; one that is there is replaced only with `force`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(reports), 3.6), layout="constrained")
    panels = figure.subplots(1, len(reports), squeeze=False)[0]
    for panel, report in zip(panels, reports, strict=True):
        panel.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        bins = report.reliability
        most = max(b.n for b in bins)
        xs, ys = [b.confidence for b in bins], [b.accuracy for b in bins]
        panel.plot(xs, ys, color="black", linewidth=1)
        panel.scatter(xs, ys, s=[20 + 120 * b.n / most for b in bins], color="black")
        ece = report.metrics["ece"]
        panel.set(
            title=f"{report.spec.backbone}, {report.probe}",
            xlabel=f"confidence (ECE {ece.value:.3f}, {ece.low:.2f} to {ece.high:.2f})",
            ylabel="share of right answers",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
    with put(file, force) as fresh:
        figure.savefig(fresh, format=file.suffix[1:], dpi=150)
