"""A contact sheet: what a recipe does to films, a row each, for checking by eye.

Data in, a picture out; nothing here reads files or runs a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from embedstore.report import pen as drawn
from embedstore.report.pen import INK, TEXT, TITLE, WARNING, Pen, magnified, plain, wrapped
from embedstore.types import Pixels

PANEL = (280, 448)
"""Width and height that an original and a crop are fitted into, pixels."""

SEEN = 448
"""Pixels a side within which what the model sees is magnified, by a whole factor."""

MARK = "embedstore view"
"""What a sheet's PNG names as its software, so that nothing but a sheet is ever replaced."""

_BRIGHT, _DARK = (255, 214, 0), (0, 0, 0)
_DASH, _STROKE = 6, 2  # px


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
    pen = Pen(widths)
    pen.banner(heading, TITLE, INK)
    pen.rule()
    titles = zip(_titles(size), widths, strict=True)
    pen.columns([wrapped([title], width, TEXT) for title, width in titles], TEXT)
    for row in rows:
        pen.rule()
        if isinstance(row, Unread):
            pen.banner([plain(row.name)], TEXT, INK)
            pen.banner([f"cannot be shown: {row.reason}"], TEXT, WARNING)
        else:
            _draw(pen, row, times, widths)
    return pen.finished()


def png(picture: Image.Image) -> bytes:
    """Encode a sheet; the file says what made it, and nothing else."""
    return drawn.png(picture, MARK)


def is_sheet(start: bytes) -> bool:
    """Tell a sheet by the first bytes (256 or more) of its file."""
    return drawn.is_png_of(start, MARK)


def _titles(size: tuple[int, int]) -> tuple[str, str, str]:
    times = magnification(*size)
    larger = f", magnified {times} times" if times > 1 else ""
    return (
        "The film as decoded; dashed: what is kept",
        "What is kept",
        f"What the model sees: {size[1]} x {size[0]} pixels{larger}",
    )


def _draw(pen: Pen, row: Row, times: int, widths: Sequence[int]) -> None:
    first = outlined(row.original.pixels, row.box)
    captions = (row.original.caption, row.crop.caption, row.seen.caption)
    pen.columns(
        [wrapped(c, w, TEXT) for c, w in zip(captions, widths, strict=True)],
        TEXT,
        [first, row.crop.pixels, magnified(row.seen.pixels, times)],
    )
