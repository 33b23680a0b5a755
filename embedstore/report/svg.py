"""Inline SVG: escaped tags, scales, marks of different shapes, lines of different dashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, floor, isclose, log10, pi, sin

from markupsafe import Markup, escape

COLOURS = 8
"""Classes ``c0`` to ``c7`` of the style sheet, told apart by most colour-blind eyes."""

_DASHES = ("", "7 3", "2 2", "9 3 2 3", "14 4", "4 2 1 2", "1 3", "10 2 2 2 2 2")
_LINES = (
    "solid",
    "dashed",
    "dotted",
    "dash-dotted",
    "long-dashed",
    "short-dash-dotted",
    "wide-dotted",
    "dash-dot-dotted",
)
_SHAPES = (
    "circles",
    "squares",
    "triangles",
    "diamonds",
    "pluses",
    "downward triangles",
    "crosses",
    "stars",
)


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Write an element; texts and values are escaped, ``stroke_width`` is ``stroke-width``."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{told}>{Markup('').join(map(_inside, children))}</{name}>")


def picture(width: int, height: int, name: str, *inside: object, kind: str) -> Markup:
    """Write a whole drawing with its name for those who do not see it."""
    return tag(
        "svg",
        *inside,
        role="img",
        aria_label=name,
        class_=kind,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places: `low` to `start`, `high` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value stands; values beyond the ends are put on them."""
        low, high, value = (
            (log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Return at most so many round values of a linear scale."""
        step = _round_step((self.high - self.low) / most)
        while True:
            first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
            if last - first < most:
                return [n * step for n in range(first, last + 1)]
            step = _round_step(step * 1.01)


def around(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a linear scale that holds the values with some air, not beyond -1 to 1."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.05
    floor_, ceiling = min(low, -1.0 if low < 0 else 0.0), max(high, 1.0)
    return Scale(max(floor_, low - air), min(ceiling, high + air), start, end)


@dataclass(frozen=True, slots=True)
class Style:
    """How the n-th of several is drawn: no two of 64 share colour, shape and dash.

    With `plain` it has the colour of the text.
    """

    number: int
    plain: bool = False

    @property
    def colour(self) -> str:
        """The class that colours it."""
        return "ink" if self.plain else f"c{self.number % COLOURS}"

    @property
    def dash(self) -> str | None:
        """The ``stroke-dasharray``."""
        return _DASHES[self._other] or None

    @property
    def line_words(self) -> str:
        """The key of a line in words."""
        return f"{_LINES[self._other]} line, {self.shape_words}"

    @property
    def shape_words(self) -> str:
        """The key of a mark in words."""
        return _SHAPES[self._other]

    @property
    def _other(self) -> int:
        return (self.number + self.number // COLOURS) % len(_SHAPES)

    def outline(self, r: float) -> str:
        """Return the path of the mark around 0, 0."""
        return _outline(self._other, r)

    def mark(self, x: float, y: float, r: float) -> Markup:
        """Draw the mark."""
        place = f"translate({_plain(x)} {_plain(y)})"
        return tag("path", d=self.outline(r), transform=place, class_=f"mark {self.colour}")

    def line(self, points: Sequence[tuple[float, float]]) -> Markup:
        """Draw a line through points."""
        return tag("path", d=path(points), class_=f"line {self.colour}", stroke_dasharray=self.dash)

    def line_key(self) -> Markup:
        """Draw what a legend shows of a line with marks."""
        inside = (self.line([(2, 8), (42, 8)]), self.mark(22, 8, 4.5))
        return picture(44, 16, self.line_words, *inside, kind="key")

    def mark_key(self) -> Markup:
        """Draw what a legend shows of a mark."""
        return picture(16, 16, self.shape_words, self.mark(8, 8, 5), kind="key")


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return path data through points, to a tenth of a unit, repeated ones left out."""
    rounded = [f"{x:.1f} {y:.1f}" for x, y in points]
    kept = [p for n, p in enumerate(rounded) if n == 0 or p != rounded[n - 1]]
    return "M" + "L".join(kept)


def _outline(shape: int, r: float) -> str:
    if shape == 0:
        return (
            f"M{-r:.2f} 0a{r:.2f} {r:.2f} 0 1 0 {2 * r:.2f} 0a{r:.2f} {r:.2f} 0 1 0 {-2 * r:.2f} 0z"
        )
    plus = [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3)]
    plus += [(-x, -y) for x, y in plus]
    turned = [((x - y) * 0.78, (x + y) * 0.78) for x, y in plus]
    star = [
        (
            (1.2 if n % 2 == 0 else 0.5) * sin(n * pi / 5),
            (-1.2 if n % 2 == 0 else -0.5) * cos(n * pi / 5),
        )
        for n in range(10)
    ]
    corners = (
        [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        [(0, -1.15), (1.05, 0.8), (-1.05, 0.8)],
        [(0, -1.25), (1.05, 0), (0, 1.25), (-1.05, 0)],
        [(1.1 * x, 1.1 * y) for x, y in plus],
        [(0, 1.15), (1.05, -0.8), (-1.05, -0.8)],
        turned,
        star,
    )[shape - 1]
    return "M" + "L".join(f"{r * x:.2f} {r * y:.2f}" for x, y in corners) + "z"


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, … that is not below."""
    power = 10.0 ** floor(log10(least))
    return next(s * power for s in (1, 2, 5, 10) if s * power > least or isclose(s * power, least))


def _plain(value: object) -> str:
    if isinstance(value, float):
        text = f"{value:.2f}".rstrip("0").rstrip(".")
        return "0" if text == "-0" else text
    return str(value)


def _inside(child: object) -> str:
    return child if isinstance(child, Markup) else _plain(child)
