"""The charts of a study: intervals, ROC, reliability and learning curves, and a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan, sqrt

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from embedstore.report.svg import Scale, Style, around, path, picture, tag
from embedstore.results import Bin, Report, Score
from embedstore.types import Floats

INTERVAL = 160
"""Width of an interval plot, px."""

_WIDTH, _HEIGHT = 360, 330
_SMALL = 280, 256
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 44
_MAP = 720
_AIR = 6  # px at the ends of an interval plot
_MARKS = 5  # on a ROC curve

Line = tuple[str, Style | None, NDArray[np.float64]]
"""A name, how it is drawn, None for grey, and its points, (m, 2)."""


def interval_scale(scores: Sequence[Score]) -> Scale:
    """Return the scale of interval plots that stand below one another."""
    values = [v for s in scores for v in (s.value, s.low, s.high, s.floor) if not isnan(v)]
    return around(values or [0.0, 1.0], _AIR, INTERVAL - _AIR)


def interval(
    score: Score,
    scale: Scale,
    name: str,
    style: Style,
    reference: float = float("nan"),
    few: bool = False,
) -> Markup:
    """Draw a score and its interval over the floor (dashed) and the reference (dotted)."""
    inside: list[Markup] = []
    for value, kind in ((score.floor, "floor-line"), (reference, "reference-line")):
        if not isnan(value):
            inside.append(tag("path", d=path([(scale(value), 0), (scale(value), 24)]), class_=kind))
    if not isnan(score.value):
        if not isnan(score.low):
            ends = [(scale(score.low), 12.0), (scale(score.high), 12.0)]
            caps = "".join(f"{path([(x, 8), (x, 16)])}" for x, _ in ends)
            dash = "3 2" if few else None
            inside.append(
                tag(
                    "path",
                    d=path(ends) + caps,
                    class_=f"whisker {style.colour}",
                    stroke_dasharray=dash,
                )
            )
        mark = style.outline(4.5)
        place = f"translate({scale(score.value):.1f} 12)"
        kind = f"point {style.colour}{' few' if few else ''}"
        inside.append(tag("path", d=mark, transform=place, class_=kind))
    return picture(INTERVAL, 24, name, *inside, kind="interval")


def ruler(scale: Scale, name: str) -> Markup:
    """Draw the axis over interval plots."""
    inside = [tag("path", d=path([(scale.start, 20), (scale.end, 20)]), class_="axis")]
    for tick in scale.ticks(6):
        x = scale(tick)
        inside.append(tag("path", d=path([(x, 16), (x, 20)]), class_="axis"))
        inside.append(tag("text", f"{tick:g}", x=x, y=12, text_anchor="middle"))
    return picture(INTERVAL, 22, name, *inside, kind="ruler")


def roc_chart(lines: Sequence[Line], name: str) -> Markup:
    """Draw ROC curves, the grey ones below."""
    x, y = _unit_axes(_WIDTH, _HEIGHT)
    chance = tag("path", d=path([(x(0), y(0)), (x(1), y(1))]), class_="diagonal")
    inside = [_axes(x, y, "1 − specificity", "sensitivity", x.ticks(6), y.ticks(6)), chance]
    marked = [line for line in lines if line[1]]
    for number, (of, style, points) in enumerate([*(i for i in lines if not i[1]), *marked]):
        places = [(x(a), y(b)) for a, b in points.tolist()]
        if style is None:
            inside.append(tag("path", tag("title", of), d=path(places), class_="roc other"))
            continue
        drawn = tag(
            "path",
            tag("title", of),
            d=path(places),
            class_=f"roc line {style.colour}",
            stroke_dasharray=style.dash,
        )
        inside += [drawn, *_along(places, style, number / len(lines))]
    return picture(_WIDTH, _HEIGHT, name, *inside, kind="chart")


def reliability_chart(bins: Sequence[Bin], name: str) -> Markup:
    """Draw how often answers of each confidence are right, over how many there are of each."""
    width, height = _SMALL
    x, y = _unit_axes(width, height)
    most = max((b.n for b in bins), default=1)
    ideal = tag("path", d=path([(x(0), y(0)), (x(1), y(1))]), class_="diagonal")
    inside = [_axes(x, y, "confidence", "share right", x.ticks(6), y.ticks(6))]
    for b in bins:
        left = min(int(b.confidence * 10), 9) / 10
        tall = 40 * b.n / most
        inside.append(
            tag(
                "rect",
                x=x(left) + 1,
                y=y(0) - tall,
                width=x(0.1) - x(0) - 2,
                height=tall,
                class_="bar",
            )
        )
    places = [(x(b.confidence), y(b.accuracy)) for b in bins]
    inside += [ideal, tag("path", d=path(places), class_="line ink")] if places else [ideal]
    for b, (px, py) in zip(bins, places, strict=True):
        said = f"confidence {b.confidence:.3f}, right {b.accuracy:.3f}, {b.n} answers"
        inside.append(
            tag(
                "circle",
                tag("title", said),
                cx=px,
                cy=py,
                r=2.5 + 4.5 * sqrt(b.n / most),
                class_="ball",
            )
        )
    return picture(width, height, name, *inside, kind="chart")


def learning_chart(
    curves: Sequence[tuple[str, Style, Sequence[Report], float | None]],
    metric: str,
    title: str,
    target: Score | None,
    name: str,
) -> Markup:
    """Draw scores over the labels learnt from, and where each reaches the `target`."""
    numbers = [float(max(r.n_train, 1)) for _, _, reports, _ in curves for r in reports]
    reached = [p for _, _, _, p in curves if p is not None and target]
    scores = [r.metrics[metric] for _, _, reports, _ in curves for r in reports]
    known = [v for s in [*scores, *([target] if target else [])] for v in (s.low, s.high, s.value)]
    width, height = 560, 350
    x = Scale(min(numbers) / 1.15, max(numbers + reached) * 1.15, _LEFT, width - _RIGHT, log=True)
    y = around([v for v in known if not isnan(v)] or [0.0, 1.0], height - _BOTTOM, _TOP)
    ticks = _apart(sorted(set(numbers)), x, 34)
    inside = [_axes(x, y, "images learnt from (logarithmic)", title, ticks, y.ticks(7), "{:,.0f}")]
    if target:
        level = y(target.value)
        inside.append(tag("path", d=path([(x.start, level), (x.end, level)]), class_="target"))
    for number, (of, style, reports, parity) in enumerate(curves):
        shift = 2.5 * (number - (len(curves) - 1) / 2)  # so that whiskers stay apart
        inside.append(_learnt(of, style, reports, metric, x, y, shift))
        if target and parity is not None:
            inside.append(_parity(of, style, x(parity), y(target.value), y.start, parity, number))
    return picture(width, height, name, *inside, kind="chart wide")


def map_chart(places: Floats, numbers: Sequence[int], styles: Sequence[Style], name: str) -> Markup:
    """Draw (n, 2) points in 0..1, point i in the style of number i."""
    inside = [tag("rect", x=0.5, y=0.5, width=_MAP - 1, height=_MAP - 1, class_="border")]
    scale = Scale(0, 1, 14, _MAP - 14)
    for (px, py), number in zip(map_places(places), numbers, strict=True):
        inside.append(styles[number].mark(scale(px), scale(py), 4.2))
    inside.append(tag("circle", cx=-99, cy=-99, r=10, class_="ring"))
    return picture(_MAP, _MAP, name, *inside, kind="scatter")


def map_places(places: Floats) -> list[tuple[float, float]]:
    """Turn the places so that up is up: SVG counts from the top."""
    return [(float(x), 1 - float(y)) for x, y in places.tolist()]


def map_units(places: Floats) -> list[tuple[float, float]]:
    """Return where `map_chart` draws them, in the units of its drawing."""
    scale = Scale(0, 1, 14, _MAP - 14)
    return [(scale(x), scale(y)) for x, y in map_places(places)]


def _unit_axes(width: int, height: int) -> tuple[Scale, Scale]:
    return Scale(0, 1, _LEFT, width - _RIGHT), Scale(0, 1, height - _BOTTOM, _TOP)


def _axes(
    x: Scale,
    y: Scale,
    x_title: str,
    y_title: str,
    xs: Sequence[float],
    ys: Sequence[float],
    x_format: str = "{:g}",
) -> Markup:
    inside = []
    for value in ys:
        inside.append(tag("path", d=path([(x.start, y(value)), (x.end, y(value))]), class_="grid"))
        inside.append(tag("text", _number(value), x=x.start - 6, y=y(value) + 4, text_anchor="end"))
    for value in xs:
        inside.append(
            tag("path", d=path([(x(value), y.start), (x(value), y.start + 4)]), class_="axis")
        )
        at = {"x": x(value), "y": y.start + 17, "text_anchor": "middle"}
        inside.append(tag("text", x_format.format(value), **at))
    edges = [(x.start, y.end), (x.start, y.start), (x.end, y.start)]
    middle, centre = (x.start + x.end) / 2, (y.start + y.end) / 2
    inside += [
        tag("path", d=path(edges), class_="axis"),
        tag("text", x_title, x=middle, y=y.start + 36, text_anchor="middle", class_="title"),
        tag(
            "text",
            y_title,
            transform=f"translate(12 {centre:.1f}) rotate(-90)",
            text_anchor="middle",
            class_="title",
        ),
    ]
    return tag("g", *inside)


def _along(places: Sequence[tuple[float, float]], style: Style, shift: float) -> list[Markup]:
    """Put some marks on a line, at other places than on another line's."""
    xy = np.array(places)
    far = np.r_[0, np.cumsum(np.hypot(*np.diff(xy, axis=0).T))]
    at = far[-1] * (np.arange(_MARKS) + 0.25 + 0.5 * shift) / _MARKS
    marks = zip(np.interp(at, far, xy[:, 0]), np.interp(at, far, xy[:, 1]), strict=True)
    return [style.mark(float(x), float(y), 3.6) for x, y in marks]


def _learnt(
    of: str,
    style: Style,
    reports: Sequence[Report],
    metric: str,
    x: Scale,
    y: Scale,
    shift: float,
) -> Markup:
    inside, places = [tag("title", of)], []
    for report in reports:
        score = report.metrics[metric]
        at = x(max(report.n_train, 1)) + shift
        if isnan(score.value):
            continue
        places.append((at, y(score.value)))
        if not isnan(score.low):
            ends = path([(at, y(score.low)), (at, y(score.high))])
            inside.append(tag("path", d=ends, class_=f"whisker {style.colour}"))
    line = [style.line(places)] if places else []
    return tag("g", *inside, *line, *(style.mark(a, b, 4.5) for a, b in places))


def _parity(
    of: str, style: Style, at: float, level: float, bottom: float, parity: float, number: int
) -> Markup:
    text = {"x": at + 5, "y": bottom - 8 - 14 * (number % 8), "class_": "parity-text"}
    if at > 460:
        text |= {"x": at - 5, "text_anchor": "end"}
    return tag(
        "g",
        tag("title", f"{of}: parity at {parity:,.0f} labels"),
        tag("path", d=path([(at, level), (at, bottom)]), class_=f"parity {style.colour}"),
        tag("circle", cx=at, cy=level, r=7, class_=f"parity {style.colour}"),
        tag("text", f"{parity:,.0f}", **text),
    )


def _apart(values: Sequence[float], scale: Callable[[float], float], least: float) -> list[float]:
    kept: list[float] = []
    for value in values:
        if not kept or scale(value) - scale(kept[-1]) >= least:
            kept.append(value)
    return kept


def _number(value: float) -> str:
    return f"{value:.10g}".replace("-", "−")
