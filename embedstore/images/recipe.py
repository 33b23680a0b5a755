"""The recipe at work: pixels to the array a backbone takes.

Named recipes are starting points; a backbone fills in its own size, mean and std.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedstore.errors import UsageError
from embedstore.images import mammogram
from embedstore.images.anatomy import Finding, chest_wall, surroundings
from embedstore.types import Floats, Pixels, Recipe, Resize

_PLAIN = Recipe(
    name="plain",
    exact=True,
    polarity="keep",
    crop="none",
    flip="none",
    scale="auto",
    colour="rgb",
    resize="centre-crop",
)
RECIPES = {
    "mammography": Recipe(),
    "plain": _PLAIN,
    # arXiv 2506.13964 as its code does it: squashed, scaled to 0..1, never normalised
    "molina2025": replace(_PLAIN, name="molina2025", resize="squash"),
}
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def named(name: str, resize: str = "", exact: bool = False, window: int = 0) -> Recipe:
    """Return the recipe of that name, with another resize, exact or of another window on wish.

    Raises
    ------
    UsageError
        No recipe or resize has that name; the known ones are listed.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe called {name!r}; known: {', '.join(RECIPES)}")
    if resize and resize not in get_args(Resize):
        raise UsageError(f"--resize is {', '.join(get_args(Resize))}; not {resize!r}")
    recipe = RECIPES[name]
    recipe = replace(recipe, window=window, exact=recipe.exact or exact)
    if not resize:
        return recipe
    return replace(recipe, resize=cast("Resize", resize), name=f"{name}+{resize}")


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


@dataclass(frozen=True, slots=True)
class Framed:
    """The part of a picture a model will see.

    Attributes
    ----------
    pixels
        (h, w) or (h, w, 3), uint8 or uint16.
    box
        Left, top, right and bottom of what is kept, in pixels, fractions of which count: so a
        film is cut at the same places at whatever size it was decoded.
    """

    pixels: Pixels
    box: tuple[float, float, float, float]

    @property
    def shape(self) -> tuple[float, float]:
        """Height and width of what is kept, pixels."""
        left, top, right, bottom = self.box
        return bottom - top, right - left

    def kept(self) -> Pixels:
        """Cut out what is kept, to the nearest whole pixel."""
        left, top, right, bottom = map(round, self.box)
        return self.pixels[top:bottom, left:right]


def frame(recipe: Recipe, pixels: Pixels, laterality: str = "") -> Framed:
    """Polarity, crop and flip: the part of the picture a model will see, at full resolution.

    `laterality`, "L" or "R" as the tags say, tells the chest wall's side (left breast, left side)
    where the picture does not: where no breast stands out.
    """
    if recipe.colour == "grey" and pixels.ndim == 3:
        pixels = _luminance(pixels)
    height, width = pixels.shape[:2]
    if recipe.polarity == "keep" and recipe.crop == "none" and recipe.flip == "none":
        return Framed(pixels, (0, 0, width, height))
    grey = _luminance(pixels) if pixels.ndim == 3 else pixels
    found = mammogram.find(grey, turn=recipe.polarity == "auto")
    pixels = _turn(pixels) if found.inverted else pixels
    left, top, right, bottom = 0.0, 0.0, float(width), float(height)
    if recipe.crop == "breast":
        shares = surroundings(found.region)
        left, top, right, bottom = (
            share * n for share, n in zip(shares, (width, height) * 2, strict=True)
        )
        pixels = np.where(_like(found.mask, pixels), pixels, _black(recipe, pixels))
    if recipe.flip != "none" and _wall(found, laterality) != recipe.flip:
        pixels, left, right = pixels[:, ::-1], width - right, width - left
    return Framed(pixels, (left, top, right, bottom))


def _wall(found: Finding, laterality: str) -> str:
    if found.whole and laterality in {"L", "R"}:
        return "left" if laterality == "L" else "right"
    return chest_wall(found.region)


def shrinkage(recipe: Recipe, shape: tuple[float, float]) -> float:
    """How often a part of (h, w) pixels goes into what the recipe makes of it."""
    return min(have / want for have, want in zip(shape, _inner(recipe, *shape), strict=True))


def cut_away(recipe: Recipe, framed: Framed) -> float:
    """Share of the breast, 0 to 1, that a centre crop leaves out of a framed picture."""
    if recipe.resize != "centre-crop":
        return 0.0
    kept = framed.kept()
    mask = mammogram.breast_mask(_luminance(kept) if kept.ndim == 3 else kept)
    ends = []
    for have, scaled, size in zip(
        mask.shape, _inner(recipe, *mask.shape), recipe.size, strict=True
    ):
        first = _offset(scaled, size) * have / scaled
        ends.append(slice(round(first), round(first + size * have / scaled)))
    return 1 - float(mask[ends[0], ends[1]].sum() / mask.sum())


def picture(recipe: Recipe, framed: Framed) -> Pixels:
    """Resize a framed picture, at its own depth, to what `tensors` takes.

    The result is (H, W) or (H, W, 3) of the picture's own type, its full range used as
    `Recipe.scale` says. These are the pixels a store can keep.
    """
    small = _scaled(recipe, framed, _inner(recipe, *framed.shape))
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


def _inner(recipe: Recipe, h: float, w: float) -> tuple[int, int]:
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


def _scaled(recipe: Recipe, framed: Framed, size: tuple[int, int]) -> Pixels:
    """Resize with antialiasing: 8 bit in 8 bit (as open_clip and timm do), deeper in float32."""
    pixels, how, box = framed.pixels, _FILTERS[recipe.interpolation], framed.box
    if pixels.dtype == np.uint8:
        whole = Image.fromarray(np.ascontiguousarray(pixels))
        resized: Pixels = np.asarray(whole.resize(size[::-1], how, box))
        return resized
    planes = [pixels] if pixels.ndim == 2 else [pixels[..., c] for c in range(pixels.shape[2])]
    floats = [Image.fromarray(p.astype(np.float32)) for p in planes]
    small_planes = [np.asarray(p.resize(size[::-1], how, box)) for p in floats]
    small = small_planes[0] if pixels.ndim == 2 else np.stack(small_planes, axis=-1)
    low, high = np.float32(0), np.float32(65535)
    if recipe.scale != "dtype":
        low, high = np.float32(pixels.min()), np.float32(framed.kept().max())
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
