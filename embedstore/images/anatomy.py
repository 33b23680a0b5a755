"""What the outline of a breast tells: chest wall, box, laterality and view.

Nothing here looks at grey levels; `embedstore.images.mammogram` finds the outline.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Finding", "bounding_box", "chest_wall", "laterality", "surroundings", "view"]

_AT_THE_TOP = 0.01  # of the film's height: an outline this near the top edge reaches it
_BELOW_THE_TOP = 0.03  # of the film's height: an outline this far down does not
_LOPSIDED, _HALF_OVAL = 0.90, 0.95  # overlap of the outline with its mirror image
_OVAL_ENOUGH = 0.85  # the same, for an outline that does not reach the top


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found on a film of (h, w) pixels.

    Attributes
    ----------
    inverted : bool
        The background is bright (see `is_inverted`); the masks are those of the turned film.
    mask : ndarray of bool, shape (h, w)
        Breast and pectoral muscle (see `breast_mask`) on the film as it is to be seen.
    whole : bool
        No breast stood out, and the mask is all True.
    region : ndarray of bool, shape (h', w')
        The mask on the working copy, of at most 400 pixels a side.
    """

    inverted: bool
    mask: NDArray[np.bool_]
    whole: bool
    region: NDArray[np.bool_]


def chest_wall(mask: NDArray[np.bool_]) -> Literal["left", "right"]:
    """Say on which side of the image the chest wall lies, from the (h, w) breast mask.

    The breast is tall at the chest wall and tapers to the nipple, so of the box's outer quarters
    the fuller one is the chest wall's. A tie (a whole-image mask) is "left".
    ValueError: the mask is not two-dimensional or marks nothing.
    """
    rows, columns = bounding_box(mask)
    heights = np.count_nonzero(mask[rows, columns], axis=0)
    quarter = max(1, heights.size // 4)
    return "left" if heights[:quarter].sum() >= heights[-quarter:].sum() else "right"


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Box the (h, w) mask: row and column slices, so that ``image[bounding_box(mask)]`` crops.

    ValueError: the mask is not two-dimensional or marks nothing.
    """
    if mask.ndim != 2 or not mask.any():
        raise ValueError(f"expected an (h, w) mask with a True in it, got shape {mask.shape}")
    ends = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    rows, columns = (slice(int(first), int(last) + 1) for first, last in ends)
    return rows, columns


def surroundings(region: NDArray[np.bool_], margin: float = 0.01) -> tuple[float, ...]:
    """Box a mask with some air: left, top, right, bottom, in shares of its width and height.

    The margin is added on every side, as a share of the box's longer side, within the image. In
    shares, since a film is to be cut at the same places at whatever size it was decoded.
    ValueError: the mask is not two-dimensional or marks nothing.
    """
    rows, columns = bounding_box(region)
    pad = margin * max(rows.stop - rows.start, columns.stop - columns.start)
    height, width = region.shape
    return (
        max(0.0, (columns.start - pad) / width),
        max(0.0, (rows.start - pad) / height),
        min(1.0, (columns.stop + pad) / width),
        min(1.0, (rows.stop + pad) / height),
    )


def laterality(finding: Finding) -> Literal["L", "R", ""]:
    """Tell the side by the display convention; "" where no breast stood out.

    Pictures are shown back to back, the chest wall of the left breast at the left (patient
    orientation A at the right; IHE Mammography Image profile, hanging). A file stored mirrored
    gives the other side: nothing in a picture but its marker would show it.
    """
    if finding.whole:
        return ""
    return "L" if chest_wall(finding.region) == "left" else "R"


def view(finding: Finding) -> Literal["CC", "MLO", ""]:
    """Tell the view by the outline; "" where it could be either, or where no breast stood out.

    An MLO takes in muscle and axillary tail: its outline runs out of the film at the top, and
    tail and fold differ. A CC is a half oval, much the same upside down, and mostly ends below
    the top edge. (What the views show: Bassett and others, Quality Determinants of Mammography,
    AHCPR 95-0632, 1994; the thresholds are this module's.) A film that is upside down is out of
    scope, as is one cut to the breast unless its outline is very even.
    """
    if finding.whole:
        return ""
    rows, columns = bounding_box(
        finding.region,
    )
    outline = finding.region[rows, columns]
    even = _overlap(outline, outline[::-1])
    gap = rows.start / finding.region.shape[0]
    if gap <= _AT_THE_TOP and even < _LOPSIDED:
        return "MLO"
    if even >= _HALF_OVAL or (gap >= _BELOW_THE_TOP and even >= _OVAL_ENOUGH):
        return "CC"
    return ""


def _overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape."""
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)
