"""The recipe at work: pixels to the array a backbone takes.

Named recipes are starting points; a backbone fills in its own size, mean and std.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedstore.errors import UsageError
from embedstore.images import mammogram
from embedstore.types import Floats, Pixels, Recipe, Resize

RECIPES = {
    "mammography": Recipe(),
    "plain": Recipe(
        name="plain",
        exact=True,
        polarity="keep",
        crop="none",
        flip="none",
        scale="auto",
        colour="rgb",
        resize="centre-crop",
    ),
    # arXiv 2506.13964 as its code does it: squashed, scaled to 0..1, never normalised
    "molina2025": Recipe(
        name="molina2025",
        exact=True,
        polarity="keep",
        crop="none",
        flip="none",
        scale="auto",
        colour="rgb",
        resize="squash",
    ),
}
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def named(name: str) -> Recipe:
    """Return the recipe of that name; `UsageError` lists the known ones."""
    if name not in RECIPES:
        raise UsageError(f"no recipe called {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def fit_to_model(
    recipe: Recipe,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    interpolation: str = "bicubic",
    resize: Resize | None = None,
    scale_size: int = 0,
) -> Recipe:
    """Complete a recipe with what the model was trained with.

    `resize` and `scale_size` are the model's own way of resizing; only "plain" takes them, the
    others exist to do it differently. "molina2025" leaves mean and std alone, as the study did.
    """
    how: Literal["bicubic", "bilinear"] = "bilinear" if interpolation == "bilinear" else "bicubic"
    recipe = replace(recipe, size=size, interpolation=how)
    # "molina2025+pad" is molina2025 with another resize
    if recipe.name.partition("+")[0] != "molina2025":
        recipe = replace(recipe, mean=mean, std=std)
    if recipe.name == "plain" and resize:
        recipe = replace(recipe, resize=resize, scale_size=scale_size)
    return recipe


def apply(recipe: Recipe, pixels: Pixels) -> Floats:
    """Run the recipe on decoded pixels: `tensors` of the `picture` of the `frame`.

    Parameters
    ----------
    recipe
        Complete, with the model's size, mean and std.
    pixels
        (h, w) or (h, w, 3), uint8 or uint16.

    Returns
    -------
    ndarray
        (c, H, W) float32, C-contiguous, c the length of `recipe.mean`.
    """
    tensor: Floats = tensors(recipe, [picture(recipe, frame(recipe, pixels))])[0]
    return tensor


def tensors(recipe: Recipe, pictures: Sequence[Pixels]) -> Floats:
    """Normalise pictures: n of (H, W) or (H, W, 3) to (n, c, H, W) float32, C-contiguous."""
    mean = np.asarray(recipe.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(recipe.std, dtype=np.float32)[:, None, None]
    out = np.empty((len(pictures), len(recipe.mean), *recipe.size), dtype=np.float32)
    for tensor, levels in zip(out, pictures, strict=True):
        unit = levels.astype(np.float32) / np.float32(np.iinfo(levels.dtype).max)
        channels = unit[None] if unit.ndim == 2 else unit.transpose(2, 0, 1)
        np.divide(channels - mean, std, out=tensor)
    return out


def frame(recipe: Recipe, pixels: Pixels, laterality: str = "") -> Pixels:
    """Polarity, crop and flip: the part of the picture a model will see, at full resolution.

    `laterality`, "L" or "R" as the tags say, tells the chest wall's side (left breast, left side)
    where the picture does not: where no breast stands out.
    """
    if recipe.colour == "grey" and pixels.ndim == 3:
        pixels = _luminance(pixels)
    if recipe.polarity == "keep" and recipe.crop == "none" and recipe.flip == "none":
        return pixels
    grey = _luminance(pixels) if pixels.ndim == 3 else pixels
    if recipe.polarity == "auto":
        found = mammogram.find(grey)
        mask = found.mask
        pixels = _turn(pixels) if found.inverted else pixels
    else:
        mask = mammogram.breast_mask(grey)
    wall = {"L": "left", "R": "right"}.get(laterality) if mask.all() else None
    if recipe.crop == "breast":
        box = mammogram.bounding_box(mask)
        pixels = np.where(_like(mask[box], pixels), pixels[box], _black(recipe, pixels))
        mask = mask[box]
    if recipe.flip != "none" and (wall or mammogram.chest_wall(mask)) != recipe.flip:
        pixels = pixels[:, ::-1]
    return pixels


def shrinkage(recipe: Recipe, shape: tuple[int, ...]) -> float:
    """How often a framed picture of (h, w, …) goes into what the recipe makes of it."""
    inner = _inner(recipe, *shape[:2])
    return min(have / want for have, want in zip(shape, inner, strict=False))


def cut_away(recipe: Recipe, framed: Pixels) -> float:
    """Share of the breast, 0 to 1, that a centre crop leaves out of a framed picture."""
    if recipe.resize != "centre-crop":
        return 0.0
    mask = mammogram.breast_mask(_luminance(framed) if framed.ndim == 3 else framed)
    ends = []
    for have, scaled, kept in zip(
        mask.shape, _inner(recipe, *mask.shape), recipe.size, strict=True
    ):
        first = _offset(scaled, kept) * have / scaled
        ends.append(slice(round(first), round(first + kept * have / scaled)))
    return 1 - float(mask[ends[0], ends[1]].sum() / mask.sum())


def picture(recipe: Recipe, framed: Pixels) -> Pixels:
    """Resize a framed picture, at its own depth, to what `tensors` takes.

    (h, w) or (h, w, 3) uint8 or uint16 to (H, W) or (H, W, 3) of the same type, its full range
    used as `Recipe.scale` says. These are the pixels a store can keep.
    """
    inner = _inner(recipe, *framed.shape[:2])
    small = _scaled(recipe, framed, inner)
    return _pad(small, recipe) if recipe.resize == "pad" else _centre_crop(small, recipe.size)


def _luminance(pixels: Pixels) -> Pixels:
    grey: Pixels = np.rint(pixels.astype(np.float32) @ _LUMA).astype(pixels.dtype)
    return grey


def _turn(pixels: Pixels) -> Pixels:
    # from the brightest pixel, not the type's largest: the background must come out black whether
    # a 12-bit film was inverted within 12 or within 16 bits
    turned: Pixels = pixels.max() - pixels
    return turned


def _black(recipe: Recipe, pixels: Pixels) -> np.uint8 | np.uint16:
    """Return the grey level that `_scaled` makes 0."""
    stretched = recipe.scale != "dtype" and pixels.dtype == np.uint16
    return pixels.dtype.type(pixels.min() if stretched else 0)


def _like(mask: NDArray[np.bool_], pixels: Pixels) -> NDArray[np.bool_]:
    return mask if pixels.ndim == 2 else mask[..., None]


def _inner(recipe: Recipe, h: int, w: int) -> tuple[int, int]:
    """Return the size an (h, w) picture is scaled to, before it is padded or cut."""
    height, width = recipe.size
    if recipe.resize == "pad":
        ratio = min(height / h, width / w)
        return max(1, min(height, round(h * ratio))), max(1, min(width, round(w * ratio)))
    short = recipe.scale_size or min(recipe.size)
    tall, wide = (side * short // min(recipe.size) for side in recipe.size)
    if recipe.resize == "squash":
        return tall, wide
    if tall == wide:  # torchvision's Resize(int)
        return (short, int(short * w / h)) if h <= w else (int(short * h / w), short)
    ratio = min(h / tall, w / wide)  # ResizeKeepRatio of timm and open_clip
    return round(h / ratio), round(w / ratio)


def _scaled(recipe: Recipe, pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize with antialiasing: 8 bit in 8 bit (as open_clip and timm do), deeper in float32."""
    how = _FILTERS[recipe.interpolation]
    if pixels.dtype == np.uint8:
        whole = Image.fromarray(np.ascontiguousarray(pixels))
        resized: Pixels = np.asarray(whole.resize(size[::-1], how))
        return resized
    deep = pixels.astype(np.float32)
    planes = [deep] if deep.ndim == 2 else [deep[..., c] for c in range(deep.shape[2])]
    small_planes = [np.asarray(Image.fromarray(p).resize(size[::-1], how)) for p in planes]
    small = small_planes[0] if deep.ndim == 2 else np.stack(small_planes, axis=-1)
    low, high = np.float32(0), np.float32(65535)
    if recipe.scale != "dtype":
        low, high = np.float32(pixels.min()), np.float32(pixels.max())
    if recipe.scale == "resized":
        high = min(high, small.max())  # bicubic overshoots at an edge
    high = max(high, low + 1)
    unit = np.clip((small - low) / (high - low), 0, 1)
    levels: Pixels = np.rint(unit * 65535).astype(np.uint16)
    return levels


def _pad(image: Pixels, recipe: Recipe) -> Pixels:
    """Add zeros above and below, and on the side away from the chest wall (else on both)."""
    height, width = recipe.size
    rest = width - image.shape[1]
    before = {"left": 0, "right": rest, "none": rest // 2}[recipe.flip]
    top = (height - image.shape[0]) // 2
    edges = [(top, height - image.shape[0] - top), (before, rest - before)]
    edges += [(0, 0)] * (image.ndim - 2)
    padded: Pixels = np.pad(image, edges)  # type: ignore[assignment]
    return padded


def _centre_crop(image: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = (_offset(have, want) for have, want in zip(image.shape[:2], size, strict=True))
    if min(top, left) < 0:
        raise ValueError(f"a crop of {size} does not fit in {image.shape[:2]}")
    return image[top : top + size[0], left : left + size[1]]


def _offset(have: int, want: int) -> int:
    return round((have - want) / 2)  # torchvision's CenterCrop rounds too
