"""One DICOM file to grey or colour pixels, as pydicom decodes and presents them.

Decoding, modality LUT, VOI LUT and windows are pydicom's; added here are the scale the result is
given on, what a multi-frame file keeps per frame, and limits on what a file may ask for.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
)
from pydicom.pixels.utils import _get_jpg_parameters, as_pixel_options, get_nr_frames

from embedstore.errors import ImageError
from embedstore.images.blocks import block_means
from embedstore.images.dicom_codecs import JPEG2000, codec, reduced
from embedstore.images.dicom_tags import guarded, is_dicom, laterality, parse
from embedstore.types import Pixels

__all__ = ["LARGEST_FRAME", "DicomImage", "is_dicom"]

LARGEST_FRAME = 178_956_970
"""Pixels of one frame; Pillow refuses larger images (twice its ``MAX_IMAGE_PIXELS``)."""

_PIXEL_DATA = 0x7FE0, 0x0010
_GREY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "PALETTE COLOR"}  # what is left once pydicom has converted YBR to RGB
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


class DicomImage:
    """A DICOM file, parsed up to its pixels; frames are read and decoded when asked for.

    Attributes
    ----------
    shape
        Height and width of a frame, pixels.
    laterality
        "L", "R", "B" or "": what the tags say.

    Raises
    ------
    ImageError
        At stage "decode", saying why.
    """

    def __init__(self, file: BinaryIO) -> None:
        with guarded():
            self._ds, self._file = parse(file)
            self._pixel_vr, self._length = _pixel_header(self._file, self._ds)
            self._start = self._file.tell()
            self._length = min(self._length, self._file.seek(0, io.SEEK_END) - self._start)
            self.shape = int(self._ds.get("Rows") or 0), int(self._ds.get("Columns") or 0)
            self.laterality = laterality(self._ds)
            self._last: tuple[tuple[int, int], Pixels] | None = None

    def pixels(self, frame: int = 0, window: int = 0, halvings: int = 0) -> Pixels:
        """Decode one frame the way it is meant to be seen: bright is bright, air is dark.

        Stored values go through the modality LUT or rescale (PS3.3 C.11.1), then through the VOI
        LUT or else the window (C.11.2), as pydicom does it. The range this can give (a LUT's 0 to
        ``2**bits - 1``, a window's as pydicom states it, and without either the range of the
        stored bits after the modality LUT) is put on 0..65535, or on 0..255 for images of up to 8
        bits with neither VOI nor modality LUT. It is the range of the file's type, not of this
        frame's pixels: frames stay comparable, and up to 16 bits no two levels become one unless
        the VOI makes them. MONOCHROME1 and a presentation LUT shape of INVERSE (C.11.6) are
        turned; pixel padding (C.7.5.1.1.2) is 0 after that. Colour is RGB, at 8 bits.

        Parameters
        ----------
        frame
            Which frame of a multi-frame image, from 0.
        window
            Which of several VOI LUTs, or of several windows where there is no VOI LUT, from 0.
        halvings
            0 is exact. With 1, 2, … the image comes at a half, a quarter, … of its height and
            width: grey JPEG 2000 and baseline JPEG are decoded no further, anything else is
            averaged over blocks of 2x2, 4x4, …. Held against the means of the exact result over
            those blocks, breast-like texture is off by less than 1 % of the range in the mean and
            10 % at most; a hard edge or a narrow window can take single pixels further.

        Returns
        -------
        ndarray
            (h, w) uint8 or uint16, or (h, w, 3) uint8; h is ``ceil(shape[0] / 2**halvings)``.

        Raises
        ------
        ImageError
            At stage "decode", saying why.
        """
        with guarded():
            self._check(frame)
            small, done = self._reduced(frame, halvings)
            if small is not None:
                return block_means(self._grey(small, frame, window), halvings - done)
            if self._last is None or self._last[0] != (frame, window):  # asked for at two sizes
                self._last = (frame, window), self._exact(frame, window)
            return block_means(self._last[1], halvings)

    def _exact(self, frame: int, window: int) -> Pixels:
        decoder, plugin = codec(self._ds.file_meta.TransferSyntaxUID)
        options = as_pixel_options(self._ds, pixel_keyword="PixelData", pixel_vr=self._pixel_vr)
        self._file.seek(self._start)
        stored, found = decoder.as_array(self._file, index=frame, decoding_plugin=plugin, **options)
        # big endian stays so in pydicom's array
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        photometric = str(found["photometric_interpretation"])
        if photometric in _GREY and stored.ndim == 2:
            return self._grey(stored, frame, window)
        if photometric in _COLOUR:
            return _colour(stored, self._ds)
        raise ImageError("decode", f"photometric interpretation {photometric} is not read")

    def _grey(self, stored: NDArray[np.integer[Any]], frame: int, window: int) -> Pixels:
        return _grey(stored, _presentation(self._ds, frame), window)

    def _reduced(
        self, frame: int, halvings: int
    ) -> tuple[NDArray[np.unsignedinteger[Any]] | None, int]:
        """Let the codec do as many halvings as it can: the stored values, and how many it did.

        Padding is a value, not an amount: its mean with what lies beside it would mean nothing.
        """
        ds = self._ds
        grey = str(ds.PhotometricInterpretation) in _GREY and not ds.PixelRepresentation
        if not halvings or not grey or "PixelPaddingValue" in ds:
            return None, 0
        syntax = ds.file_meta.TransferSyntaxUID
        if not syntax.is_encapsulated:
            return None, 0
        return reduced(syntax, self._stream(frame), self.shape, int(ds.BitsStored), halvings)

    def _stream(self, frame: int) -> bytes:
        self._file.seek(self._start)
        return get_frame(self._file, frame, number_of_frames=get_nr_frames(self._ds))

    def _check(self, frame: int) -> None:
        """Refuse what need not, or should not, reach a codec."""
        ds, (rows, columns) = self._ds, self.shape
        if not self._pixel_vr:
            raise ImageError("decode", "no Pixel Data: the file has no image, or its end is gone")
        count = get_nr_frames(ds)
        if not 0 <= frame < count:
            raise ImageError(
                "decode", f"frame {frame} was asked for; the image has {count}, from 0"
            )
        if not 0 < rows * columns <= LARGEST_FRAME:
            raise ImageError("decode", f"{columns}x{rows} pixels; 1 to {LARGEST_FRAME} can be read")
        stored, allocated = int(ds.BitsStored), int(ds.BitsAllocated)
        if not 1 <= stored <= allocated <= 16:
            raise ImageError("decode", f"{stored} bits in {allocated}; 1 to 16 are read")
        syntax = ds.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            _check_codestream(self._stream(frame), self.shape, syntax in JPEG2000)
        else:
            self._check_length(frame, rows * columns * allocated * int(ds.SamplesPerPixel))

    def _check_length(self, frame: int, bits: int) -> None:
        """Refuse pixel data that end before the frame does: what follows them is no image."""
        if "422" in str(self._ds.PhotometricInterpretation):
            bits = bits * 2 // 3
        if self._length * 8 < (frame + 1) * bits:
            raise ImageError(
                "decode", f"{self._length} bytes of Pixel Data; frame {frame} ends beyond them"
            )


def _pixel_header(file: BinaryIO, ds: Dataset) -> tuple[str, int]:
    """Read the header of the pixel data (PS3.5 7.1): value representation and bytes; "" if none.

    Some files are of implicit VR though their transfer syntax is not: a VR is taken for one where
    it stands, since as the start of a length these letters would make an odd one.
    """
    order: Any = "little" if ds.file_meta.TransferSyntaxUID.is_little_endian else "big"
    header = file.read(8)
    tag = int.from_bytes(header[:2], order), int.from_bytes(header[2:4], order)
    if tag != _PIXEL_DATA or len(header) < 8:
        return "", 0
    if header[4:6] in {b"OB", b"OW", b"UN"}:
        return header[4:6].decode(), int.from_bytes(file.read(4), order)
    return "OW", int.from_bytes(header[4:], order)


def _check_codestream(stream: bytes, shape: tuple[int, int], jpeg2000: bool) -> None:
    """Refuse a codestream of another size than Rows and Columns: codecs believe the codestream."""
    jpeg = _get_jpg_parameters(stream)
    width, height = jpeg.get("width", 0), jpeg.get("height", 0)
    if jpeg2000:
        try:
            with Image.open(io.BytesIO(stream), formats=("JPEG2000",)) as image:
                width, height = image.size
        except UnidentifiedImageError as error:
            raise ImageError("decode", "the frame is no JPEG 2000 codestream") from error
    if width and height and (height, width) != shape:
        raise ImageError(
            "decode", f"a codestream of {width}x{height} pixels in a frame of {shape[1]}x{shape[0]}"
        )


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


def _grey(stored: NDArray[np.integer[Any]], ds: Dataset, window: int) -> Pixels:
    """Look each pixel up: what is done to a level is computed once per level, not per pixel."""
    unsigned = np.dtype(f"u{stored.itemsize}")
    levels = np.arange(2 ** (8 * stored.itemsize), dtype=unsigned).view(stored.dtype)
    table = _shown(levels, ds, window)
    shown: Pixels = table[stored.view(unsigned)]
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


def _colour(stored: NDArray[np.integer[Any]], ds: Dataset) -> Pixels:
    """RGB, or indices into a palette, to (h, w, 3) uint8."""
    bits = int(ds.BitsStored)
    if stored.ndim == 2:
        stored = apply_color_lut(stored, ds)
        bits = 8 * stored.itemsize
    return _scaled(stored[..., :3], 0, 2**bits - 1, 255)
