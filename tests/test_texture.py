"""Texture features against numpy, scipy and images whose answer is known."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats

from embedstore.backbones.texture import NAMES, features


def named(image: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Features by name."""
    return dict(zip(NAMES, features(image, mask).tolist(), strict=True))


def tissue_of(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels that count on an image without background, drawn a second time, pixel by pixel."""
    height, width = image.shape
    kept = [
        image[y, x]
        for y in range(height)
        for x in range(width)
        if width - x > 0.03 * max(image.shape) and x / (0.5 * width) + y / (0.6 * height) >= 1
    ]
    return np.array(kept)


def coloured_noise(beta: float, side: int = 256, seed: int = 0) -> NDArray[np.float32]:
    """Noise with power 1/f^beta, in 0.1..0.9."""
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    f[0, 0] = 1
    white = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    noise = np.fft.ifft2(white * f ** (-beta / 2)).real
    noise = (noise - noise.min()) / np.ptp(noise)
    return np.asarray(0.1 + 0.8 * noise, dtype=np.float32)


@pytest.fixture(scope="module")
def breast() -> NDArray[np.float32]:
    """A half ellipse of coloured noise on 0, (256, 256)."""
    y, x = np.mgrid[:256, :256]
    return np.where(((y - 128) / 125) ** 2 + (x / 180) ** 2 < 1, coloured_noise(2.5), 0).astype(
        np.float32
    )


def test_names_are_unique_and_few() -> None:
    assert len(set(NAMES)) == len(NAMES) <= 32


def test_percentiles_and_moments_are_numpys_and_scipys() -> None:
    image = np.random.default_rng(0).beta(2, 5, (80, 60)).astype(np.float32) + np.float32(0.01)
    inside, got = tissue_of(image).astype(np.float64), named(image)
    for q in (5, 10, 25, 50, 75, 90, 95):
        assert got[f"percentile_{q}"] == pytest.approx(np.percentile(inside, q), abs=1e-6)
    assert got["mean"] == pytest.approx(inside.mean(), abs=1e-6)
    assert got["deviation"] == pytest.approx(inside.std(), abs=1e-6)
    assert got["skewness"] == pytest.approx(stats.skew(inside), abs=1e-5)
    assert got["kurtosis"] == pytest.approx(stats.kurtosis(inside), abs=1e-5)


def test_dense_share_of_a_two_level_breast() -> None:
    image = np.full((100, 100), 0.2, np.float32)
    image[60:, :90] = 0.8
    inside, got = tissue_of(image), named(image)
    share = (inside > 0.5).mean()
    for name in ("share_above_50", "share_above_80", "otsu_share"):
        assert got[name] == pytest.approx(share, abs=1e-6)
    # Otsu takes bin centres for levels: half a bin of 128 at either end.
    assert got["otsu_contrast"] == pytest.approx(0.6, abs=0.6 / 128)
    assert got["otsu_separability"] == pytest.approx(1.0, abs=0.02)


def test_otsu_is_the_exhaustive_search() -> None:
    rng = np.random.default_rng(3)
    levels = np.where(rng.random((64, 64)) < 0.3, 0.7, 0.3) + rng.normal(0, 0.1, (64, 64))
    image = np.asarray(levels.clip(0.01, 1), dtype=np.float32)
    inside = tissue_of(image).astype(np.float64)
    splits = [(inside > t) for t in np.linspace(inside.min(), inside.max(), 400)[1:-1]]
    best = max(splits, key=lambda s: s.mean() * (~s).mean() * contrast(inside, s) ** 2)
    got = named(image)
    assert got["otsu_share"] == pytest.approx(best.mean(), abs=0.02)
    assert got["otsu_contrast"] == pytest.approx(contrast(inside, best), abs=0.01)


def contrast(inside: NDArray[np.float64], split: NDArray[np.bool_]) -> float:
    """Difference of the two means."""
    return float(inside[split].mean() - inside[~split].mean())


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_the_spectrum_slope_of_known_noise(beta: float) -> None:
    slopes = [named(coloured_noise(beta, seed=seed))["spectrum_slope"] for seed in range(5)]
    assert np.mean(slopes) == pytest.approx(beta, abs=0.2)


def test_local_deviation_of_white_noise_is_its_deviation() -> None:
    noise = np.random.default_rng(0).normal(0.5, 0.05, (256, 256)).astype(np.float32)
    got = named(noise)
    for side in (3, 5, 9, 17):
        biased = 0.05 * np.sqrt(1 - 1 / side**2)
        assert got[f"local_deviation_{side}"] == pytest.approx(biased, rel=0.05)


def test_local_deviation_is_generic_filters(breast: NDArray[np.float32]) -> None:
    """Deep inside, a window holds tissue only, so scipy's plain window must agree there."""
    y, x = np.mgrid[:256, :256]
    plain = ndimage.generic_filter(breast[60:200, 20:120].astype(np.float64), np.std, 3)
    mask = (y >= 100) & (y < 160) & (x >= 40) & (x < 100)
    patch = np.where(mask, breast, 0).astype(np.float32)
    got = named(patch)["local_deviation_3"]
    corner = ((x - 40) / 30 + (y - 100) / 36 < 1)[60:200, 20:120]
    depth = (100 - x)[60:200, 20:120]
    inside = mask[60:200, 20:120] & ~corner & (depth > 0.03 * 256)
    assert got == pytest.approx(plain[inside].mean(), rel=0.02)


def test_shells_of_a_ramp_from_the_skin(breast: NDArray[np.float32]) -> None:
    x = np.mgrid[:256, :256][1]
    got = named((1 - x / 300).astype(np.float32))
    shells = [got[f"shell_{shell}"] for shell in (1, 2, 3, 4)]
    assert shells == sorted(shells)
    assert shells[0] < 0 < shells[3]


def test_brightness_shifts_levels_and_nothing_else(breast: NDArray[np.float32]) -> None:
    shifted = np.where(breast > 0, breast * 0.5 + 0.2, 0).astype(np.float32)
    before, after = named(breast), named(shifted)
    for name in ("skewness", "kurtosis", "otsu_share", "otsu_separability", "spectrum_slope"):
        assert after[name] == pytest.approx(before[name], rel=0.02, abs=0.01)
    for name in ("deviation", "otsu_contrast", "local_deviation_3", "shell_1"):
        assert after[name] == pytest.approx(before[name] / 2, rel=0.02, abs=1e-4)
    assert after["percentile_50"] == pytest.approx(before["percentile_50"] * 0.5 + 0.2, abs=1e-5)


def test_padding_beyond_the_skin_changes_the_area_only(breast: NDArray[np.float32]) -> None:
    moved = np.zeros_like(breast)
    moved[:, 30:] = breast[:, :-30]
    moved_back, still = named(moved), named(breast)
    for name in NAMES:
        if not name.startswith(("spectrum", "local")):
            assert moved_back[name] == pytest.approx(still[name], abs=1e-4), name


def test_area_and_aspect_are_counted(breast: NDArray[np.float32]) -> None:
    rows, columns = np.nonzero(breast)
    got = named(breast)
    assert got["area"] == pytest.approx(rows.size / breast.size)
    assert got["aspect"] == pytest.approx((np.ptp(columns) + 1) / (np.ptp(rows) + 1))


def test_a_bright_muscle_moves_its_own_feature_only(breast: NDArray[np.float32]) -> None:
    y, x = np.mgrid[:256, :256]
    muscle = (breast > 0) & (x < 40) & (y < 40)
    bright = np.where(muscle, 0.95, breast).astype(np.float32)
    assert named(bright)["pectoral_excess"] > named(breast)["pectoral_excess"]
    assert named(bright)["percentile_95"] == named(breast)["percentile_95"]
    assert named(bright)["mean"] == named(breast)["mean"]


def test_the_mask_replaces_the_default(breast: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(features(breast, breast > 0), features(breast))
    dirty = np.where(breast > 0, breast, 0.9).astype(np.float32)
    kept = named(dirty, breast > 0)
    assert kept["percentile_50"] == named(breast)["percentile_50"]
    assert kept["local_deviation_17"] == pytest.approx(named(breast)["local_deviation_17"])


@pytest.mark.parametrize("side", [1, 2, 16, 33, 256])
def test_degenerate_images_give_finite_numbers(side: int) -> None:
    one = np.zeros((side, side), np.float32)
    one[-1, -1] = 0.5
    noise = np.random.default_rng(0).random((side, side)).astype(np.float32)
    for image in (np.zeros_like(one), np.ones_like(one), one, noise, noise.round()):
        vector = features(image)
        assert vector.shape == (len(NAMES),)
        assert vector.dtype == np.float32
        assert np.isfinite(vector).all()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="3"):
        features(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="5"):
        features(np.zeros((4, 4), np.float32), np.zeros((4, 5), np.bool_))


def test_the_same_image_gives_the_same_vector_quickly(breast: NDArray[np.float32]) -> None:
    first, start = features(breast), time.perf_counter()
    for _ in range(5):
        np.testing.assert_array_equal(features(breast), first)
    assert time.perf_counter() - start < 5 * 0.2  # 15 ms each; the slack is for a busy machine
