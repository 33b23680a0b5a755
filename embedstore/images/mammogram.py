"""Find the breast on a mammogram: film labels, tape, bright borders and scanner margins left out.

Every decision is taken on a copy of at most 400 pixels a side, scaled to the image's own robust
range: a film gives the same mask at 8 bit and at 16, and almost the same at any size.

The method is the field's usual one: a minimum cross-entropy threshold (Li and Lee, Pattern
Recognition 26, 1993; iterated as in Li and Tam, Pattern Recognition Letters 19, 1998), an opening
that cuts labels and strips off, the thickest component, and its reconstruction to the skin line.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from embedstore.images.anatomy import Finding
from embedstore.images.blocks import block_sums
from embedstore.types import Floats, Pixels

__all__ = ["WORKING_SIDE", "breast_mask", "find", "is_inverted"]

_Mask: TypeAlias = NDArray[np.bool_]

WORKING_SIDE = 400
"""Pixels of the longest side of the copy that everything is decided on."""

_SMALLEST_SIDE = 32  # px; below this there is no anatomy to find
_STRIP = 0.12  # of the longest side: what is thinner is a label, a strip or a frame
_THIN = 0.4  # opening radius over the foreground's greatest depth, at most
_REACH = 1.45  # reconstruction over the opening radius: a square corner is 1.41 radii away
_RAGGED = 0.03  # of the longest side: thinner bars that touch the breast are trimmed off
_BRIGHTEST_BACKGROUND = 0.5  # background over foreground mean; above it nothing stands out
_FILM = 0.97  # of its box
_FILM_BASE = 0.3  # of tissue's mean, at most
_IMPLANT_LEVEL, _TISSUE_BESIDE_IMPLANT = 0.9, 0.6  # of the range
_GAP_FILLED = 0.2  # pixels between the two, over those above; on films without implant over 0.3
_SMALLEST_IMPLANT = 0.05  # of the image; Li's threshold stands smaller ones
_DARKEST_TISSUE = 0.15  # of the implant; below it there is no tissue, only background
_SMALLEST_BREAST = 0.02  # of the image
_SMALLEST_BACKGROUND = 0.05  # of the image


def find(grey: Pixels, turn: bool = True) -> Finding:
    """Tell the polarity of a film and mark the breast, in one pass over an (h, w) image.

    The mask is that of ``breast_mask(grey)``, or of ``breast_mask(grey.max() - grey)`` where the
    film is inverted; without `turn` it is taken as it is.
    ValueError: the image is not two-dimensional or is empty.
    """
    sampled = _sampled(grey)
    scaled = _scaled(sampled)
    inverted = turn and _bright_background(scaled)
    if inverted:  # turned before it is smoothed, so that even the rounding is the turned film's
        scaled = _scaled(grey.max() - sampled)
    found = _breast(scaled)
    region = np.ones(sampled.shape, dtype=np.bool_) if found is None else found
    return Finding(inverted, _enlarged(region, grey.shape), found is None, region)


def is_inverted(grey: Pixels) -> bool:
    """Tell whether the background is bright, as on a MONOCHROME1 film shown as stored.

    Background is flat and lies at one end of the range, tissue does neither: flat bright pixels
    of the (h, w) image are counted against flat dark ones. Where under 5 % of the image is flat
    and bright (noise, uniform, a breast that fills the frame) the answer is False.
    ValueError: the image is not two-dimensional or is empty.
    """
    return _bright_background(_scaled(_sampled(grey)))


def breast_mask(grey: Pixels) -> _Mask:
    """Mark breast and pectoral muscle; where no breast stands out, the whole image.

    The image is (h, w), bright tissue on dark (see `is_inverted`). The mask is (h, w) bool: one
    region without holes, or all True on an image that is no mammogram or has no background
    (uniform, noise, under 32 pixels a side).
    ValueError: the image is not two-dimensional or is empty.
    """
    return find(grey, turn=False).mask


def _sampled(grey: Pixels) -> Floats:
    """Make the working copy (h', w'), the longest side of 400 or less, without speckle or scratch.

    It is averaged, not picked, so that a film gives the same one at whatever size it was decoded.
    """
    if grey.ndim != 2 or grey.size == 0:
        raise ValueError(f"expected a grey image of shape (h, w), got {grey.shape}")
    longest = max(grey.shape)
    if longest <= WORKING_SIDE:
        return _median(grey.astype(np.float32))
    halvings = (longest // WORKING_SIDE).bit_length() - 1
    small = (block_sums(grey, halvings) / np.float32(4**halvings)).astype(np.float32)
    height, width = (max(1, round(n * WORKING_SIDE / longest)) for n in grey.shape)
    resized = Image.fromarray(small).resize((width, height), Image.Resampling.BOX)
    return _median(np.asarray(resized))


def _enlarged(region: _Mask, shape: tuple[int, ...]) -> _Mask:
    """Bring an (h', w') mask back to the size of the film: (h, w) bool."""
    rows, columns = (np.arange(n) * have // n for n, have in zip(shape, region.shape, strict=True))
    mask: _Mask = region.take(columns, axis=1).take(rows, axis=0)
    return mask


def _median(grey: Floats) -> Floats:
    """Median of 3 x 3 pixels, mirrored at the edges; a sorting network, far quicker than SciPy's.

    Of columns sorted in threes, the median is that of the highest low, the middle middle and the
    lowest high (Smith, "Implementing median filters in XC4000E FPGAs", Xcell 23, 1996).
    """
    padded = np.pad(grey, 1, mode="symmetric")
    low, middle, high = _sorted(padded[:-2], padded[1:-1], padded[2:])
    lows = np.maximum(np.maximum(low[:, :-2], low[:, 1:-1]), low[:, 2:])
    highs = np.minimum(np.minimum(high[:, :-2], high[:, 1:-1]), high[:, 2:])
    middles = _sorted(middle[:, :-2], middle[:, 1:-1], middle[:, 2:])[1]
    return _sorted(lows, middles, highs)[1]


def _sorted(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
    """Sort three images of one shape, pixel by pixel."""
    a, b = np.minimum(a, b), np.maximum(a, b)
    b, c = np.minimum(b, c), np.maximum(b, c)
    return np.minimum(a, b), np.maximum(a, b), c


def _scaled(sampled: Floats) -> Floats | None:
    """Smooth; scale to 0..1 between darkest pixel and 99th percentile; None where there is none."""
    small = ndimage.gaussian_filter(sampled, 1.0)
    low, high = float(small.min()), float(np.percentile(small, 99))
    if min(small.shape) < _SMALLEST_SIDE or high <= low:
        return None
    return np.asarray(np.clip((small - low) / (high - low), 0.0, 1.0), dtype=np.float32)


def _bright_background(scaled: Floats | None) -> bool:
    """Weigh flat bright pixels against flat dark ones, see `is_inverted`."""
    if scaled is None:
        return False
    ends = scaled < 0.1, scaled > 0.9
    if ends[1].mean() <= _SMALLEST_BACKGROUND:
        return False
    flat = _range(scaled) < 0.03
    dark, bright = (float((flat & end).mean()) for end in ends)
    return bright > max(dark, _SMALLEST_BACKGROUND)


def _range(scaled: Floats) -> Floats:
    """Brightest less darkest of the 5 x 5 pixels around each, mirrored at the edges."""
    extremes = []
    for pick in (np.maximum, np.minimum):
        best = np.pad(scaled, 2, mode="symmetric")
        for _ in range(2):  # along the rows, then, turned, along the columns
            pairs = pick(best[:-1], best[1:])
            best = pick(pick(pairs[:-3], pairs[2:-1]), best[4:]).T
        extremes.append(best)
    return extremes[0] - extremes[1]


def _breast(scaled: Floats | None) -> _Mask | None:
    """Segment the reduced image (h', w') in 0..1; None where no breast stands out."""
    if scaled is None:
        return None
    scaled = _without_implant(scaled)
    foreground = _off_film(scaled, scaled > _skin_threshold(scaled))
    if not foreground.any() or foreground.all():
        return None
    if scaled[~foreground].mean() > _BRIGHTEST_BACKGROUND * scaled[foreground].mean():
        return None
    region = _thickest(foreground)
    return region if region.mean() >= _SMALLEST_BREAST else None


def _without_implant(scaled: Floats) -> Floats:
    """Where an implant outshines all tissue, bring it down to the brightest tissue.

    It is several times as bright, so that Li's threshold may part it from breast and background
    alike. Unlike dense tissue or muscle it is large and nothing is nearly as bright: the levels
    below it are empty.
    """
    bright = scaled > _IMPLANT_LEVEL
    rest = scaled[scaled <= _TISSUE_BESIDE_IMPLANT]
    between = scaled.size - rest.size - np.count_nonzero(bright)
    if bright.mean() < _SMALLEST_IMPLANT or between > _GAP_FILLED * np.count_nonzero(bright):
        return scaled
    top = np.float32(np.percentile(rest, 99))
    return scaled if top < _DARKEST_TISSUE else np.minimum(scaled / top, np.float32(1))


def _off_film(scaled: Floats, foreground: _Mask) -> _Mask:
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


def _skin_threshold(scaled: Floats) -> float:
    """Step from Li's threshold towards the background, for the skin fades into it.

    The geometric mean of the two is taken. The scanner's black margin (the first bin) is left out
    of the background: on some films it is half the image, and film base is brighter.
    """
    bins = np.minimum(scaled * np.float32(256), 255).astype(np.uint8)
    counts = np.bincount(bins.ravel(), minlength=256)
    level = np.arange(1, 257) / 256  # upper edges: never 0, so that the logarithm is finite
    threshold = _cross_entropy_threshold(counts, level)
    base = np.where(level <= threshold, counts, 0)
    base[0] = 0
    dark = float(np.average(level, weights=base) if base.any() else level[0])
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
        dark = float(np.average(level[below], weights=counts[below]))
        light = float(np.average(level[~below], weights=counts[~below]))
        update = (light - dark) / float(np.log(light / dark))
        if update <= threshold:
            break
        threshold = update
    return threshold


def _thickest(foreground: _Mask) -> _Mask:
    """Keep the component whose opening by a disc is largest, grown back to its own outline."""
    radius = _opening_radius(foreground)
    core = _largest(_eroded(foreground, radius))
    within, _ = ndimage.label(_near(core, _REACH * radius) & foreground)
    region = within == within.ravel()[np.argmax(core)]  # the core lies in one component
    trim = min(_RAGGED / 2 * max(foreground.shape), radius)
    return _filled(_largest(region & _near(_eroded(region, trim), trim)))


def _opening_radius(foreground: _Mask) -> float:
    """Say how wide the opening disc may be (px) that leaves something of the foreground."""
    strip: float = _STRIP / 2 * max(foreground.shape)
    if _eroded(foreground, strip / _THIN).any():  # spares most films the distance transform
        return strip
    depth = ndimage.distance_transform_edt(np.pad(foreground, 1))
    return min(strip, _THIN * float(depth.max()))


def _eroded(region: _Mask, radius: float) -> _Mask:
    """Keep what lies deeper than the radius (px); beyond the image is outside."""
    return ~_near(np.pad(~region, 1, constant_values=True), radius)[1:-1, 1:-1]


def _near(region: _Mask, radius: float) -> _Mask:
    """Mark what lies within the radius (px) of the region, itself included.

    A disc is a row of vertical bars, and longer bars are grown from shorter ones. With a margin
    as wide as the disc every shift is one of the flat array, which is several times the pace of
    a distance transform.
    """
    reach = int(radius)
    squares = np.arange(reach + 1.0) ** 2
    bars = [int((np.sqrt(squares + square) <= radius).sum()) - 1 for square in squares]
    padded = np.pad(region, reach)
    flat, bar, disc = padded.ravel(), padded.flatten(), np.zeros(padded.size, dtype=np.bool_)
    for aside in range(reach, -1, -1):
        half = bars[aside + 1] if aside < reach else 0
        for longer in range(half + 1, bars[aside] + 1):
            _spread(bar, flat, longer * padded.shape[1])
        _spread(disc, bar, aside)
    inner = slice(reach, -reach or None)
    return disc.reshape(padded.shape)[inner, inner]


def _spread(into: _Mask, flat: _Mask, shift: int) -> None:
    """Add the flat mask, shifted both ways, to another of its size."""
    end = flat.size - shift
    np.logical_or(into[shift:], flat[:end], out=into[shift:])
    np.logical_or(into[:end], flat[shift:], out=into[:end])


def _filled(region: _Mask) -> _Mask:
    """Fill the holes: what the background around the image cannot reach."""
    outside, _ = ndimage.label(np.pad(~region, 1, constant_values=True))
    return np.asarray(outside != outside[0, 0])[1:-1, 1:-1]


def _largest(region: _Mask) -> _Mask:
    """Keep the largest connected component."""
    labels, _ = ndimage.label(region)
    return np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
