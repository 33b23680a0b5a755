"""A contact sheet: what a recipe does to films, a row each, for checking by eye.

Data in, a picture out; nothing here reads files or runs a recipe.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from embedstore.types import Pixels

PANEL = (280, 448)
"""Width and height that an original and a crop are fitted into, pixels."""

SEEN = 448
"""Pixels a side within which what the model sees is magnified, by a whole factor."""

MARK = "embedstore view"
"""What a sheet's PNG names as its software, so that nothing but a sheet is ever replaced."""

_TEXT, _TITLE = 15, 18  # px
_LINE, _GAP, _AIR = 20, 20, 6  # px: a line of text, between panels, between a panel and its text
_GROUND, _INK, _RIM, _WARNING = (44, 44, 44), (238, 238, 238), (120, 120, 120), (255, 170, 110)
_BRIGHT, _DARK = (255, 214, 0), (0, 0, 0)
_DASH, _STROKE = 6, 2  # px

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a row, (h, w) or (h, w, 3) uint8 at the size it is shown, and its caption."""

    pixels: Pixels
    caption: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """The three pictures of one film; `box` is what is kept of the first.

    Left, top, right and bottom, in shares of its width and height.
    """

    original: Panel
    crop: Panel
    seen: Panel
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Unread:
    """A file of which there is nothing to show, and why."""

    name: str
    reason: str


def fitted(pixels: Pixels) -> Pixels:
    """Bring (h, w) or (h, w, 3) pixels to the size of a panel: shrunk, or magnified whole times."""
    width, height = PANEL
    ratio = min(width / pixels.shape[1], height / pixels.shape[0])
    if ratio >= 1:
        return magnified(pixels, int(ratio))
    size = max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio))
    planes = [pixels] if pixels.ndim == 2 else [pixels[..., c] for c in range(pixels.shape[2])]
    # in float32: Pillow does not resize 16 bits; bilinear, which does not overshoot at edges
    small = [
        np.asarray(Image.fromarray(p.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        for p in planes
    ]
    result: Pixels = np.rint(small[0] if pixels.ndim == 2 else np.stack(small, axis=-1)).astype(
        pixels.dtype
    )
    return result


def magnified(pixels: Pixels, times: int) -> Pixels:
    """Repeat every pixel, so that each stays what it is."""
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def magnification(height: int, width: int) -> int:
    """How many times what the model sees is magnified; at least once, whatever its size."""
    return max(1, SEEN // max(height, width))


def shown(pixels: Pixels, low: float, high: float) -> Pixels:
    """Put low..high on 0..255 for the screen; what lies outside is clipped."""
    share = (pixels.astype(np.float64) - low) / max(high - low, 1)
    levels: Pixels = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return levels


def outlined(pixels: Pixels, box: tuple[float, float, float, float]) -> Pixels:
    """Draw a box, in shares of width and height, as dashes of yellow and black just inside it."""
    height, width = pixels.shape[:2]
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    colour = np.broadcast_to(planes, (height, width, 3)).astype(np.uint8)
    left, top, right, bottom = (
        round(share * n) for share, n in zip(box, (width, height) * 2, strict=True)
    )
    y, x = np.mgrid[:height, :width]
    depth = np.minimum.reduce([x - left, right - 1 - x, y - top, bottom - 1 - y])
    edge = (depth >= 0) & (depth < _STROKE)
    dark = (x + y) // _DASH % 2 == 1
    colour[edge & ~dark], colour[edge & dark] = _BRIGHT, _DARK
    return colour


def sheet(
    rows: Sequence[Row | Unread], size: tuple[int, int], heading: Sequence[str]
) -> Image.Image:
    """Draw the sheet.

    Parameters
    ----------
    rows
        A film each, or why there is none.
    size
        Height and width of what the model sees, pixels.
    heading
        Lines above the titles of the columns.

    Returns
    -------
    Image
        RGB; about 1000 pixels wide unless what the model sees needs more.
    """
    times = magnification(*size)
    widths = (*[PANEL[0]] * 2, max(SEEN, size[1] * times))
    pen = _Pen(widths)
    pen.banner(heading, _TITLE, _INK)
    pen.rule()
    titles = zip(_titles(size), widths, strict=True)
    pen.columns([_wrapped([title], width, _TEXT) for title, width in titles], _TEXT)
    for row in rows:
        pen.rule()
        if isinstance(row, Unread):
            pen.banner([_plain(row.name)], _TEXT, _INK)
            pen.banner([f"cannot be shown: {row.reason}"], _TEXT, _WARNING)
        else:
            _draw(pen, row, times, widths)
    return pen.finished()


def png(picture: Image.Image) -> bytes:
    """Encode a sheet; the file says what made it, and nothing else."""
    marked, out = PngImagePlugin.PngInfo(), io.BytesIO()
    marked.add_text("Software", MARK)
    picture.save(out, "PNG", pnginfo=marked)
    return out.getvalue()


def is_sheet(start: bytes) -> bool:
    """Tell a sheet by the first bytes (256 or more) of its file."""
    return start.startswith(b"\x89PNG") and b"Software\0" + MARK.encode() in start


def _titles(size: tuple[int, int]) -> tuple[str, str, str]:
    times = magnification(*size)
    larger = f", magnified {times} times" if times > 1 else ""
    return (
        "The film as decoded; dashed: what is kept",
        "What is kept",
        f"What the model sees: {size[1]} x {size[0]} pixels{larger}",
    )


def _draw(pen: _Pen, row: Row, times: int, widths: Sequence[int]) -> None:
    first = outlined(row.original.pixels, row.box)
    captions = (row.original.caption, row.crop.caption, row.seen.caption)
    pen.columns(
        [_wrapped(c, w, _TEXT) for c, w in zip(captions, widths, strict=True)],
        _TEXT,
        [first, row.crop.pixels, magnified(row.seen.pixels, times)],
    )


class _Pen:
    """Puts things below one another, and draws them at the end, when the height is known."""

    def __init__(self, widths: Sequence[int]) -> None:
        self._lefts = [_GAP + sum(widths[:n]) + n * _GAP for n in range(len(widths))]
        self._width = self._lefts[-1] + widths[-1] + _GAP
        self._y = _GAP
        self._texts: list[tuple[int, int, str, int, tuple[int, int, int]]] = []
        self._pictures: list[tuple[int, int, Pixels]] = []
        self._rules: list[int] = []

    def banner(self, lines: Sequence[str], size: int, ink: tuple[int, int, int]) -> None:
        """Write over the whole width."""
        for line in _wrapped(lines, self._width - 2 * _GAP, size):
            self._texts.append((_GAP, self._y, line, size, ink))
            self._y += _LINE * size // _TEXT

    def columns(
        self, columns: Sequence[Sequence[str]], size: int, pictures: Sequence[Pixels] = ()
    ) -> None:
        """Write lines that fit, a column each, under a picture each where there are some."""
        step, ends = _LINE * size // _TEXT, []
        for n, (left, lines) in enumerate(zip(self._lefts, columns, strict=True)):
            y = self._y
            if pictures:
                self._pictures.append((left, y, pictures[n]))
                y += pictures[n].shape[0] + _AIR
            self._texts += [(left, y + k * step, line, size, _INK) for k, line in enumerate(lines)]
            ends.append(y + step * len(lines))
        self._y = max(ends)

    def rule(self) -> None:
        """Draw a line between rows."""
        self._rules.append(self._y + _GAP // 2)
        self._y += _GAP + 1

    def finished(self) -> Image.Image:
        """Draw it all."""
        whole = Image.new("RGB", (self._width, self._y + _GAP), _GROUND)
        draw = ImageDraw.Draw(whole)
        for y in self._rules:
            draw.line((_GAP, y, self._width - _GAP, y), _RIM)
        for x, y, text, size, ink in self._texts:
            draw.text((x, y), text, ink, _font(size))
        for x, y, pixels in self._pictures:
            height, width = pixels.shape[:2]
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_RIM)
            whole.paste(Image.fromarray(np.ascontiguousarray(pixels)), (x, y))
        return whole


def _font(size: int) -> _Font:
    return ImageFont.load_default(size=size)


def _plain(text: str) -> str:
    """Replace what cannot be drawn in a line: line ends, and bytes that are no text."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _wrapped(lines: Sequence[str], width: int, size: int) -> list[str]:
    """Break lines at spaces so that they fit, and words that are too long anywhere."""
    font, done = _font(size), list[str]()
    for text in map(_plain, lines):
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            done += [line] if line else []
            line = word
            while font.getlength(line) > width:
                end = _fits(line, width, font)
                done.append(line[:end])
                line = line[end:]
        done.append(line)
    return done


def _fits(text: str, width: int, font: _Font) -> int:
    """How many characters of a text that is too long fit, at least one."""
    return next(n for n in range(len(text), 0, -1) if n == 1 or font.getlength(text[:n]) <= width)
