"""Stored values to grey levels or colours, the way a DICOM image is meant to be seen.

Modality LUT, VOI LUT and windows are pydicom's; added here are the scale the result is given on and
what a multi-frame file keeps per frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
)

from embedstore.errors import ImageError
from embedstore.types import Pixels

__all__ = ["colour", "grey"]

_PRESENTATION = (
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PresentationLUTShape",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
)
_Values = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]


def grey(stored: NDArray[np.integer[Any]], ds: Dataset, frame: int, window: int) -> Pixels:
    """Show (h, w) stored values of a frame; see `DicomImage.pixels`.

    Each pixel is looked up: what is done to a level is computed once per level, not per pixel.
    """
    unsigned = np.dtype(f"u{stored.itemsize}")
    levels = np.arange(2 ** (8 * stored.itemsize), dtype=unsigned).view(stored.dtype)
    table = _shown(levels, _presentation(ds, frame), window)
    shown: Pixels = table[stored.view(unsigned)]
    return shown


def colour(stored: NDArray[np.integer[Any]], ds: Dataset) -> Pixels:
    """RGB, or indices into a palette, to (h, w, 3) uint8."""
    bits = int(ds.BitsStored)
    if stored.ndim == 2:
        stored = apply_color_lut(stored, ds)
        bits = 8 * stored.itemsize
    return _scaled(stored[..., :3], 0, 2**bits - 1, 255)


def _presentation(ds: Dataset, frame: int) -> Dataset:
    """Gather what says how a frame is shown; multi-frame images keep it in functional groups.

    Pixel Value Transformation and Frame VOI LUT macros, PS3.3 C.7.6.16.2.9 and C.7.6.16.2.10:
    what holds for this frame alone stands over what all frames share.
    """
    shown = Dataset()
    shown.file_meta = ds.file_meta  # LUTs are read in its byte order
    for name in _PRESENTATION:
        if name in ds and not ds[name].is_empty:
            shown.add(ds[name])
    shared = list(ds.get("SharedFunctionalGroupsSequence") or [])[:1]
    own = list(ds.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    for groups in shared + own:
        for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (groups.get(macro) or [])[:1]:
                shown.update(item)
    return shown


def _shown(levels: NDArray[np.integer[Any]], ds: Dataset, window: int) -> Pixels:
    """(n,) stored values to (n,) levels of the result, uint8 or uint16."""
    # int32: pydicom subtracts a LUT's first level in the array's own type
    values, low, high = _voi(apply_modality_lut(levels.astype(np.int32), ds), ds, window)
    if not (np.isfinite(low) and np.isfinite(high) and low != high):
        raise ImageError("decode", f"the grey levels span {low} to {high}")
    plain = ds.BitsStored <= 8 and _views(ds) == 0 and not ds.get("ModalityLUTSequence")
    shown = _scaled(values, low, high, 255 if plain else 65535)
    inverse = str(ds.get("PresentationLUTShape", "")).strip().upper() == "INVERSE"
    if inverse or ds.PhotometricInterpretation == "MONOCHROME1":
        np.invert(shown, out=shown)
    shown[_padding(levels, ds)] = 0
    return shown


def _scaled(values: _Values, low: float, high: float, top: int) -> Pixels:
    """Put low..high, which may fall, on 0..`top`, 255 or 65535; what lies outside is clipped.

    (x - 0) / 255 * 255 and the like round to x again, so that full ranges stay as they are.
    """
    share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    scaled = np.rint(share * top)
    return scaled.astype(np.uint8) if top == 255 else scaled.astype(np.uint16)


def _voi(values: _Values, ds: Dataset, window: int) -> tuple[_Values, float, float]:
    """Apply VOI LUT or window; the values, and what the darkest and the brightest can be."""
    luts, count = len(ds.get("VOILUTSequence") or []), _views(ds)
    if not 0 <= window < max(count, 1):
        raise ImageError("decode", f"window {window} was asked for; the file has {count}, from 0")
    if luts:
        return _voi_lut(values, ds, window)
    if count:
        low, high = _ends(ds, window)
        return apply_windowing(values, ds, window), low, high
    whole = Dataset()
    whole.update(ds)
    whole.WindowCenter, whole.WindowWidth, whole.VOILUTFunction = 0, 1, "LINEAR"
    low, high = sorted(_ends(whole, 0))
    return values, low, high


def _views(ds: Dataset) -> int:
    """Count the alternatives to choose among: VOI LUTs where there are some, else windows."""
    windows = ds["WindowCenter"].VM if "WindowCenter" in ds and "WindowWidth" in ds else 0
    return len(ds.get("VOILUTSequence") or []) or windows


def _ends(ds: Dataset, window: int) -> tuple[float, float]:
    """Darkest and brightest result of a window: what pydicom makes of minus and plus infinity."""
    low, high = apply_windowing(np.array([-np.inf, np.inf]), ds, window)
    return float(low), float(high)


def _voi_lut(values: _Values, ds: Dataset, window: int) -> tuple[_Values, float, float]:
    item = ds.VOILUTSequence[window]
    count, first, bits = item.LUTDescriptor
    # pydicom keeps the place in the LUT in the type of the LUT's entries: values far outside, and
    # in 8-bit LUTs all from the 257th on, would start again from its beginning
    inside = np.clip(values, first, first + (count or 2**16) - 1)
    wide = Dataset()
    wide.update(item)
    wide.LUTDescriptor = [count, first, 16 if bits == 8 else bits]
    only = Dataset()
    only.file_meta = ds.file_meta
    only.VOILUTSequence = [wide]
    return apply_voi(inside, only), 0, 2**bits - 1


def _padding(levels: NDArray[np.integer[Any]], ds: Dataset) -> NDArray[np.bool_]:
    """Mark the stored values that stand for no pixel: one, or a range with both its ends."""
    if "PixelPaddingValue" not in ds:
        return np.zeros(levels.shape, dtype=np.bool_)
    value, limit = ds.PixelPaddingValue, ds.get("PixelPaddingRangeLimit", ds.PixelPaddingValue)
    # some write a signed value as if it were unsigned
    low, high = sorted(np.array([value, limit], dtype=np.int64).astype(levels.dtype).tolist())
    marked: NDArray[np.bool_] = (levels >= low) & (levels <= high)
    return marked
