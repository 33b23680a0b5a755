"""The breast mask against drawn breasts whose outline is known, and on real films."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from embedstore.images.mammogram import bounding_box, breast_mask, chest_wall, is_inverted

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


@pytest.mark.parametrize("seed", range(5))
def test_the_box_is_numpys(seed: int) -> None:
    mask = np.random.default_rng(seed).random((40, 60)) > 0.998
    mask[17, 23] = True
    rows, columns = np.nonzero(mask)
    tight = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    assert bounding_box(mask, margin=0) == tight


def test_the_margin_stays_within_the_image() -> None:
    mask = np.zeros((50, 100), np.bool_)
    mask[0:10, 20:60] = True
    assert bounding_box(mask, margin=0.1) == (slice(0, 14), slice(16, 64))


def test_what_cannot_be_boxed_or_masked_is_named() -> None:
    with pytest.raises(ValueError, match="True in it"):
        bounding_box(np.zeros((4, 4), np.bool_))
    with pytest.raises(ValueError, match="-1"):
        bounding_box(np.ones((4, 4), np.bool_), margin=-1)
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
