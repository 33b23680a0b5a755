"""Bytes of one image file to grey or colour pixels, at full depth."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from embedstore.errors import ImageError
from embedstore.images import dicom
from embedstore.types import Pixels

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".dcm", ".dicom"})
"""File name endings taken for images when a folder is walked."""

FORMATS = ("PNG", "JPEG", "TIFF", "PPM")
"""What Pillow may take a file for; it knows many more, some with interpreters behind them."""

MIN_SIDE = 8
MAX_ASPECT = 50
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}


def read(path: Path) -> tuple[bytes, Pixels]:
    """Read one file: the first 16 bytes of its sha256, and its pixels.

    Returns
    -------
    tuple
        digest (16 bytes) and pixels, (h, w) or (h, w, 3), uint8 or uint16.

    Raises
    ------
    ImageError
        At stage "read" or "decode", saying why.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError("read", error.strerror or str(error)) from error
    if not data:
        raise ImageError("read", "the file is empty")
    return hashlib.sha256(data).digest()[:16], decode(data)


def decode(data: bytes) -> Pixels:
    """Decode PNG, JPEG, TIFF, PGM or DICOM to (h, w) or (h, w, 3) pixels, uint8 or uint16.

    Of a multi-frame DICOM file the first frame, of several windows the first.
    """
    pixels = dicom.decode(data) if dicom.is_dicom(data) else _picture(data)
    _check_shape(*pixels.shape[:2])
    return pixels


def _picture(data: bytes) -> Pixels:
    try:
        with warnings.catch_warnings():
            # what Pillow only warns of (odd tags, 89 megapixels) is no reason to leave an image out
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _pixels(image)
    except UnidentifiedImageError as error:
        known = "PNG, JPEG, TIFF, PGM, DICOM"
        raise ImageError("decode", f"not an image in a format known here ({known})") from error
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises nearly anything on a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImageError("decode", reason) from error


def _check_shape(h: int, w: int) -> None:
    if min(h, w) < MIN_SIDE:
        raise ImageError("decode", f"{w}x{h} pixels; at least {MIN_SIDE} a side are needed")
    if max(h, w) > MAX_ASPECT * min(h, w):
        raise ImageError("decode", f"{w}x{h} pixels; one side is over {MAX_ASPECT} times the other")


def _pixels(image: Image.Image) -> Pixels:
    if image.mode in _SIXTEEN_BIT:
        return _sixteen(np.asarray(image))
    if image.mode in {"L", "1"}:
        return np.asarray(image.convert("L"))
    if image.mode in {"LA"}:
        return np.asarray(image.getchannel("L"))
    if image.mode == "F":
        raise ImageError("decode", "floating-point grey levels; store 8- or 16-bit integers")
    return np.asarray(image.convert("RGB"))


def _sixteen(grey: np.ndarray[tuple[int, ...], np.dtype[np.integer]]) -> Pixels:
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > 65535:
        raise ImageError("decode", f"grey levels {low} to {high} do not fit 16 bits")
    return np.ascontiguousarray(grey.astype(np.uint16))
