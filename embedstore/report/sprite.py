"""Many small pictures as one: a sprite sheet in a ``data:`` address."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedstore.types import Pixels

_SIZES = ((72, 80), (56, 75), (40, 70), (28, 60))  # px and JPEG quality, the best first
_MOST = 4_500_000  # bytes: with 4/3 for base64 it leaves room in a page of 10 MB


@dataclass(frozen=True, slots=True)
class Sprite:
    """The sheet: square cells of `side` px in `columns`; `cells` says where each picture is."""

    uri: str
    side: int
    columns: int
    rows: int
    cells: tuple[int, ...]


def sprite(pictures: Sequence[Pixels]) -> Sprite | None:
    """Lay grey pictures out in cells, equal ones once; None where there are none.

    They are made smaller until the sheet has less than 4.5 MB.
    """
    if not pictures:
        return None
    place: dict[tuple[tuple[int, ...], bytes], int] = {}
    cells = tuple(place.setdefault((p.shape, p.tobytes()), len(place)) for p in pictures)
    first = {cell: p for cell, p in zip(reversed(cells), reversed(pictures), strict=True)}
    distinct = [first[n] for n in range(len(place))]
    columns = ceil(sqrt(len(distinct)))
    rows = ceil(len(distinct) / columns)
    largest = max(max(p.shape[:2]) for p in distinct)
    for most, quality in _SIZES:
        side = min(most, largest)
        data = _jpeg(distinct, side, columns, rows, quality)
        if len(data) <= _MOST:
            break
    uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return Sprite(uri, side, columns, rows, cells)


def _jpeg(pictures: Sequence[Pixels], side: int, columns: int, rows: int, quality: int) -> bytes:
    sheet = Image.new("L", (columns * side, rows * side))
    for n, pixels in enumerate(pictures):
        small = Image.fromarray(_eight_bit(pixels)).convert("L")
        small.thumbnail((side, side), Image.Resampling.BILINEAR)
        left, top = (side - small.width) // 2, (side - small.height) // 2
        sheet.paste(small, (n % columns * side + left, n // columns * side + top))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def _eight_bit(pixels: Pixels) -> NDArray[np.uint8]:
    deep = pixels.dtype == np.uint16
    return np.ascontiguousarray(pixels >> 8 if deep else pixels).astype(np.uint8)
