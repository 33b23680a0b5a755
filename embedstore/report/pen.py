"""The pen that contact sheets are drawn with: texts, pictures and rules below one another."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from embedstore.types import Pixels

TEXT, TITLE = 15, 18  # px
INK, WARNING = (238, 238, 238), (255, 170, 110)

_LINE, _GAP, _AIR = 20, 20, 6  # px: a line of text, between panels, between a panel and its text
_GROUND, _RIM = (44, 44, 44), (120, 120, 120)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def magnified(pixels: Pixels, times: int) -> Pixels:
    """Repeat every pixel, so that each stays what it is."""
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def png(picture: Image.Image, mark: str) -> bytes:
    """Encode a sheet; the file says what made it, and nothing else."""
    marked, out = PngImagePlugin.PngInfo(), io.BytesIO()
    marked.add_text("Software", mark)
    picture.save(out, "PNG", pnginfo=marked)
    return out.getvalue()


def is_png_of(start: bytes, mark: str) -> bool:
    """Tell what `png` wrote by the first bytes (256 or more) of its file."""
    return start.startswith(b"\x89PNG") and b"Software\0" + mark.encode() in start


class Pen:
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
        for line in wrapped(lines, self._width - 2 * _GAP, size):
            self._texts.append((_GAP, self._y, line, size, ink))
            self._y += _LINE * size // TEXT

    def columns(
        self, columns: Sequence[Sequence[str]], size: int, pictures: Sequence[Pixels | None] = ()
    ) -> None:
        """Write lines that fit, a column each, under a picture each where there are some."""
        step, ends = _LINE * size // TEXT, []
        for n, (left, lines) in enumerate(zip(self._lefts, columns, strict=True)):
            y = self._y
            picture = pictures[n] if pictures else None
            if picture is not None:
                self._pictures.append((left, y, picture))
                y += picture.shape[0] + _AIR
            self._texts += [(left, y + k * step, line, size, INK) for k, line in enumerate(lines)]
            ends.append(y + step * len(lines))
        self._y = max(ends)

    def rule(self) -> None:
        """Draw a line between rows."""
        self._rules.append(self._y + _GAP // 2)
        self._y += _GAP + 1

    def space(self) -> None:
        """Leave some room."""
        self._y += _GAP // 2

    def finished(self) -> Image.Image:
        """Draw it all."""
        whole = Image.new("RGB", (self._width, self._y + _GAP), _GROUND)
        draw = ImageDraw.Draw(whole)
        for y in self._rules:
            draw.line((_GAP, y, self._width - _GAP, y), _RIM)
        for x, y, text, size, ink in self._texts:
            draw.text((x, y), text, ink, font(size))
        for x, y, pixels in self._pictures:
            height, width = pixels.shape[:2]
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_RIM)
            whole.paste(Image.fromarray(np.ascontiguousarray(pixels)), (x, y))
        return whole


def font(size: int) -> _Font:
    """Return the face of that size, in pixels."""
    return ImageFont.load_default(size=size)


def plain(text: str) -> str:
    """Replace what cannot be drawn in a line: line ends, and bytes that are no text."""
    return "".join(c if c.isprintable() else "?" for c in text)


def wrapped(lines: Sequence[str], width: int, size: int) -> list[str]:
    """Break lines at spaces so that they fit, and words that are too long anywhere."""
    face, done = font(size), list[str]()
    for text in map(plain, lines):
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}" if line else word
            if face.getlength(longer) <= width:
                line = longer
                continue
            done += [line] if line else []
            line = word
            while face.getlength(line) > width:
                end = _fits(line, width, face)
                done.append(line[:end])
                line = line[end:]
        done.append(line)
    return done


def _fits(text: str, width: int, font: _Font) -> int:
    """How many characters of a text that is too long fit, at least one."""
    return next(n for n in range(len(text), 0, -1) if n == 1 or font.getlength(text[:n]) <= width)
