"""One image file to the pictures that some recipes make of it; what a reader process does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from embedstore.images.decode import ImageFile, read
from embedstore.images.mammogram import WORKING_SIDE
from embedstore.images.recipe import Framed, cut_away, frame, picture, shrinkage
from embedstore.types import Pixels, Recipe

LEAST_SHRINKAGE = 1.25
"""A file is decoded at a lower resolution only as far as what is kept of it still shrinks by this.

Where the breast is a small part of the picture, a finer resolution is taken: what is decoded
depends on the file and the recipe alone.
"""


_FIRST_SHRINKAGE = 2.0  # of the whole image, to begin with: most breasts then need no finer one


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the recipes made it: a picture each, and what share of the breast each cut away.

    Pictures are (H, W) or (H, W, 3), uint8 or uint16; `digest` is half of the file's sha256, `stat`
    its size in bytes and the time it was last changed, in ns, when it was read.
    """

    digest: bytes
    pictures: tuple[Pixels, ...]
    cut: tuple[float, ...]
    stat: tuple[int, int] = (0, 0)


def prepare(path: Path, frame_number: int, recipes: Sequence[Recipe]) -> Prepared:
    """Read a file once and prepare one of its frames for every recipe.

    Raises
    ------
    ImageError
        The file cannot be used, saying why and at which stage.
    """
    stat = stat_of(path)
    digest, image = _opened(path, stat)
    decoded: dict[tuple[int, int], Pixels] = {}
    framed = [fit(image, frame_number, recipe, decoded)[1] for recipe in recipes]
    pictures = tuple(picture(r, f) for r, f in zip(recipes, framed, strict=True))
    cut = tuple(cut_away(r, f) for r, f in zip(recipes, framed, strict=True))
    return Prepared(digest, pictures, cut, stat or (0, 0))


def stat_of(path: Path) -> tuple[int, int] | None:
    """Return a file's size in bytes and the time it was last changed, in ns; None without it."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


# the frames of one file come one after the other
_opened = lru_cache(maxsize=1)(lambda path, _changed: read(path))


def fit(
    image: ImageFile, number: int, recipe: Recipe, decoded: dict[tuple[int, int], Pixels]
) -> tuple[Pixels, Framed]:
    """Decode and frame at the lowest resolution that does: the pixels, and what is kept of them.

    `decoded` keeps pixels for other recipes, by window and halvings.
    """
    halvings = 0 if recipe.exact else _halvings(recipe, image.shape)
    while True:
        key = recipe.window, halvings
        if key not in decoded:
            decoded[key] = image.pixels(number, recipe.window, halvings)
        framed = frame(recipe, decoded[key], image.laterality)
        more = math.ceil(math.log2(LEAST_SHRINKAGE / shrinkage(recipe, framed.shape)))
        if halvings == 0 or more <= 0:
            return decoded[key], framed
        halvings = max(0, halvings - more)


def _halvings(recipe: Recipe, shape: tuple[int, int]) -> int:
    """How often to halve an image of (h, w) at first; the breast must still be found."""
    times = min(shrinkage(recipe, shape) / _FIRST_SHRINKAGE, max(shape) / WORKING_SIDE)
    return max(0, math.floor(math.log2(times)))
