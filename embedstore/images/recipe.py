"""The recipe at work: pixels to the array a backbone takes.

Named recipes are starting points; a backbone fills in its own size, mean and std.
"""

from __future__ import annotations

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
        name="plain", polarity="keep", crop="none", flip="none", colour="rgb", resize="centre-crop"
    ),
    # arXiv 2506.13964 as its code does it: squashed, scaled to 0..1, never normalised
    "molina2025": Recipe(
        name="molina2025", polarity="keep", crop="none", flip="none", colour="rgb", resize="squash"
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
    """Run the recipe.

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
    framed = frame(recipe, pixels)
    resized = _resize(recipe, framed)
    channels = resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)
    mean = np.asarray(recipe.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(recipe.std, dtype=np.float32)[:, None, None]
    out: Floats = np.ascontiguousarray((channels - mean) / std, dtype=np.float32)
    return out


def frame(recipe: Recipe, pixels: Pixels) -> Pixels:
    """Polarity, crop and flip: the part of the picture a model will see, at full resolution."""
    if recipe.colour == "grey" and pixels.ndim == 3:
        pixels = _luminance(pixels)
    grey = _luminance(pixels) if pixels.ndim == 3 else pixels
    if recipe.polarity == "auto" and mammogram.is_inverted(grey):
        grey, pixels = _turn(grey), _turn(pixels)
    if recipe.crop == "none" and recipe.flip == "none":
        return pixels
    mask = mammogram.breast_mask(grey)
    if recipe.crop == "breast":
        box = mammogram.bounding_box(mask)
        pixels = np.where(_like(mask[box], pixels), pixels[box], _black(recipe, pixels))
        mask = mask[box]
    if recipe.flip != "none" and mammogram.chest_wall(mask) != recipe.flip:
        pixels = pixels[:, ::-1]
    return pixels


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
    stretched = recipe.scale == "auto" and pixels.dtype == np.uint16
    return pixels.dtype.type(pixels.min() if stretched else 0)


def _like(mask: NDArray[np.bool_], pixels: Pixels) -> NDArray[np.bool_]:
    return mask if pixels.ndim == 2 else mask[..., None]


def _resize(recipe: Recipe, pixels: Pixels) -> Floats:
    """(h, w[, 3]) pixels to (H, W[, 3]) float32 in 0..1."""
    height, width = recipe.size
    h, w = pixels.shape[:2]
    if recipe.resize == "pad":
        ratio = min(height / h, width / w)
        inner = max(1, min(height, round(h * ratio))), max(1, min(width, round(w * ratio)))
        return _pad(_scaled(recipe, pixels, inner), recipe)
    return _centre_crop(_scaled(recipe, pixels, _before_crop(recipe, h, w)), recipe.size)


def _before_crop(recipe: Recipe, h: int, w: int) -> tuple[int, int]:
    """Return the size an (h, w) image is scaled to before the cut, rounded as the libraries do."""
    short = recipe.scale_size or min(recipe.size)
    tall, wide = (side * short // min(recipe.size) for side in recipe.size)
    if recipe.resize == "squash":
        return tall, wide
    if tall == wide:  # torchvision's Resize(int)
        return (short, int(short * w / h)) if h <= w else (int(short * h / w), short)
    ratio = min(h / tall, w / wide)  # ResizeKeepRatio of timm and open_clip
    return round(h / ratio), round(w / ratio)


def _scaled(recipe: Recipe, pixels: Pixels, size: tuple[int, int]) -> Floats:
    """Resize with antialiasing: 8 bit in 8 bit (as open_clip and timm do), deeper in float32."""
    how = _FILTERS[recipe.interpolation]
    shape = size[::-1]
    if pixels.dtype == np.uint8:
        small = Image.fromarray(np.ascontiguousarray(pixels)).resize(shape, how)
        return np.asarray(small, dtype=np.float32) / np.float32(255)
    low, high = 0.0, 65535.0
    if recipe.scale == "auto":
        low, high = float(pixels.min()), max(float(pixels.max()), float(pixels.min()) + 1)
    unit = (pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    planes = [unit] if unit.ndim == 2 else [unit[..., c] for c in range(unit.shape[2])]
    small_planes = [np.asarray(Image.fromarray(p).resize(shape, how)) for p in planes]
    out = small_planes[0] if unit.ndim == 2 else np.stack(small_planes, axis=-1)
    clipped: Floats = np.clip(out, 0, 1)
    return clipped


def _pad(image: Floats, recipe: Recipe) -> Floats:
    """Add zeros above and below, and on the side away from the chest wall (else on both)."""
    height, width = recipe.size
    rest = width - image.shape[1]
    before = {"left": 0, "right": rest, "none": rest // 2}[recipe.flip]
    top = (height - image.shape[0]) // 2
    edges = [(top, height - image.shape[0] - top), (before, rest - before)]
    return np.pad(image, edges + [(0, 0)] * (image.ndim - 2))


def _centre_crop(image: Floats, size: tuple[int, int]) -> Floats:
    # torchvision's CenterCrop rounds the offset
    top, left = (round((have - want) / 2) for have, want in zip(image.shape[:2], size, strict=True))
    if min(top, left) < 0:
        raise ValueError(f"a crop of {size} does not fit in {image.shape[:2]}")
    return image[top : top + size[0], left : left + size[1]]
