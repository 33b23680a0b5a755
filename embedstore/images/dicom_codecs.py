"""Which codec decodes which transfer syntax, and two that pydicom has no plug-in for.

One codec each, whatever else is installed: the pixels of a lossy image depend on the codec. GDCM,
which pydicom would try first, is left out because a damaged file can make it end the process.
"""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.pixels.decoders.base import Decoder, DecodeRunner, get_decoder
from pydicom.pixels.utils import get_j2k_parameters
from scipy import ndimage

from embedstore.errors import ImageError

_HT = {uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL}
JPEG2000 = frozenset({uid.JPEG2000, uid.JPEG2000Lossless} | _HT)
"""Transfer syntaxes whose frames are JPEG 2000 codestreams, of part 1 or part 15."""

_LS = {uid.JPEGLSLossless, uid.JPEGLSNearLossless}
_OURS = {uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.RLELossless} | _LS
_CODECS = {
    uid.JPEGBaseline8Bit: "pillow",
    **dict.fromkeys(JPEG2000, "pylibjpeg"),
    **dict.fromkeys(_OURS, "imagecodecs"),
}
# asked for by pydicom of a module that offers a codec
DECODER_DEPENDENCIES = {syntax: ("imagecodecs",) for syntax in _OURS}


def codec(syntax: uid.UID) -> tuple[Decoder, str]:
    """Find pydicom's decoder for a transfer syntax and the plug-in it is to use, "" for none.

    Raises
    ------
    ImageError
        At stage "decode": the package to install.
    NotImplementedError
        pydicom knows no decoder for the syntax (videos).
    """
    decoder, name = get_decoder(syntax), _CODECS.get(syntax, "")
    if name and name not in decoder.available_plugins:
        package = "pylibjpeg and pylibjpeg-openjpeg" if name == "pylibjpeg" else name
        raise ImageError("decode", f"no codec for {syntax.name} is installed: install {package}")
    return decoder, name


def reduced(
    syntax: uid.UID, stream: bytes, shape: tuple[int, int], bits: int, halvings: int
) -> tuple[NDArray[np.unsignedinteger[Any]] | None, int]:
    """Decode a grey codestream at a lower resolution, where its codec can.

    JPEG 2000 by its resolution levels (ISO/IEC 15444-1 annex B.5), baseline JPEG by scaling in
    the DCT (as libjpeg does it, to an eighth at most).

    Parameters
    ----------
    stream
        The codestream of one frame.
    shape, bits
        Height and width, and bits of a sample, as the file states them; a codestream that says
        otherwise, or is of signed samples, is not reduced.
    halvings
        How often height and width are to be halved.

    Returns
    -------
    tuple
        (ceil(h / 2**k), ceil(w / 2**k)) uint8 or uint16, and k, as near to `halvings` as the
        codestream allows; None and 0 where it allows none.
    """
    if syntax in JPEG2000:
        if get_j2k_parameters(stream) == {"jp2": False, "precision": bits, "is_signed": False}:
            return _reduced_jpeg2000(stream, shape, bits, halvings)
    elif syntax == uid.JPEGBaseline8Bit:
        return reduced_jpeg(stream, shape, halvings)
    return None, 0


def _reduced_jpeg2000(
    stream: bytes, shape: tuple[int, int], bits: int, halvings: int
) -> tuple[NDArray[np.unsignedinteger[Any]] | None, int]:
    for k in range(halvings, 0, -1):
        with Image.open(io.BytesIO(stream), formats=("JPEG2000",)) as image:
            if image.size != shape[::-1]:
                return None, 0
            image.reduce = k  # type: ignore[method-assign, assignment]
            try:
                pixels: NDArray[np.unsignedinteger[Any]] = np.asarray(image)
            except OSError:  # the codestream has fewer levels
                continue
        if pixels.ndim != 2:
            return None, 0
        # Pillow moves the samples to the upper bits of its 8 or 16
        spare = pixels.dtype.type(8 * pixels.itemsize - bits)
        return _centred(pixels >> spare, k), k
    return None, 0


def reduced_jpeg(
    stream: bytes, shape: tuple[int, int], halvings: int
) -> tuple[NDArray[np.uint8] | None, int]:
    """Decode a grey baseline JPEG at down to an eighth of its (h, w); None, 0 for any other."""
    k = min(halvings, 3)
    with Image.open(io.BytesIO(stream), formats=("JPEG",)) as image:
        if image.mode != "L" or image.size != shape[::-1]:
            return None, 0
        smaller = [-(-n // 2**k) for n in image.size]
        image.draft("L", (smaller[0], smaller[1]))
        if list(image.size) != smaller:
            return None, 0
        return np.asarray(image), k


def _centred(
    pixels: NDArray[np.unsignedinteger[Any]], halvings: int
) -> NDArray[np.unsignedinteger[Any]]:
    """Put (h', w') reduced pixels where a resized picture has them: amid their blocks.

    The wavelet's low-pass lies around the first of the 2**k samples it stands for.
    """
    moved: NDArray[np.unsignedinteger[Any]] = ndimage.shift(
        pixels, 0.5 / 2**halvings - 0.5, order=1, mode="nearest"
    )
    return moved


def is_available(syntax: str) -> bool:
    """Tell pydicom that the syntax can be decoded."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(stream: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame of lossless or 12-bit JPEG (libjpeg-turbo), JPEG-LS (CharLS) or RLE.

    This is pydicom's interface for codecs: the pixels' bytes, colours as they are stored.
    """
    if runner.transfer_syntax == uid.RLELossless:
        return _rle(stream, runner)
    # libjpeg-turbo would make up what is missing, and CharLS look for it for five seconds
    if b"\xff\xd9" not in stream:
        raise ValueError("the codestream is cut short: it has no end marker")
    if runner.transfer_syntax in _LS:
        pixels = imagecodecs.jpegls_decode(stream)
    elif runner.samples_per_pixel == 1:
        pixels = imagecodecs.jpeg8_decode(stream)
    else:
        pixels = imagecodecs.jpeg8_decode(stream, colorspace="RGB", outcolorspace="RGB")
    # 8 bits may be allocated 16 in the file; pydicom is told what comes
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    runner.set_option("planar_configuration", 0)
    return pixels.tobytes()


def _rle(stream: bytes, runner: DecodeRunner) -> bytes:
    """Decode RLE (PS3.5 annex G), ten times as fast as pydicom's own in Python."""
    sample = runner.bits_allocated // 8
    size = runner.rows * runner.columns * runner.samples_per_pixel * sample
    pixels = bytes(imagecodecs.dicomrle_decode(stream, np.dtype(f"<u{sample}")))
    if len(pixels) < size:
        raise ValueError(f"{len(pixels)} bytes of RLE data, {size} make the frame")
    runner.set_option("planar_configuration", 1)
    return pixels[:size]


for _syntax in _OURS:
    if "imagecodecs" not in get_decoder(_syntax).available_plugins:
        get_decoder(_syntax).add_plugin("imagecodecs", (__name__, "decode_frame"))
