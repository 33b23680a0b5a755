"""Find the breast on a mammogram: film labels, tape, bright borders and scanner margins left out.

Every decision is taken on a copy of at most about 400 pixels a side, scaled to the image's own
robust range, so that a film read at 8 bit and the same film at 16 bit give the same mask.

The method is the field's usual one: a minimum cross-entropy threshold (Li and Lee, Pattern
Recognition 26, 1993; iterated as in Li and Tam, Pattern Recognition Letters 19, 1998), an opening
that cuts labels and strips off, the thickest component, and its reconstruction to the skin line.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["bounding_box", "breast_mask", "chest_wall", "is_inverted"]

_WORKING_SIDE = 400  # px, longest side of the reduced copy
_SMALLEST_SIDE = 32  # px; below this there is no anatomy to find
_STRIP = 0.12  # of the longest side: what is thinner is a label, a strip or a frame
_REACH = 1.45  # reconstruction over the opening radius: a square corner is 1.41 radii away
_RAGGED = 0.03  # of the longest side: thinner bars that touch the breast are trimmed off
_BRIGHTEST_BACKGROUND = 0.5  # background over foreground mean; above it nothing stands out
_FILM = 0.97  # of its box
_FILM_BASE = 0.3  # of tissue's mean, at most
_SMALLEST_BREAST = 0.02  # of the image
_SMALLEST_BACKGROUND = 0.05  # of the image


def is_inverted(grey: NDArray[np.uint8] | NDArray[np.uint16]) -> bool:
    """Tell whether the background is bright, as on a MONOCHROME1 film shown as stored.

    Background is flat and lies at one end of the range, tissue does neither: flat bright pixels
    of the (h, w) image are counted against flat dark ones. Where under 5 % of the image is flat
    and bright (noise, uniform, a breast that fills the frame) the answer is False.
    ValueError: the image is not two-dimensional or is empty.
    """
    small, _ = _reduced(grey)
    scaled = _scaled(small)
    if scaled is None:
        return False
    flat = ndimage.maximum_filter(scaled, 5) - ndimage.minimum_filter(scaled, 5) < 0.03
    dark = float((flat & (scaled < 0.1)).mean())
    bright = float((flat & (scaled > 0.9)).mean())
    return bright > max(dark, _SMALLEST_BACKGROUND)


def breast_mask(grey: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Mark breast and pectoral muscle; where no breast stands out, the whole image.

    The image is (h, w), bright tissue on dark (see `is_inverted`). The mask is (h, w) bool: one
    region without holes, or all True on an image that is no mammogram or has no background
    (uniform, noise, under 32 pixels a side).
    ValueError: the image is not two-dimensional or is empty.
    """
    small, step = _reduced(grey)
    scaled = _scaled(small)
    region = None if scaled is None else _breast(scaled)
    if region is None:
        return np.ones(grey.shape, dtype=np.bool_)
    rows, columns = (np.arange(n) // step for n in grey.shape)
    return region[rows][:, columns]


def chest_wall(mask: NDArray[np.bool_]) -> Literal["left", "right"]:
    """Say on which side of the image the chest wall lies, from the (h, w) breast mask.

    The breast is tall at the chest wall and tapers to the nipple, so of the box's outer quarters
    the fuller one is the chest wall's. A tie (a whole-image mask) is "left".
    ValueError: the mask is not two-dimensional or marks nothing.
    """
    rows, columns = bounding_box(mask, margin=0.0)
    heights = np.count_nonzero(mask[rows, columns], axis=0)
    quarter = max(1, heights.size // 4)
    return "left" if heights[:quarter].sum() >= heights[-quarter:].sum() else "right"


def bounding_box(mask: NDArray[np.bool_], margin: float = 0.01) -> tuple[slice, slice]:
    """Box the (h, w) mask: row and column slices, so that ``image[bounding_box(mask)]`` crops.

    The margin is added on every side, as a share of the box's longer side, within the image.
    ValueError: the mask is not two-dimensional or marks nothing, or the margin is negative.
    """
    if mask.ndim != 2 or not mask.any():
        raise ValueError(f"expected an (h, w) mask with a True in it, got shape {mask.shape}")
    if margin < 0:
        raise ValueError(f"margin must be 0 or more, got {margin}")
    ends = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    pad = round(margin * max(int(last - first) + 1 for first, last in ends))
    rows, columns = (
        slice(max(0, int(first) - pad), min(size, int(last) + 1 + pad))
        for (first, last), size in zip(ends, mask.shape, strict=True)
    )
    return rows, columns


def _reduced(
    grey: NDArray[np.uint8] | NDArray[np.uint16],
) -> tuple[NDArray[np.float32], int]:
    """Take every ``step``-th pixel, (h', w') float32, speckle and scratches smoothed away."""
    if grey.ndim != 2 or grey.size == 0:
        raise ValueError(f"expected a grey image of shape (h, w), got {grey.shape}")
    step = max(1, -(-max(grey.shape) // _WORKING_SIDE))
    centre = step // 2 if min(grey.shape) > step else 0
    small = grey[centre::step, centre::step].astype(np.float32)
    rows, columns = (-(-n // step) for n in grey.shape)
    missing = (0, rows - small.shape[0]), (0, columns - small.shape[1])
    small = np.pad(small, missing, mode="edge")
    return ndimage.gaussian_filter(ndimage.median_filter(small, 3), 1.0), step


def _scaled(small: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Scale to 0..1 between the darkest pixel and the 99th percentile; None where there is none."""
    low, high = float(small.min()), float(np.percentile(small, 99))
    if min(small.shape) < _SMALLEST_SIDE or high <= low:
        return None
    scaled: NDArray[np.float32] = np.clip((small - low) / (high - low), 0.0, 1.0)
    return scaled


def _breast(scaled: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """Segment the reduced image (h', w') in 0..1; None where no breast stands out."""
    foreground = _off_film(scaled, scaled > _skin_threshold(scaled))
    if not foreground.any() or foreground.all():
        return None
    if scaled[~foreground].mean() > _BRIGHTEST_BACKGROUND * scaled[foreground].mean():
        return None
    region = _thickest(foreground)
    return region if region.mean() >= _SMALLEST_BREAST else None


def _off_film(scaled: NDArray[np.float32], foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the foreground is a whole film in a black margin, take the film base off it.

    A film fills its box, and its base is far darker than tissue; a breast that fills the frame
    also fills its box, but fat is not that much darker than glandular tissue.
    """
    boxes = ndimage.find_objects(foreground.astype(np.int8))
    if not boxes or foreground[boxes[0]].mean() < _FILM:
        return foreground
    tissue = foreground & (scaled > _skin_threshold(scaled[foreground]))
    base = foreground & ~tissue
    if not tissue.any() or not base.any():
        return foreground
    return tissue if scaled[base].mean() < _FILM_BASE * scaled[tissue].mean() else foreground


def _skin_threshold(scaled: NDArray[np.float32]) -> float:
    """Step from Li's threshold towards the background, for the skin fades into it.

    The geometric mean of the two is taken. The scanner's black margin (the first bin) is left out
    of the background: on some films it is half the image, and film base is brighter.
    """
    counts, edges = np.histogram(scaled, bins=256, range=(0.0, 1.0))
    level = edges[1:]  # never 0, so that the logarithm of black is finite
    threshold = _cross_entropy_threshold(counts, level)
    base = counts * (level <= threshold)
    base[0] = 0
    dark = np.average(level, weights=base) if base.any() else level[0]
    return float(np.sqrt(threshold * dark))


def _cross_entropy_threshold(counts: NDArray[np.int64], level: NDArray[np.float64]) -> float:
    """Iterate Li and Tam's threshold up from the dark end, to the lowest fixed point.

    Starting low matters on a dense breast that fills the frame: a higher fixed point parts dense
    from fatty tissue. Both arguments are (bins,): pixels per level, and positive levels ascending.
    """
    threshold = float(level[np.argmax(counts > 0)])
    for _ in range(100):
        below = level <= threshold
        if not counts[below].any() or not counts[~below].any():
            break
        dark = np.average(level[below], weights=counts[below])
        light = np.average(level[~below], weights=counts[~below])
        update = float((light - dark) / np.log(light / dark))
        if update <= threshold:
            break
        threshold = update
    return threshold


def _thickest(foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the component whose opening by a disc is largest, grown back to its own outline."""
    side = max(foreground.shape)
    thickness = _depth(foreground)
    radius = min(_STRIP / 2 * side, 0.4 * float(thickness.max()))
    core = _largest(thickness > radius)
    near = ndimage.distance_transform_edt(~core) <= _REACH * radius
    region = ndimage.binary_propagation(core, mask=near & foreground)
    trim = min(_RAGGED / 2 * side, radius)
    to_bulk = ndimage.distance_transform_edt(_depth(region) <= trim)
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(_largest(region & (to_bulk <= trim)))
    return filled


def _depth(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the outside in pixels; the image edge counts, so an edge strip is thin."""
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    return depth


def _largest(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest connected component."""
    labels, _ = ndimage.label(region)
    keep: NDArray[np.bool_] = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return keep
