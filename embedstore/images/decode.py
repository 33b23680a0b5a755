"""One image file to grey or colour pixels, at full depth."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from embedstore.bucket import Unreachable
from embedstore.errors import ImageError
from embedstore.images.dicom import DicomImage, is_dicom
from embedstore.types import Pixels

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".dcm", ".dicom"})
"""File name endings taken for images when a folder is walked."""

FORMATS = ("PNG", "JPEG", "TIFF", "PPM")
"""What Pillow may take a file for; it knows many more, some with interpreters behind them."""

LARGE_FILE = 512 * 2**20
"""Bytes up to which a file is read in one go."""

MIN_SIDE = 8
MAX_ASPECT = 50
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}


class ImageFile(Protocol):
    """An image file opened: its shape (h, w) and side are known, its pixels wait to be decoded."""

    shape: tuple[int, int]
    laterality: str

    def pixels(self, frame: int = 0, window: int = 0, halvings: int = 0) -> Pixels:
        """Decode to (h, w) or (h, w, 3), uint8 or uint16; see `DicomImage.pixels`."""


def read(path: Path) -> tuple[bytes, ImageFile]:
    """Read one file: the first 16 bytes of its sha256, and the image in it.

    Raises
    ------
    ImageError
        At stage "read" or "decode", saying why.
    """
    try:
        if path.stat().st_size > LARGE_FILE:  # tomosynthesis: of many frames, a few are wanted
            file: BufferedReader | io.BytesIO = path.open("rb")
        else:
            file = io.BytesIO(path.read_bytes())
        digest = hashlib.file_digest(file, "sha256").digest()[:16]
    except Unreachable:
        raise
    except OSError as error:
        raise ImageError("read", error.strerror or str(error)) from error
    if not file.seek(0, io.SEEK_END):
        raise ImageError("read", "the file is empty")
    return digest, open_image(file)


def digest_of(path: Path) -> bytes:
    """Return the first 16 bytes of a file's sha256; `ImageError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()[:16]
    except Unreachable:
        raise
    except OSError as error:
        raise ImageError("read", error.strerror or str(error)) from error


def decode(data: bytes, frame: int = 0, window: int = 0, halvings: int = 0) -> Pixels:
    """Decode the bytes of a PNG, JPEG, TIFF, PGM or DICOM file; see `DicomImage.pixels`."""
    return open_image(io.BytesIO(data)).pixels(frame, window, halvings)


def open_image(file: BinaryIO) -> ImageFile:
    """Open a PNG, JPEG, TIFF, PGM or DICOM file.

    Raises
    ------
    ImageError
        At stage "decode": it is none of these, or of a shape that no image has.
    """
    file.seek(0)
    image = DicomImage(file) if is_dicom(file.read(132)) else _Picture(file)
    _check_shape(*image.shape)
    return image


class _Picture:
    """A file that Pillow reads."""

    laterality = ""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        with self._opened() as image:
            self.shape = image.size[::-1]

    def pixels(self, frame: int = 0, window: int = 0, halvings: int = 0) -> Pixels:
        """Decode; only a JPEG can be had at a half, a quarter or an eighth of its size."""
        if frame:
            raise ImageError("decode", f"frame {frame} was asked for; only DICOM has several")
        with self._opened() as image:
            if halvings and image.format == "JPEG" and image.mode in {"L", "RGB"}:
                image.draft(image.mode, _halved(image.size, min(halvings, 3)))
            return _pixels(image)

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        self._file.seek(0)
        try:
            with warnings.catch_warnings():
                # what Pillow only warns of (odd tags, 89 megapixels) is no reason to leave it out
                warnings.simplefilter("ignore")
                with Image.open(self._file, formats=FORMATS) as image:
                    yield image
        except UnidentifiedImageError as error:
            known = "PNG, JPEG, TIFF, PGM, DICOM"
            raise ImageError("decode", f"not an image in a format known here ({known})") from error
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - Pillow raises nearly anything on a damaged file
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ImageError("decode", reason) from error


def _halved(size: tuple[int, int], halvings: int) -> tuple[int, int]:
    return -(-size[0] // 2**halvings), -(-size[1] // 2**halvings)


def _check_shape(h: int, w: int) -> None:
    if not h * w:
        raise ImageError("decode", f"{w}x{h} pixels: the file holds no image")
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
