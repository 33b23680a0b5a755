"""The breast mask against drawn breasts whose outline is known, and on real films."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from embedstore.images import mammogram
from embedstore.images.anatomy import bounding_box, chest_wall, surroundings
from embedstore.images.mammogram import (
    breast_mask,
    find,
    is_inverted,
)

FILMS = Path(__file__).parents[2] / "shared" / "mini-mias"


def half_ellipse(height: int, width: int, reach: float = 0.6) -> NDArray[np.bool_]:
    """Chest wall on the left edge, nipple ``reach`` of the width away."""
    y, x = np.mgrid[:height, :width]
    radius = ((y - height / 2) / (0.44 * height)) ** 2 + (x / (reach * width)) ** 2
    return np.asarray(radius < 1)


def film(truth: NDArray[np.bool_], seed: int = 0) -> NDArray[np.uint8]:
    """Tissue of 80-200 on a grainy film base of about 6."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.normal(size=truth.shape), 12)
    tissue = 140 + 25 * blobs / blobs.std()
    grey = np.where(truth, tissue.clip(80, 200), 6) + rng.normal(0, 2, truth.shape)
    return grey.clip(0, 255).astype(np.uint8)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(scope="module")
def truth() -> NDArray[np.bool_]:
    """A drawn breast, (1000, 800)."""
    return half_ellipse(1000, 800)


@pytest.fixture(scope="module")
def cluttered(truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The breast with a label, a tape strip, a bright border, a scanner border and a scratch."""
    grey = film(truth)
    grey[60:180, 640:720] = 250
    grey[950:975, :] = 230
    grey[:, 770:] = 255
    grey[:8, :] = 255
    grey[:, 600] = 200
    return grey


def test_the_drawn_outline_is_found_among_clutter(
    truth: NDArray[np.bool_], cluttered: NDArray[np.uint8]
) -> None:
    assert overlap(breast_mask(cluttered), truth) > 0.95


@pytest.mark.parametrize(
    "where",
    [np.s_[60:180, 640:720], np.s_[950:975, 100:], np.s_[:, 770:], np.s_[:8, 500:]],
    ids=["label", "tape", "bright border", "scanner border"],
)
def test_clutter_is_left_out(cluttered: NDArray[np.uint8], where: tuple[slice, slice]) -> None:
    assert not breast_mask(cluttered)[where].any()


@pytest.mark.parametrize("reach", [0.2, 0.9, 1.3, 2.0])
def test_small_breasts_and_breasts_that_fill_the_frame(reach: float) -> None:
    drawn = half_ellipse(900, 700, reach)
    mask = breast_mask(film(drawn))
    beyond = ndimage.distance_transform_edt(np.pad(~drawn, 1))[1:-1, 1:-1]
    assert beyond[mask].max() <= 9  # px: the working copy's 3, blurred
    assert (drawn & ~mask).sum() < 0.01 * drawn.sum()


def test_a_digital_mammogram_with_a_background_of_exactly_zero() -> None:
    drawn = half_ellipse(3328, 2560)
    grey = np.where(drawn, 700 + 8 * film(drawn).astype(np.uint16), 0).astype(np.uint16)
    assert overlap(breast_mask(grey), drawn) > 0.98


def test_a_brighter_film_base_is_background_still(truth: NDArray[np.bool_]) -> None:
    grey = np.maximum(film(truth), 25)
    grey[:, 700:] = 0
    assert overlap(breast_mask(grey), truth) > 0.95


def test_sixteen_bit_and_eight_bit_agree(cluttered: NDArray[np.uint8]) -> None:
    wide = cluttered.astype(np.uint16) * 257
    np.testing.assert_array_equal(breast_mask(wide), breast_mask(cluttered))
    assert is_inverted(wide) is is_inverted(cluttered) is False
    assert is_inverted(65535 - wide) is is_inverted(255 - cluttered) is True


def test_the_mask_is_one_region_without_holes(cluttered: NDArray[np.uint8]) -> None:
    mask = breast_mask(cluttered)
    assert ndimage.label(mask)[1] == 1
    np.testing.assert_array_equal(ndimage.binary_fill_holes(mask), mask)


def test_a_mirrored_film_gives_the_other_side(cluttered: NDArray[np.uint8]) -> None:
    assert chest_wall(breast_mask(cluttered)) == "left"
    assert chest_wall(breast_mask(cluttered[:, ::-1].copy())) == "right"


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (1000, 10), (100, 90), (700, 900)])
def test_noise_and_uniform_images_are_kept_whole(shape: tuple[int, int], wide: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 65535 if wide else 255, shape)
    for levels in (noise, np.zeros(shape), np.full(shape, 9)):
        grey = levels.astype(np.uint16) if wide else levels.astype(np.uint8)
        mask = breast_mask(grey)
        assert mask.shape == shape
        assert mask.all()
        assert chest_wall(mask) == "left"
        assert not is_inverted(grey)


def test_thin_lines_alone_are_no_error() -> None:
    grey = np.zeros((400, 300), np.uint8)
    grey[:, 100:107] = 200
    assert breast_mask(grey).any()


@pytest.mark.parametrize("wide", [False, True])
def test_one_pass_finds_polarity_and_breast(
    truth: NDArray[np.bool_], cluttered: NDArray[np.uint8], wide: bool
) -> None:
    film = cluttered.astype(np.uint16) * 40 + 300 if wide else cluttered
    for grey, turned in ((film, False), (film.max() - film, True)):
        found = find(grey)
        assert found.inverted is turned
        assert not found.whole
        assert overlap(found.mask, truth) > 0.95
        np.testing.assert_array_equal(found.mask, breast_mask(film))


@pytest.mark.parametrize("shape", [(1000, 801), (399, 300), (2001, 1203)])
def test_the_working_copy_stands_for_the_mask(shape: tuple[int, int]) -> None:
    found = find(film(half_ellipse(*shape)))
    assert max(found.region.shape) == min(400, *[max(shape)])
    nearest = Image.fromarray(found.region).resize(shape[::-1], Image.Resampling.NEAREST)
    assert overlap(found.mask, np.asarray(nearest)) > 0.995


@pytest.mark.parametrize("side", [2, 4, 8])
def test_a_film_of_half_the_size_gives_the_same_outline(
    side: int, cluttered: NDArray[np.uint8]
) -> None:
    large = np.asarray(Image.fromarray(cluttered).resize((3200, 4000), Image.Resampling.BICUBIC))
    small = np.asarray(Image.fromarray(large).reduce(side))
    back = np.kron(breast_mask(small), np.ones((side, side), np.bool_))
    assert overlap(back, breast_mask(large)) > 0.995


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (1000, 10), (100, 90)])
def test_one_pass_keeps_noise_and_uniform_images_whole(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, shape)
    for levels in (noise, np.zeros(shape), np.full(shape, 9)):
        found = find(levels.astype(np.uint8))
        assert found.whole
        assert not found.inverted
        assert found.mask.shape == shape
        assert found.mask.all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (40, 31)])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_the_median_is_scipys(shape: tuple[int, int], depth: type[np.uint8 | np.uint16]) -> None:
    grey = np.random.default_rng(3).integers(0, np.iinfo(depth).max, shape, depth)
    np.testing.assert_array_equal(mammogram._median(grey), ndimage.median_filter(grey, 3))


def test_the_local_range_is_scipys() -> None:
    levels = np.random.default_rng(4).random((50, 37)).astype(np.float32)
    span = ndimage.maximum_filter(levels, 5) - ndimage.minimum_filter(levels, 5)
    np.testing.assert_array_equal(mammogram._range(levels), span)


@pytest.mark.parametrize("radius", [0.4, 1.0, 2.0**0.5, 5.0, 7.3, 21.0, 80.0])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.5])
def test_discs_are_the_distance_transforms(radius: float, share: float) -> None:
    region = np.random.default_rng(5).random((60, 45)) < share
    region[31, 17] = True
    far = ndimage.distance_transform_edt(~region)
    np.testing.assert_array_equal(mammogram._near(region, radius), far <= radius)
    deep = ndimage.distance_transform_edt(np.pad(~region, 1))[1:-1, 1:-1]
    np.testing.assert_array_equal(mammogram._eroded(~region, radius), deep > radius)


def test_holes_are_filled_as_scipy_fills_them() -> None:
    region = np.random.default_rng(6).random((80, 70)) < 0.6
    np.testing.assert_array_equal(mammogram._filled(region), ndimage.binary_fill_holes(region))


def furthest_out(mask: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> float:
    """How far from the drawn breast the mask goes, px."""
    return float(ndimage.distance_transform_edt(~drawn)[mask].max())


def soft_breast(reach: float, skin: float = 0.3) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Draw a breast, (832, 640), and its tissue: about 1, falling to ``skin`` at the skin line."""
    drawn = half_ellipse(832, 640, reach)
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=drawn.shape), 12)
    beyond_wall = np.pad(drawn, ((0, 0), (1, 0)), mode="edge")
    depth = ndimage.distance_transform_edt(beyond_wall)[:, 1:] / 50
    tissue = (1 + 0.2 * blobs / blobs.std()).clip(0.55, 1.45)
    return drawn, drawn * tissue * (skin + (1 - skin) * depth.clip(0, 1))


def exposed(tissue: NDArray[np.float64], wide: bool) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Grainy film of it, 60 of 255 grey levels to the unit: what is 4 and more is saturated."""
    grey = (tissue + 0.06) * 60 + np.random.default_rng(1).normal(0, 2, tissue.shape)
    if wide:
        return (grey * 257).clip(0, 65535).astype(np.uint16)
    return grey.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("wide", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("brighter", [3, 4])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
@pytest.mark.parametrize("reach", [0.25, 0.6, 0.9, 1.3])
def test_an_implant_does_not_hide_the_breast(
    reach: float, share: float, brighter: int, wide: bool
) -> None:
    drawn, tissue = soft_breast(reach, skin=0.15)
    y, x = np.mgrid[-0.5:0.5:832j, 0:1:640j]
    implant = (y / (0.44 * share)) ** 2 + ((x / reach - 0.45) / (0.5 * share)) ** 2 < 1
    mask = breast_mask(exposed(np.where(implant & drawn, brighter, tissue), wide))
    assert overlap(mask, drawn) > 0.93
    rim = drawn & (tissue < 0.5)
    assert (mask & rim).sum() > 0.75 * rim.sum()


@pytest.mark.parametrize("wide", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("gap", [-10, 0, 4, 20])
@pytest.mark.parametrize("reach", [0.25, 0.6, 0.9])
def test_lead_markers_at_the_skin_line(reach: float, gap: int, wide: bool) -> None:
    drawn, tissue = soft_breast(reach)
    tip = round(reach * 640) + gap  # px
    y, x = np.mgrid[:832, :640]
    tissue[np.hypot(y - 416, x - tip) < 10] = 4.2  # a pellet on the nipple
    upper = np.flatnonzero(drawn[:, round(0.6 * tip)])[0]  # a letter above the slope of the breast
    letter = np.s_[upper - gap - 50 : upper - gap, round(0.6 * tip) : round(0.6 * tip) + 24]
    tissue[letter] = 4.2
    mask = breast_mask(exposed(tissue, wide))
    assert overlap(mask, drawn) > 0.93
    assert furthest_out(mask, drawn) <= 32  # px; the letter goes further, and its stub stays


def outline(of: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Mark the inner edge of a drawn region."""
    return np.asarray(of & ~ndimage.binary_erosion(of, iterations=thickness))


@pytest.mark.parametrize("wide", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("faint", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["plate", "edge", "ring"])
@pytest.mark.parametrize("reach", [0.25, 0.6, 0.9])
def test_compression_paddles_over_breast_and_background(
    reach: float, kind: str, faint: float, wide: bool
) -> None:
    drawn, tissue = soft_breast(reach)
    y, x = np.mgrid[:832, :640]
    paddle = {
        "plate": outline((abs(y - 416) < 310) & (x < 560), 5),
        "edge": abs(x - 0.5 * reach * 640) < 3,
        "ring": outline(np.hypot(y - 416, x - 0.6 * reach * 640) < 240, 8),
    }[kind]
    mask = breast_mask(exposed(tissue + faint * paddle, wide))
    assert overlap(mask, drawn) > 0.93
    assert furthest_out(mask, drawn) <= 15  # px


@pytest.mark.parametrize("seed", range(5))
def test_the_box_is_numpys(seed: int) -> None:
    mask = np.random.default_rng(seed).random((40, 60)) > 0.998
    mask[17, 23] = True
    rows, columns = np.nonzero(mask)
    tight = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    assert bounding_box(mask) == tight


def test_the_margin_stays_within_the_image() -> None:
    mask = np.zeros((50, 100), np.bool_)
    mask[0:10, 20:60] = True
    assert surroundings(mask, margin=0.1) == (0.16, 0.0, 0.64, 14 / 50)


def test_what_cannot_be_boxed_or_masked_is_named() -> None:
    with pytest.raises(ValueError, match="True in it"):
        bounding_box(np.zeros((4, 4), np.bool_))
    for shape in ((4, 4, 3), (0, 5)):
        with pytest.raises(ValueError, match=str(shape[0])):
            breast_mask(np.zeros(shape, np.uint8))


@pytest.mark.skipif(not FILMS.exists(), reason="the films are not beside the repository")
def test_every_real_film() -> None:
    for row in film_rows():
        grey = np.asarray(Image.open(FILMS / row["image"]).convert("L"))
        mask = breast_mask(grey)
        side = "right" if row["laterality"] == "R" else "left"
        assert 0.05 < mask.mean() < 0.95, row["image"]
        assert chest_wall(mask) == side, row["image"]
        assert wall_share(mask, side) > 0.6, row["image"]


@pytest.mark.skipif(not FILMS.exists(), reason="the films are not beside the repository")
def test_real_films_shown_negative() -> None:
    for row in film_rows()[::6]:
        grey = np.asarray(Image.open(FILMS / row["image"]).convert("L"))
        assert not is_inverted(grey), row["image"]
        assert is_inverted(255 - grey), row["image"]


def film_rows() -> list[dict[str, str]]:
    """Rows of the films' manifest."""
    with (FILMS / "manifest.csv").open() as table:
        return list(csv.DictReader(table))


def wall_share(mask: NDArray[np.bool_], side: str) -> float:
    """Share of the mask's rows that reach within 5 % of the image's width of its wall side."""
    columns = np.flatnonzero(mask.any(axis=0))
    slack = mask.shape[1] // 20
    edge = mask[:, columns[0] :][:, :slack] if side == "left" else mask[:, : columns[-1] + 1]
    edge = edge if side == "left" else edge[:, -slack:]
    return float(edge.any(axis=1).sum() / mask.any(axis=1).sum())
