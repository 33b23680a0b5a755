"""Maps of embeddings for a study's page: points, and for each its name and its thumbnail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from embedstore.report.charts import map_chart, map_units
from embedstore.report.sprite import Sprite, sprite
from embedstore.report.svg import Style
from embedstore.study.findings import Map
from embedstore.types import Pixels

POINTS = 2000
"""At most so many of a map are drawn."""

_SEED = 0


@dataclass(frozen=True, slots=True)
class Point:
    """One image: where it is drawn, and its cell of the sprite sheet, None without a picture."""

    id: str
    x: str
    y: str
    cell: int | None


@dataclass(frozen=True, slots=True)
class Shown:
    """One map; `groups` are a label's key, its name and its points."""

    backbone: str
    how: str
    of: int
    drawn: int
    chart: Markup
    groups: tuple[tuple[Markup, str, tuple[Point, ...]], ...]


def shown_maps(maps: Sequence[Map], classes: Sequence[str]) -> tuple[list[Shown], Sprite | None]:
    """Draw each map; also return the sheet with the thumbnails of all."""
    kept = [_rows(len(one.ids)) for one in maps]
    pictures, starts = list[Pixels](), list[int]()
    for one, rows in zip(maps, kept, strict=True):
        starts.append(len(pictures))
        pictures += [one.pictures[i] for i in rows] if one.pictures else []
    sheet = sprite(pictures)
    cells = sheet.cells if sheet else ()
    shown = []
    for one, rows, start in zip(maps, kept, starts, strict=True):
        own = cells[start : start + len(rows)] if one.pictures else None
        shown.append(_shown(one, rows, own, classes))
    return shown, sheet


def _rows(n: int) -> list[int]:
    """Choose which points to draw, and shuffle them so that no label covers the others."""
    order = np.random.default_rng(_SEED).permutation(n)
    return [int(i) for i in order[:POINTS]]


def _shown(
    one: Map, rows: Sequence[int], cells: Sequence[int] | None, classes: Sequence[str]
) -> Shown:
    labels = [str(one.labels[i]) for i in rows]
    names = [c for c in classes if c in set(labels)]
    names += sorted(set(labels) - set(names))
    styles = [Style(n) for n in range(len(names))]
    number = {name: n for n, name in enumerate(names)}
    places = one.places[rows]
    units = map_units(places)
    points: dict[str, list[Point]] = {name: [] for name in names}
    for n, (row, label) in enumerate(zip(rows, labels, strict=True)):
        x, y = units[n]
        cell = cells[n] if cells is not None else None
        points[label].append(Point(str(one.ids[row]), f"{x:.1f}", f"{y:.1f}", cell))
    said = f"Map of {len(rows)} images by {one.backbone}; the same images are listed beside it"
    groups = tuple(
        (styles[number[name]].mark_key(), name or "(unknown)", _sorted(points[name]))
        for name in names
    )
    chart = map_chart(places, [number[label] for label in labels], styles, said)
    return Shown(one.backbone, one.how, len(one.ids), len(rows), chart, groups)


def _sorted(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda p: p.id))
