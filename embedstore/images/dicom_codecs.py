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
_OURS = {uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1} | _LS
_CODECS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.RLELossless: "pydicom",
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
    stream: bytes, shape: tuple[int, int], bits: int, enough: int
) -> NDArray[np.unsignedinteger[Any]] | None:
    """Decode a grey JPEG 2000 codestream at a lower resolution level (ISO/IEC 15444-1 annex B.5).

    Parameters
    ----------
    stream
        The codestream of one frame.
    shape, bits
        Height and width, and bits of a sample, as the file states them; a codestream that says
        otherwise, or is of signed samples, is not reduced.
    enough
        Pixels the shorter side must keep.

    Returns
    -------
    ndarray or None
        (ceil(h / 2**k), ceil(w / 2**k)) uint8 or uint16, k as large as `enough` and the
        codestream allow; None where that is 0.
    """
    if get_j2k_parameters(stream) != {"jp2": False, "precision": bits, "is_signed": False}:
        return None
    with Image.open(io.BytesIO(stream), formats=("JPEG2000",)) as image:
        if image.size != shape[::-1]:
            return None
        most = (min(image.size) // max(enough, 1)).bit_length() - 1
    for halvings in range(most, 0, -1):
        with Image.open(io.BytesIO(stream), formats=("JPEG2000",)) as image:
            image.reduce = halvings  # type: ignore[method-assign, assignment]
            try:
                pixels: NDArray[np.unsignedinteger[Any]] = np.asarray(image)
            except OSError:  # the codestream has fewer levels
                continue
        # Pillow moves the samples to the upper bits of its 8 or 16
        spare = pixels.dtype.type(8 * pixels.itemsize - bits)
        return _centred(pixels >> spare, halvings) if pixels.ndim == 2 else None
    return None


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
    """Decode one frame of lossless or 12-bit JPEG (libjpeg-turbo) or JPEG-LS (CharLS).

    This is pydicom's interface for codecs: the pixels' bytes, colours as they are stored.
    """
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


for _syntax in _OURS:
    if "imagecodecs" not in get_decoder(_syntax).available_plugins:
        get_decoder(_syntax).add_plugin("imagecodecs", (__name__, "decode_frame"))
