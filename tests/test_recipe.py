from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from timm.data import create_transform

from embedstore.errors import UsageError
from embedstore.images.recipe import RECIPES, apply, fit_to_model, frame, named
from embedstore.types import Recipe

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
SHAPES = [(64, 64), (333, 251), (251, 333), (97, 400), (57, 61), (65, 129)]
CODES = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
IDENTITY = replace(RECIPES["plain"], resize="squash", size=(60, 50))


def picture(shape: tuple[int, int], colours: int = 0, seed: int = 0) -> np.ndarray:
    """Draw noise of several coarsenesses, so that every resize shows."""
    rng = np.random.default_rng(seed)
    size = (*shape, colours) if colours else shape
    return rng.integers(0, 256, size, dtype=np.uint8)


def film(bright: int = 150, size: int = 160, dtype: type = np.uint8) -> np.ndarray:
    """Draw a breast with its chest wall at the left on black, with texture."""
    y, x = np.mgrid[:size, :size]
    inside = (x / (0.6 * size)) ** 2 + ((y - 0.45 * size) / (0.42 * size)) ** 2 < 1
    texture = np.random.default_rng(1).normal(1, 0.1, (size, size))
    drawn = np.where(inside, bright * texture * (1.3 - y / size), 0)
    return np.clip(drawn, 0, np.iinfo(dtype).max).astype(dtype)


def as_rgb(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colours", [0, 3])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("mode", "resize"), [("shortest", "centre-crop"), ("squash", "squash"), ("longest", "pad")]
)
def test_plain_equals_open_clips_own_transform(
    shape: tuple[int, int], colours: int, interpolation: str, mode: str, resize: Any
) -> None:
    pixels = picture(shape, colours)
    theirs = image_transform(
        56, is_train=False, mean=MEAN, std=STD, resize_mode=mode, interpolation=interpolation
    )
    recipe = fit_to_model(RECIPES["plain"], (56, 56), MEAN, STD, interpolation, resize)
    wanted = theirs(Image.fromarray(pixels)).numpy()
    ours = apply(recipe, pixels)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    if mode == "longest":  # they pad with black as we do
        assert ours.shape == wanted.shape == (3, 56, 56)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colours", [0, 3])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_plain_equals_timms_own_transform(
    shape: tuple[int, int], colours: int, crop_mode: str, crop_pct: float, interpolation: str
) -> None:
    pixels = picture(shape, colours)
    theirs = create_transform(
        input_size=(3, 56, 56),
        interpolation=interpolation,
        mean=MEAN,
        std=STD,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    recipe = fit_to_model(
        RECIPES["plain"],
        (56, 56),
        MEAN,
        STD,
        interpolation,
        "squash" if crop_mode == "squash" else "centre-crop",
        math.floor(56 / crop_pct),
    )
    wanted = theirs(as_rgb(pixels)).numpy()
    np.testing.assert_allclose(apply(recipe, pixels), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(333, 251), (97, 400), (300, 97)])
@pytest.mark.parametrize("size", [(96, 64), (64, 96)])
def test_plain_equals_both_for_models_that_are_not_square(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = picture(shape, 3)
    recipe = fit_to_model(RECIPES["plain"], size, MEAN, STD, "bicubic", "centre-crop", min(size))
    for theirs in (
        image_transform(size, is_train=False, mean=MEAN, std=STD),
        create_transform((3, *size), interpolation="bicubic", mean=MEAN, std=STD, crop_pct=1.0),
    ):
        wanted = theirs(Image.fromarray(pixels)).numpy()
        np.testing.assert_allclose(apply(recipe, pixels), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("colours", [0, 3])
def test_molina_is_squashed_and_never_normalised(colours: int) -> None:
    pixels = picture((333, 251), colours)
    recipe = fit_to_model(RECIPES["molina2025"], (48, 64), MEAN, STD, "bilinear", "centre-crop", 96)
    small = np.asarray(as_rgb(pixels).resize((64, 48), Image.Resampling.BILINEAR))
    wanted = small.transpose(2, 0, 1) / 255
    np.testing.assert_allclose(apply(recipe, pixels), wanted, rtol=0, atol=1e-7)


def test_another_resize_of_molina_is_not_normalised_either() -> None:
    chosen = replace(RECIPES["molina2025"], resize="pad", name="molina2025+pad")
    recipe = fit_to_model(chosen, (48, 64), MEAN, STD)
    assert (recipe.mean, recipe.std, recipe.resize) == ((0, 0, 0), (1, 1, 1), "pad")
    chosen = replace(RECIPES["mammography"], resize="squash", name="mammography+squash")
    assert fit_to_model(chosen, (48, 64), MEAN, STD).mean == MEAN


def test_only_plain_resizes_as_the_model_does() -> None:
    for name, resize, scale_size in [
        ("mammography", "pad", 0),
        ("molina2025", "squash", 0),
        ("plain", "squash", 70),
    ]:
        recipe = fit_to_model(RECIPES[name], (64, 64), MEAN, STD, "bilinear", "squash", 70)
        assert (recipe.resize, recipe.scale_size) == (resize, scale_size)
        assert (recipe.size, recipe.interpolation) == ((64, 64), "bilinear")
    assert fit_to_model(RECIPES["plain"], (64, 64), MEAN, STD).interpolation == "bicubic"


@pytest.mark.parametrize("shape", [(300, 100), (100, 300), (31, 57), (5, 200)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_padding_keeps_aspect_and_content(shape: tuple[int, int], interpolation: Any) -> None:
    pixels = picture(shape)
    recipe = replace(
        RECIPES["plain"], resize="pad", size=(64, 48), interpolation=interpolation, mean=(0.25,)
    )
    recipe = replace(recipe, std=(0.5,))
    ratio = min(64 / shape[0], 48 / shape[1])
    height, width = max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))
    small = np.asarray(Image.fromarray(pixels).resize((width, height), CODES[interpolation]))
    wanted = np.zeros((64, 48))
    top, left = (64 - height) // 2, (48 - width) // 2
    wanted[top : top + height, left : left + width] = small / 255
    np.testing.assert_allclose(apply(recipe, pixels)[0], (wanted - 0.25) / 0.5, atol=1e-6)


@pytest.mark.parametrize(("flip", "content"), [("left", slice(0, 16)), ("right", slice(48, 64))])
def test_padding_goes_to_the_side_away_from_the_chest_wall(flip: Any, content: slice) -> None:
    recipe = replace(RECIPES["plain"], resize="pad", flip=flip, size=(64, 64), mean=(0.0,))
    recipe = replace(recipe, std=(1.0,))
    filled = apply(recipe, np.full((400, 100), 200, np.uint8))[0]
    wanted = np.zeros((64, 64), np.float32)
    wanted[:, content] = 200 / 255
    np.testing.assert_allclose(filled, wanted, atol=1e-6)


@pytest.mark.parametrize("flip", ["left", "right"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flip_puts_the_chest_wall_on_its_side(flip: Any, dtype: type) -> None:
    drawn = film(dtype=dtype)
    recipe = replace(RECIPES["plain"], flip=flip)
    wanted = drawn if flip == "left" else drawn[:, ::-1]
    np.testing.assert_array_equal(frame(recipe, drawn).kept(), wanted)
    np.testing.assert_array_equal(frame(recipe, drawn[:, ::-1]).kept(), wanted)
    np.testing.assert_array_equal(frame(replace(recipe, flip="none"), drawn).kept(), drawn)


def test_colour_films_are_flipped_and_cropped_whole() -> None:
    drawn = film()
    coloured = np.dstack([drawn, drawn // 2, drawn // 3])
    recipe = replace(RECIPES["mammography"], colour="rgb")
    framed = frame(recipe, coloured[:, ::-1]).kept()
    assert framed.shape[2] == 3
    assert framed.shape[1] < 120  # the breast is 96 pixels wide
    np.testing.assert_array_equal(framed[..., 1], framed[..., 0] // 2)
    np.testing.assert_array_equal(framed[..., 2], framed[..., 0] // 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_crop_keeps_the_breast_and_blackens_the_rest(dtype: type) -> None:
    drawn = film(dtype=dtype)
    labelled = drawn.copy()
    labelled[5:18, 130:155] = 250
    framed = frame(RECIPES["mammography"], labelled).kept()
    np.testing.assert_array_equal(framed, frame(RECIPES["mammography"], drawn).kept())
    rows, columns = np.nonzero(drawn)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height <= framed.shape[0] <= height + 8
    assert width <= framed.shape[1] <= width + 8
    # all but the skin line is there, and nothing else
    assert framed.astype(float).sum() == pytest.approx(drawn.astype(float).sum(), rel=0.01)


@pytest.mark.parametrize("bright", [100, 150])
@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint8, 255), (np.uint16, 255), (np.uint16, 4095), (np.uint16, 65535)]
)
@pytest.mark.parametrize("crop", ["breast", "none"])
def test_an_inverted_film_equals_its_positive(
    bright: int, dtype: type, white: int, crop: Any
) -> None:
    positive = film(bright, dtype=dtype)
    assert positive.max() < 255
    recipe = replace(RECIPES["mammography"], size=(64, 64), crop=crop)
    inverted = apply(recipe, (white - positive.astype(np.int64)).astype(dtype))
    np.testing.assert_array_equal(inverted, apply(recipe, positive))
    assert inverted.std() > 0.1  # equal, and not because both are black


def test_polarity_is_left_when_so_asked() -> None:
    inverted = 255 - film()
    np.testing.assert_array_equal(frame(RECIPES["plain"], inverted).kept(), inverted)


def test_sixteen_bits_are_kept_to_the_end() -> None:
    ramp = np.linspace(1000, 5000, 3000).astype(np.uint16).reshape(60, 50)
    out = apply(IDENTITY, ramp)
    wanted = np.stack([(ramp - 1000.0) / 4000] * 3)
    assert np.abs(out - wanted).max() < 0.51 / 65535  # the nearest of 65536 levels
    assert len(np.unique(out)) == len(np.unique(ramp)) > 2000


def test_sixteen_bits_are_divided_by_the_types_largest_when_so_asked() -> None:
    ramp = np.linspace(1000, 5000, 3000).astype(np.uint16).reshape(60, 50)
    out = apply(replace(IDENTITY, scale="dtype"), ramp)
    np.testing.assert_allclose(out, np.stack([ramp / 65535] * 3), atol=1e-7)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("colours", [0, 3])
@pytest.mark.parametrize("scale", ["auto", "resized"])
def test_deep_images_are_resized_in_floating_point(
    interpolation: Any, colours: int, scale: Any
) -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(300, 4000, (333, 251, 3) if colours else (333, 251), dtype=np.uint16)
    planes = deep.transpose(2, 0, 1) if colours else np.stack([deep] * 3)
    small = torch.nn.functional.interpolate(
        torch.from_numpy(planes.astype(float))[None],
        size=(60, 50),
        mode=interpolation,
        antialias=True,
    )[0]
    low = float(deep.min())
    high = float(deep.max()) if scale == "auto" else float(small.max())
    wanted = ((small - low) / (high - low)).clamp(0, 1)
    out = apply(replace(IDENTITY, interpolation=interpolation, scale=scale), deep)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-4)


def test_one_hot_pixel_does_not_darken_the_rest() -> None:
    recipe = replace(IDENTITY, scale="resized", size=(32, 32), mean=(0.0,), std=(1.0,))
    drawn = film(size=320, dtype=np.uint16) * np.uint16(100)
    hot = drawn.copy()
    hot[150, 60] = 65535
    assert np.abs(apply(recipe, hot) - apply(recipe, drawn)).mean() < 0.02


def test_a_film_on_an_offset_keeps_its_contrast() -> None:
    recipe = replace(RECIPES["mammography"], size=(64, 64))
    drawn = film(dtype=np.uint16) * np.uint16(100)
    shifted = apply(recipe, drawn + np.uint16(40_000))
    np.testing.assert_allclose(shifted, apply(recipe, drawn), atol=1.01 / 65535)


def test_colour_is_weighed_as_pillow_does() -> None:
    colour = picture((60, 50), 3)
    recipe = replace(IDENTITY, colour="grey", mean=(0.0,), std=(1.0,))
    grey = np.asarray(Image.fromarray(colour).convert("L"), dtype=float)
    out = apply(recipe, colour)
    assert out.shape == (1, 60, 50)
    assert np.abs(out[0] * 255 - grey).max() < 1.01
    assert np.mean(np.abs(out[0] * 255 - grey) < 0.01) > 0.99
    deep = colour.astype(np.uint16) * np.uint16(257)
    weighed = deep @ np.array([0.299, 0.587, 0.114])
    wanted = apply(replace(recipe, scale="dtype"), deep)[0] * 65535
    np.testing.assert_allclose(wanted, weighed, atol=0.51)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("level", [0, 77, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flat_images_give_finite_tensors(name: str, level: int, dtype: type) -> None:
    out = apply(replace(RECIPES[name], size=(32, 32)), np.full((40, 50), level, dtype))
    assert out.shape == (3, 32, 32)
    assert np.isfinite(out).all()
    assert 0 <= out.min() <= out.max() <= 1


def test_pixels_are_never_written_to() -> None:
    for name in RECIPES:
        for drawn in (film(), 255 - film(), film()[:, ::-1]):
            drawn.flags.writeable = False
            before = drawn.copy()
            apply(replace(RECIPES[name], size=(32, 32)), drawn)
            np.testing.assert_array_equal(drawn, before)


def test_recipes_go_by_their_names() -> None:
    for name in ("mammography", "plain", "molina2025"):
        assert named(name).name == name
    with pytest.raises(UsageError, match="'nope'; known: mammography, plain, molina2025"):
        named("nope")


DEFAULT = (
    '{"colour":"grey","crop":"breast","exact":false,"flip":"left","interpolation":"bicubic",'
    '"mean":[0.0,0.0,0.0],"polarity":"auto","resize":"pad","scale":"resized","scale_size":0,'
    '"size":[224,224],"std":[1.0,1.0,1.0],"window":0}'
)


def test_the_key_is_the_same_on_every_machine() -> None:
    assert json.dumps(json.loads(DEFAULT), sort_keys=True, separators=(",", ":")) == DEFAULT
    assert hashlib.sha256(DEFAULT.encode()).hexdigest()[:12] == "14d5be8f5b21"
    assert Recipe().key == "14d5be8f5b21"


def test_the_key_depends_on_every_field_but_the_name() -> None:
    other = {
        "window": 1,
        "exact": True,
        "polarity": "keep",
        "crop": "none",
        "flip": "right",
        "scale": "dtype",
        "colour": "rgb",
        "resize": "squash",
        "interpolation": "bilinear",
        "size": (224, 225),
        "scale_size": 256,
        "mean": (0.0, 0.0, 1e-9),
        "std": (1.0, 1.0, 1.0 + 1e-9),
    }
    assert {f.name for f in fields(Recipe)} == {"name", *other}
    keys = {replace(Recipe(), **{name: value}).key for name, value in other.items()}
    assert len(keys | {Recipe().key}) == len(other) + 1
    assert replace(Recipe(), name="other").key == Recipe().key


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = fit_to_model(RECIPES[name], (48, 64), MEAN, STD, "bilinear", "squash", 70)
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert again.key == recipe.key
    assert hash(again) == hash(recipe)
