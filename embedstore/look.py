"""What a recipe does to one film, step by step, with what there is to say of each step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from embedstore.errors import ImageError
from embedstore.images import anatomy
from embedstore.images.anatomy import Finding
from embedstore.images.decode import read
from embedstore.images.dicom_tags import Tags, tags
from embedstore.images.mammogram import find
from embedstore.images.prepare import fit
from embedstore.images.recipe import Framed, cut_away, frame, picture
from embedstore.report.sheet import Panel, Row, fitted, shown
from embedstore.types import Pixels, Recipe


def look(path: Path, number: int, recipe: Recipe) -> Row:
    """Do to one film what the recipe does and keep the steps; what a reader process is for here.

    Raises
    ------
    ImageError
        The file cannot be used.
    """
    _, image = read(path)
    pixels, framed = fit(image, number, recipe, {})
    upright = frame(replace(recipe, flip="none"), pixels, image.laterality)
    found = find(_grey(pixels))
    turned = found.inverted and recipe.polarity == "auto"
    original, crop = _on_screen(recipe, pixels, framed, turned)
    seen = picture(recipe, framed)
    height, width = pixels.shape[:2]
    left, top, right, bottom = upright.box
    film = _film_caption(path, number, image.shape, pixels, found)
    return Row(
        Panel(original, film),
        Panel(crop, _crop_caption(recipe, image.shape, upright, framed, found)),
        Panel(shown(seen, 0, 2 ** (8 * seen.itemsize) - 1), _seen_caption(recipe, framed)),
        (left / width, top / height, right / width, bottom / height),
    )


def _on_screen(
    recipe: Recipe, pixels: Pixels, framed: Framed, turned: bool
) -> tuple[Pixels, Pixels]:
    """Original and crop at the size of their panels, both with the grey levels of the recipe."""
    original, crop = fitted(pixels), fitted(framed.kept())
    if pixels.dtype.itemsize == 1:
        return original, crop
    low, high = 0, 65535
    if recipe.scale != "dtype":
        low, high = int(framed.pixels.min()), int(framed.kept().max())
    if recipe.scale == "resized":
        high = min(high, int(picture(replace(recipe, scale="dtype"), framed).max()))
    crop = shown(crop, low, high)
    if turned:
        low, high = int(pixels.max()) - high, int(pixels.max()) - low
    return shown(original, low, high), crop


def _film_caption(
    path: Path, number: int, shape: tuple[int, int], pixels: Pixels, found: Finding
) -> tuple[str, ...]:
    said = _tags(path)
    bits = said.bits_stored or 8 * pixels.dtype.itemsize
    depth = f"{bits} bit colour" if pixels.ndim == 3 else f"{bits} bit"
    facts = [f"{shape[1]} x {shape[0]} pixels, {depth}"]
    if said.frames > 1:
        facts.append(f"frame {number} of 0 to {said.frames - 1}")
    if (part := round(max(shape) / max(pixels.shape[:2]))) > 1:
        facts.append(f"read at 1/{part} of its size")
    return (path.name, *facts, _side_and_view(said, found))


def _tags(path: Path) -> Tags:
    """Tags of a DICOM file; of anything else, or where they cannot be read, none."""
    try:
        return tags(path)
    except ImageError:
        return Tags()


def _side_and_view(known: Tags, found: Finding) -> str:
    """Say laterality and view, each from the tags or else from the picture."""
    said = [text for text in (known.laterality, known.view) if text]
    side = "" if known.laterality else anatomy.laterality(found)
    way = "" if known.view else anatomy.view(found)
    seen = " ".join(filter(None, (side, way)))
    parts = [f"{' '.join(said)} by the tags"] if said else []
    parts += [f"{seen} from the picture"] if seen else []
    return ", ".join(parts) or "side and view not known"


def _crop_caption(
    recipe: Recipe, shape: tuple[int, int], upright: Framed, framed: Framed, found: Finding
) -> tuple[str, ...]:
    """Say what was done to a film of (h, w) pixels, `upright` being it before it was flipped."""
    whole = framed.pixels.shape[:2]
    height, width = (
        round(n * kept / all_) for n, kept, all_ in zip(shape, framed.shape, whole, strict=True)
    )
    lines = ["not cut" if (height, width) == shape else f"cut to {width} x {height} pixels"]
    if found.whole and recipe.crop == "breast":
        lines.append("no breast stands out")
    if found.inverted and recipe.polarity == "auto":
        lines.append("turned: the background was bright")
    if not np.array_equal(upright.pixels, framed.pixels):
        lines.append(f"mirrored: chest wall to the {recipe.flip}")
    return tuple(lines)


def _seen_caption(recipe: Recipe, framed: Framed) -> tuple[str, ...]:

    cut = cut_away(recipe, framed)
    return (f"the centre crop cuts {100 * cut:.1f} % of the breast away",) if cut > 0 else ()


def _grey(pixels: Pixels) -> Pixels:

    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))
