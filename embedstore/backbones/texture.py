"""Intensity percentiles and a little texture: the floor that every study should beat.

No weights, no training: 30 numbers a radiologist could check by eye. The breast is measured away
from its rim, where it thins towards the skin, and outside the corner that the pectoral muscle
takes on an oblique view; both are as bright or as dark for reasons other than density.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["NAMES", "features"]

_PERCENTILES = (5, 10, 25, 50, 75, 90, 95)
_LEVELS = (0.5, 0.6, 0.7, 0.8)  # of the tissue's own 1st to 99th percentile
_SCALES = (3, 5, 9, 17)  # px, window side on a 256 px image, scaled with the image
_SHELLS = 4  # of equal depth, skin line to deepest
_RIM = 0.03  # of the image's side
_PECTORAL = (0.5, 0.6)  # width and height of the corner left out, of the breast's box
_FEWEST = 64  # px to measure on
_STEP = 1e-6  # of full scale; less is rounding

NAMES: tuple[str, ...] = (
    *(f"percentile_{p}" for p in _PERCENTILES),
    "mean",
    "deviation",
    "skewness",
    "kurtosis",
    *(f"share_above_{round(100 * level)}" for level in _LEVELS),
    "otsu_share",
    "otsu_contrast",
    "otsu_separability",
    *(f"local_deviation_{scale}" for scale in _SCALES),
    *(f"shell_{shell}" for shell in range(1, _SHELLS + 1)),
    "spectrum_slope",
    "area",
    "aspect",
    "pectoral_excess",
)


def features(
    image: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Describe one breast by ``len(NAMES)`` finite float32 numbers, in the order of `NAMES`.

    The image is (h, w) in 0..1, cropped to the breast, chest wall at the left, background 0; the
    mask is (h, w) bool, by default ``image > 0``. Nothing random is in it. An image without
    foreground gives zeros.
    ValueError: the image is not two-dimensional, or the mask has another shape.
    """
    if image.ndim != 2:
        raise ValueError(f"expected an (h, w) image, got shape {image.shape}")
    breast = image > 0 if mask is None else mask
    if breast.shape != image.shape:
        raise ValueError(f"the mask is {breast.shape}, the image {image.shape}")
    if not breast.any():
        return np.zeros(len(NAMES), dtype=np.float32)
    depth = _depth_below_skin(breast)
    corner = _pectoral_corner(breast)
    tissue = _tissue(breast, depth, corner)
    inside = image[tissue].astype(np.float64)
    values = (
        *np.percentile(inside, _PERCENTILES),
        *_moments(inside),
        *_shares(inside),
        *_otsu(inside),
        *_local_deviations(image, breast, tissue),
        *_shells(image, depth, tissue),
        _spectrum_slope(image, breast),
        *_shape(breast),
        _pectoral_excess(image, breast & corner, inside),
    )
    return np.array(values, dtype=np.float32)


def _depth_below_skin(breast: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the skin line in px, (h, w); chest wall, top and bottom edge are no skin."""
    solid = np.maximum.accumulate(breast[:, ::-1], axis=1)[:, ::-1]
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(solid, ((0, 0), (0, 1))))
    return depth[:, :-1]


def _pectoral_corner(breast: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Triangle (h, w) at the top chest-wall corner of the breast's box."""
    ((rows, columns),) = ndimage.find_objects(breast.astype(np.int8))
    width, height = columns.stop - columns.start, rows.stop - rows.start
    y, x = np.ogrid[: breast.shape[0], : breast.shape[1]]
    across = (x - columns.start) / (_PECTORAL[0] * width)
    down = (y - rows.start) / (_PECTORAL[1] * height)
    corner: NDArray[np.bool_] = across + down < 1
    return corner


def _tissue(
    breast: NDArray[np.bool_], depth: NDArray[np.float64], corner: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Leave out rim and corner, unless that leaves next to nothing."""
    tissue: NDArray[np.bool_] = breast & (depth > _RIM * max(breast.shape)) & ~corner
    return tissue if np.count_nonzero(tissue) >= _FEWEST else breast


def _moments(inside: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Mean, deviation, skewness and excess kurtosis; the last two are 0 where nothing varies."""
    mean, deviation = float(inside.mean()), float(inside.std())
    if deviation < _STEP:
        return mean, deviation, 0.0, 0.0
    z = (inside - mean) / deviation
    return mean, deviation, float((z * z * z).mean()), float((z * z * z * z).mean()) - 3.0


def _shares(inside: NDArray[np.float64]) -> list[float]:
    """Dense share: pixels above each level of the tissue's own range."""
    low, high = np.percentile(inside, (1, 99))
    return [float((inside > low + level * (high - low)).mean()) for level in _LEVELS]


def _otsu(inside: NDArray[np.float64]) -> tuple[float, float, float]:
    """Otsu's split: share of the bright class, difference of means, share of variance explained."""
    if np.ptp(inside) < _STEP:
        return 0.0, 0.0, 0.0
    counts, edges = np.histogram(inside, bins=128)
    level = (edges[:-1] + edges[1:]) / 2
    dark = np.cumsum(counts)[:-1] / inside.size
    sums = np.cumsum(counts * level) / inside.size
    contrast = (sums[-1] - sums[:-1]) / (1 - dark) - sums[:-1] / dark
    between = dark * (1 - dark) * contrast**2
    best = int(np.argmax(between))
    separability = float(between[best] / inside.var())
    return 1.0 - float(dark[best]), float(contrast[best]), separability


def _local_deviations(
    image: NDArray[np.float32], breast: NDArray[np.bool_], tissue: NDArray[np.bool_]
) -> list[float]:
    """Mean standard deviation in a square window of each scale, background left out."""
    weight = breast.astype(np.float32)
    centred = np.where(breast, image - image[breast].mean(), 0).astype(np.float32)
    return [
        _local_deviation(centred, weight, tissue, max(2, round(scale * max(image.shape) / 256)))
        for scale in _SCALES
    ]


def _local_deviation(
    centred: NDArray[np.float32],
    weight: NDArray[np.float32],
    tissue: NDArray[np.bool_],
    side: int,
) -> float:
    """Mean over the tissue of the deviation in a window of ``side`` px."""
    total, first, second = (
        ndimage.uniform_filter(part, side, mode="constant")[tissue]
        for part in (weight, centred, centred**2)
    )
    variance = second / total - (first / total) ** 2
    return float(np.sqrt(np.maximum(variance, 0)).mean())


def _shells(
    image: NDArray[np.float32], depth: NDArray[np.float64], tissue: NDArray[np.bool_]
) -> list[float]:
    """Mean of each depth shell over the mean of the tissue; 0 where a shell is empty."""
    level, below = image[tissue], depth[tissue]
    shell = np.minimum((_SHELLS * below / (below.max() + 1)).astype(int), _SHELLS - 1)
    mean = float(level.mean())
    groups = (level[shell == index] for index in range(_SHELLS))
    return [float(group.mean()) - mean if group.size else 0.0 for group in groups]


def _spectrum_slope(image: NDArray[np.float32], breast: NDArray[np.bool_]) -> float:
    """Exponent beta of the power spectrum 1/f^beta, in the square in the largest inner circle.

    The fit is over the radial mean, from 3 cycles a square to half the Nyquist frequency.
    """
    room = ndimage.distance_transform_edt(np.pad(breast, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(room)), room.shape)
    half = int(room[row, column] / np.sqrt(2))
    if half < 12:
        return 0.0
    square = image[row - half : row + half, column - half : column + half].astype(np.float64)
    window = np.hanning(2 * half)
    power = np.abs(np.fft.fft2((square - square.mean()) * np.outer(window, window))) ** 2
    cycles = np.fft.fftfreq(2 * half, 1 / (2 * half))
    ring = np.rint(np.hypot(cycles[:, None], cycles)).astype(int).ravel()
    radial = np.bincount(ring, weights=power.ravel()) / np.maximum(np.bincount(ring), 1)
    used = np.arange(3, half // 2 + 1)
    if radial[used].min() < _STEP**2:
        return 0.0
    return -float(np.polyfit(np.log(used), np.log(radial[used]), 1)[0])


def _shape(breast: NDArray[np.bool_]) -> tuple[float, float]:
    """Share of the image covered, and width over height of the box."""
    ((rows, columns),) = ndimage.find_objects(breast.astype(np.int8))
    return float(breast.mean()), (columns.stop - columns.start) / (rows.stop - rows.start)


def _pectoral_excess(
    image: NDArray[np.float32], corner: NDArray[np.bool_], inside: NDArray[np.float64]
) -> float:
    """How much brighter the pectoral corner is than the tissue: muscle is the film's own scale."""
    return float(image[corner].mean() - inside.mean()) if corner.any() else 0.0
