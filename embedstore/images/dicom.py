"""One DICOM file to grey or colour pixels, as pydicom decodes and presents them.

Decoding is pydicom's; added here are lower resolutions and limits on what a file may ask for.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import _get_jpg_parameters, as_pixel_options, get_nr_frames

from embedstore.errors import ImageError
from embedstore.images.blocks import block_means
from embedstore.images.dicom_codecs import JPEG2000, codec, reduced
from embedstore.images.dicom_tags import guarded, is_dicom, laterality, parse
from embedstore.images.presentation import colour, grey
from embedstore.types import Pixels

__all__ = ["LARGEST_FRAME", "DicomImage", "is_dicom"]

LARGEST_FRAME = 178_956_970
"""Pixels of one frame; Pillow refuses larger images (twice its ``MAX_IMAGE_PIXELS``)."""

_PIXEL_DATA = 0x7FE0, 0x0010
_GREY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "PALETTE COLOR"}  # what is left once pydicom has converted YBR to RGB


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
                return block_means(grey(small, self._ds, frame, window), halvings - done)
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
            return grey(stored, self._ds, frame, window)
        if photometric in _COLOUR:
            return colour(stored, self._ds)
        raise ImageError("decode", f"photometric interpretation {photometric} is not read")

    def _reduced(
        self, frame: int, halvings: int
    ) -> tuple[NDArray[np.unsignedinteger[Any]] | None, int]:
        """Let the codec do as many halvings as it can: the stored values, and how many it did.

        Padding is a value, not an amount: its mean with what lies beside it would mean nothing.
        """
        ds = self._ds
        plain = str(ds.PhotometricInterpretation) in _GREY and not ds.PixelRepresentation
        if not halvings or not plain or "PixelPaddingValue" in ds:
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
