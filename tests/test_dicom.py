from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from embedstore.errors import ImageError
from embedstore.images.dicom import LARGEST_FRAME, DicomImage, is_dicom
from embedstore.images.dicom_codecs import codec
from embedstore.images.dicom_tags import Tags, tags

RNG = np.random.default_rng(0)
RAMP = np.add.outer(np.arange(40) * 40, np.arange(48) * 48)
GREY12 = (RAMP + RNG.integers(0, 200, (40, 48))).astype(np.uint16)  # 0..4015
GREY16 = RNG.integers(0, 65536, (40, 48), dtype=np.uint16)
GREY8 = (GREY12 >> 4).astype(np.uint8)
SIGNED = (GREY12.astype(np.int16) - 1024).astype(np.int16)
RGB = RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)
TESTDATA = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
Pixels = np.ndarray[Any, Any]


def decode(data: bytes, **how: int) -> Pixels:
    return DicomImage(io.BytesIO(data)).pixels(**how)


def frames(data: bytes, count: int, every: int = 1) -> list[Pixels]:
    """Decode several frames of a file that is opened once."""
    image = DicomImage(io.BytesIO(data))
    return [image.pixels(frame) for frame in range(0, count, every)]


def dataset(pixels: Pixels, bits: int = 0, **attributes: Any) -> Dataset:
    """Describe (h, w), (h, w, 3) or, with NumberOfFrames, (n, h, w) pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    ds.SOPInstanceUID = "1.2.3.4"
    ds.PatientID = "P1"
    ds.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    first = pixels[0] if "NumberOfFrames" in attributes else pixels
    ds.Rows, ds.Columns = first.shape[:2]
    ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else "MONOCHROME2"
    ds.BitsAllocated = 8 * pixels.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(ds, name, value)
    ds.PixelData = pixels.tobytes()
    return ds


def file(ds: Dataset, syntax: str = uid.ExplicitVRLittleEndian, *streams: bytes) -> bytes:
    """Write the file; `streams` are the frames of an encapsulated transfer syntax."""
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    if streams:
        ds.PixelData = encapsulate(list(streams))
    elif syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, f"u{ds.BitsAllocated // 8}").byteswap().tobytes()
    ds["PixelData"].VR = "OB" if streams or ds.BitsAllocated == 8 else "OW"
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def native(pixels: Pixels, bits: int = 0, **attributes: Any) -> bytes:
    return file(dataset(pixels, bits, **attributes))


def compressed(
    syntax: str, pixels: Pixels, bits: int, options: dict[str, Any] | None = None, **tags: Any
) -> bytes:
    ds = dataset(pixels, bits, **tags)
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.compress(syntax, generate_instance_uid=False, **(options or {}))
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def encapsulated(syntax: str, pixels: Pixels, bits: int, codec: str, **options: Any) -> bytes:
    stream = bytes(getattr(imagecodecs, f"{codec}_encode")(pixels, **options))
    return file(dataset(pixels, bits), syntax, stream)


def jpeg(pixels: Pixels, **attributes: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return file(dataset(pixels, **attributes), uid.JPEGBaseline8Bit, out.getvalue())


def without_preamble(data: bytes) -> bytes:
    return data[132:]


def bare(pixels: Pixels, implicit: bool, little: bool) -> bytes:
    """Write the data set alone: no preamble, no file meta, no transfer syntax."""
    ds = dataset(pixels)
    if not little:
        ds.PixelData = pixels.byteswap().tobytes()
    ds["PixelData"].VR = "OW"
    out = io.BytesIO()
    del ds.file_meta
    pydicom.dcmwrite(out, ds, implicit_vr=implicit, little_endian=little)
    return out.getvalue()


LOSSLESS: dict[str, tuple[bytes, Pixels]] = {
    **{
        f"{syntax.name}, {pixels.dtype} of {bits}": (file(dataset(pixels, bits), syntax), pixels)
        for syntax in (
            uid.ExplicitVRLittleEndian,
            uid.ImplicitVRLittleEndian,
            uid.DeflatedExplicitVRLittleEndian,
            uid.ExplicitVRBigEndian,
        )
        for pixels, bits in ((GREY8, 8), (GREY12, 12), (GREY16, 16), (SIGNED, 13))
    },
    **{
        f"{syntax.name}, {pixels.dtype} of {bits}": (compressed(syntax, pixels, bits), pixels)
        for syntax in (uid.RLELossless, uid.JPEG2000Lossless)
        for pixels, bits in ((GREY8, 8), (GREY12, 12), (GREY16, 16), (SIGNED, 16))
    },
    **{
        f"JPEG lossless, predictor {predictor}, {bits} bits": (
            encapsulated(
                uid.JPEGLosslessSV1 if predictor == 1 else uid.JPEGLossless,
                pixels,
                bits,
                "jpeg",
                lossless=True,
                predictor=predictor,
                bitspersample=bits,
            ),
            pixels,
        )
        for predictor in (1, 4, 7)
        for pixels, bits in ((GREY8, 8), (GREY12, 12), (GREY16, 16))
    },
    **{
        f"{syntax.name}, {pixels.dtype} of {bits}": (
            encapsulated(syntax, pixels, bits, codec),
            pixels,
        )
        for syntax, codec in ((uid.JPEGLSLossless, "jpegls"), (uid.HTJ2KLossless, "htj2k"))
        for pixels, bits in ((GREY8, 8), (GREY12, 12), (GREY16, 16))
    },
}
LOSSY: dict[str, bytes] = {
    "JPEG baseline": jpeg(GREY8),
    "JPEG baseline, colour": jpeg(RGB, PhotometricInterpretation="YBR_FULL_422"),
    "JPEG 2000, 8 bits": compressed(uid.JPEG2000, GREY8, 8, {"j2k_psnr": [50]}),
    "JPEG 2000, 12 bits": compressed(uid.JPEG2000, GREY12, 12, {"j2k_psnr": [60]}),
    "JPEG 2000, 16 bits": compressed(uid.JPEG2000, GREY16, 16, {"j2k_psnr": [60]}),
    "JPEG-LS, 12 bits": encapsulated(uid.JPEGLSNearLossless, GREY12, 12, "jpegls", level=3),
    "HTJ2K, 16 bits": encapsulated(uid.HTJ2K, GREY16, 16, "htj2k", level=0.001),
}


def presented(data: bytes, window: int = 0, frame: int = 0) -> Pixels:
    """Make (h, w) float64 in 0..1 of pydicom's own pipeline, run over the pixels themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(io.BytesIO(data), force=True)
        stored = pixel_array(ds, index=frame)
        values = apply_voi_lut(apply_modality_lut(stored, ds), ds, window).astype(np.float64)
    low, high = (0, 2**ds.BitsStored - 1) if stored.dtype.kind == "u" else signed_range(ds)
    if "RescaleSlope" in ds:
        low, high = (v * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for v in (low, high))
    if "VOILUTSequence" in ds:
        low, high = 0, 2 ** ds.VOILUTSequence[window].LUTDescriptor[2] - 1
    elif "ModalityLUTSequence" in ds:
        low, high = 0, 2 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    return (values - low) / (high - low)


def codec_of(ds: Dataset) -> str:
    return codec(ds.file_meta.TransferSyntaxUID)[1]


def parsed(path: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, force=True)


def signed_range(ds: Dataset) -> tuple[int, int]:
    return -(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1


def on_scale(share: Pixels, dtype: type[np.unsignedinteger[Any]] = np.uint16) -> Pixels:
    return np.rint(np.clip(share, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def refusal(data: bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    assert caught.value.stage == "decode"
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value.reason


def attempt(data: bytes, halvings: int = 0) -> Pixels | None:
    """Decode, or None where that is refused; anything but an ImageError goes through."""
    try:
        return decode(data, halvings=halvings)
    except ImageError:
        return None


def lut(entries: Pixels, first: int, bits: int, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    values = entries.astype("<u2").tobytes() if vr == "OW" else entries.tolist()
    item.add_new("LUTData", vr, values)
    return item


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_pixels_are_those_written(name: str) -> None:
    data, written = LOSSLESS[name]
    ds = pydicom.dcmread(io.BytesIO(data))
    np.testing.assert_array_equal(pixel_array(ds), written)
    pixels = decode(data)
    assert pixels.dtype == (np.uint8 if written.itemsize == 1 else np.uint16)
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, on_scale(presented(data), pixels.dtype.type))
    if ds.BitsStored == 8 * written.itemsize and written.dtype.kind == "u":
        np.testing.assert_array_equal(pixels, written)


GDCM = [n for n in LOSSLESS if n.startswith(("JPEG lossless", "JPEG-LS", "JPEG 2000"))]


@pytest.mark.parametrize("name", GDCM)
def test_lossless_pixels_are_those_of_gdcm(name: str) -> None:
    pytest.importorskip("gdcm")
    data, written = LOSSLESS[name]
    ds = pydicom.dcmread(io.BytesIO(data))
    np.testing.assert_array_equal(pixel_array(ds, decoding_plugin="gdcm"), written)
    np.testing.assert_array_equal(pixel_array(ds, decoding_plugin=codec_of(ds)), written)


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.HTJ2KLossless])
def test_colour_is_kept_by_every_lossless_codec(syntax: uid.UID) -> None:
    name, options = {
        uid.JPEGLosslessSV1: (
            "jpeg8",
            {"lossless": True, "predictor": 1, "colorspace": "RGB", "outcolorspace": "RGB"},
        ),
        uid.JPEGLSLossless: ("jpegls", {}),
        uid.HTJ2KLossless: ("htj2k", {}),
    }[syntax]
    np.testing.assert_array_equal(decode(encapsulated(syntax, RGB, 8, name, **options)), RGB)


def test_twelve_bit_jpeg_is_close_to_what_was_written() -> None:
    smooth = RAMP.astype(np.uint16)
    data = encapsulated(uid.JPEGExtended12Bit, smooth, 12, "jpeg", level=95, bitspersample=12)
    np.testing.assert_allclose(decode(data) / 65535, smooth / 4095, atol=0.005)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_pixels_are_those_of_pydicom(name: str) -> None:
    data = LOSSY[name]
    if "colour" in name:
        ds = pydicom.dcmread(io.BytesIO(data))
        np.testing.assert_array_equal(decode(data), pixel_array(ds))
    else:
        pixels = decode(data)
        np.testing.assert_array_equal(pixels, on_scale(presented(data), pixels.dtype.type))


@pytest.mark.parametrize("bits", range(9, 17))
def test_no_two_stored_levels_become_one(bits: int) -> None:
    every = np.arange(2**bits, dtype=np.uint16).reshape(2 ** (bits - 4), 16)
    pixels = decode(native(every, bits)).ravel()
    assert np.all(np.diff(pixels.astype(int)) > 0)
    assert (pixels[0], pixels[-1]) == (0, 65535)


WINDOWS: dict[str, dict[str, Any]] = {
    "linear": {"WindowCenter": 1800, "WindowWidth": 900},
    "linear of width 1": {"WindowCenter": 1800, "WindowWidth": 1},
    "exact": {"WindowCenter": 1800, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 1800, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
    "two": {"WindowCenter": [1800, 2500.5], "WindowWidth": [900, 1000]},
    "VOI LUT": {"VOILUTSequence": [lut(np.arange(3000) ** 2 // 138, 500, 16)]},
    "VOI LUT of 12 bits": {"VOILUTSequence": [lut(np.arange(4095, 95, -1), 20, 12)]},
    "VOI LUT in words": {"VOILUTSequence": [lut(np.arange(3000) * 21, 500, 16, "OW")]},
    "VOI LUT before window": {
        "VOILUTSequence": [lut(np.arange(3000) * 21, 500, 16)],
        "WindowCenter": 1800,
        "WindowWidth": 900,
    },
    "two VOI LUTs": {
        "VOILUTSequence": [lut(np.arange(3000) * f, 500, 16) for f in (21, 7)],
    },
}


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("how", WINDOWS)
@pytest.mark.parametrize(
    "modality",
    [
        {},
        {"RescaleSlope": 1, "RescaleIntercept": 0},
        {"RescaleSlope": 2, "RescaleIntercept": -1000},
        {"RescaleSlope": -1, "RescaleIntercept": 4095},
        {"ModalityLUTSequence": [lut(np.arange(4096) // 2, 0, 16)]},
    ],
    ids=["none", "unit", "slope", "falling", "LUT"],
)
def test_presentation_is_that_of_pydicom(modality: dict[str, Any], how: str, window: int) -> None:
    data = native(GREY12, 12, **modality, **WINDOWS[how])
    if window and not how.startswith("two"):
        assert "window 1 was asked for; the file has 1" in refusal(data, window=1)
        return
    pixels = decode(data, window=window)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, on_scale(presented(data, window)))


@pytest.mark.parametrize("how", [n for n in WINDOWS if "LUT" not in n])
def test_signed_values_are_rescaled_and_windowed(how: str) -> None:
    data = native(SIGNED, 13, RescaleSlope=1, RescaleIntercept=-24, **WINDOWS[how])
    np.testing.assert_array_equal(decode(data), on_scale(presented(data)))


def test_voi_lut_may_begin_below_zero() -> None:
    data = native(SIGNED, 13, VOILUTSequence=[lut(np.arange(3000) * 21, -500, 16)])
    np.testing.assert_array_equal(decode(data), on_scale(presented(data)))


def test_eight_bit_lut_of_many_entries_does_not_wrap() -> None:
    # pydicom 3.0 keeps the place in the LUT in 8 bits, so this one is held against numpy
    entries = np.arange(4096) // 16
    data = native(GREY12, 12, VOILUTSequence=[lut(entries, 0, 8)])
    np.testing.assert_array_equal(decode(data), entries[GREY12] * 257)


def test_window_maps_its_own_ends_to_black_and_white() -> None:
    grey = np.array([[0, 1000, 1001, 1500, 1999, 2000, 4095, 0]] * 8, dtype=np.uint16)
    data = native(grey, 12, WindowCenter=1500, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    top = decode(data)[0]
    assert top[0] == top[1] == 0
    assert top[6] == 65535
    assert abs(int(top[3]) - 32768) <= 33


@pytest.mark.parametrize("window", [{}, *list(WINDOWS.values())[:4]])
def test_monochrome1_and_inverse_are_the_complement(window: dict[str, Any]) -> None:
    upright = decode(native(GREY12, 12, **window))
    for turned in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ):
        np.testing.assert_array_equal(decode(native(GREY12, 12, **window, **turned)), ~upright)
    assert decode(native(GREY8, PhotometricInterpretation="MONOCHROME1")).dtype == np.uint8


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("pixels", "value", "limit"),
    [(GREY12, 3000, None), (GREY12, 3000, 4015), (SIGNED, -2, None), (SIGNED, -1000, -900)],
)
def test_padding_is_darkest(photometric: str, pixels: Pixels, value: int, limit: int) -> None:
    vr = "SS" if pixels.dtype.kind == "i" else "US"
    pixels = pixels.copy()
    pixels[:5] = value
    plain = dataset(pixels, 13, PhotometricInterpretation=photometric)
    without = decode(file(plain))
    plain = dataset(pixels, 13, PhotometricInterpretation=photometric)
    plain.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        plain.add_new("PixelPaddingRangeLimit", vr, limit)
    padded = decode(file(plain))
    mask = (pixels >= value) & (pixels <= (value if limit is None else limit))
    assert 0 < mask.mean() < 1
    assert not padded[mask].any()
    np.testing.assert_array_equal(padded[~mask], without[~mask])


STACK = np.stack([GREY12 // (n + 1) for n in range(5)])


def multiframe(**attributes: Any) -> bytes:
    return native(STACK, 12, NumberOfFrames=5, **attributes)


@pytest.mark.parametrize(
    "data",
    [
        multiframe(),
        file(
            dataset(STACK, 12, NumberOfFrames=5),
            uid.JPEGLSLossless,
            *(bytes(imagecodecs.jpegls_encode(f)) for f in STACK),
        ),
    ],
    ids=["native", "encapsulated"],
)
def test_frames_are_chosen(data: bytes) -> None:
    for n in range(5):
        np.testing.assert_array_equal(decode(data, frame=n), on_scale(STACK[n] / 4095))
    every_other = frames(data, 5, every=2)
    np.testing.assert_array_equal(every_other, on_scale(STACK[::2] / 4095))
    assert "the image has 5" in refusal(data, frame=5)
    assert "the image has 5" in refusal(data, frame=-1)


def group(**window: Any) -> Dataset:
    item, macro = Dataset(), Dataset()
    for name, value in window.items():
        setattr(macro, name, value)
    item.FrameVOILUTSequence = [macro]
    return item


def test_windows_of_functional_groups_are_applied() -> None:
    one, other = ({"WindowCenter": c, "WindowWidth": 900} for c in (1000, 2000))
    alike = multiframe(SharedFunctionalGroupsSequence=[group(**one)])
    expected = [on_scale(presented(multiframe(**one), frame=n)) for n in range(5)]
    np.testing.assert_array_equal(frames(alike, 5), expected)
    own = [group(**other) if n == 3 else Dataset() for n in range(5)]
    apart = multiframe(
        SharedFunctionalGroupsSequence=[group(**one)], PerFrameFunctionalGroupsSequence=own
    )
    expected[3] = on_scale(presented(multiframe(**other), frame=3))
    np.testing.assert_array_equal(frames(apart, 5), expected)


@pytest.mark.parametrize("data", [d for d, _ in LOSSLESS.values()][:16:3])
def test_preamble_may_be_missing(data: bytes) -> None:
    cut = without_preamble(data)
    assert is_dicom(data)
    assert is_dicom(cut)
    np.testing.assert_array_equal(decode(cut), decode(data))
    assert tags(cut) == tags(data)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_file_meta_may_be_missing(implicit: bool, little: bool) -> None:
    data = bare(GREY16, implicit, little)
    assert is_dicom(data)
    np.testing.assert_array_equal(decode(data), GREY16)


def mammogram_like(h: int = 600, w: int = 480) -> Pixels:
    """Texture of every scale in a half ellipse with a skin line that fades, 12 bits."""
    rows, columns = np.mgrid[:h, :w]
    radius = np.hypot((rows - h / 2) / (0.45 * h), columns / (0.8 * w))
    tissue = np.clip((1 - radius) * 12, 0, 1)
    spectrum = np.fft.rfft2(RNG.standard_normal((h, w)))
    scale = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)) + 1 / h
    texture = np.fft.irfft2(spectrum / scale**1.5, (h, w))
    grey = tissue * (2000 + 400 * texture / texture.std()) + RNG.normal(0, 8, (h, w))
    return np.clip(grey, 0, 4095).astype(np.uint16)


BREAST = mammogram_like()
BREAST_WINDOW = {"WindowCenter": 1800, "WindowWidth": 3000}
BREAST8 = np.rint(BREAST / 4095 * 255).astype(np.uint8)
BREASTS = {
    "lossless": compressed(uid.JPEG2000Lossless, BREAST, 12, **BREAST_WINDOW),
    "lossy": compressed(uid.JPEG2000, BREAST, 12, {"j2k_psnr": [70]}, **BREAST_WINDOW),
    "JPEG": jpeg(BREAST8, WindowCenter=112, WindowWidth=187),
}


def means(pixels: Pixels, block: int) -> Pixels:
    h, w = (n // block for n in pixels.shape[:2])
    return pixels.reshape(h, block, w, block, -1).mean(axis=(1, 3)).squeeze()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("name", BREASTS)
@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_reduced_decoding_keeps_its_bound(name: str, halvings: int, photometric: str) -> None:
    data = BREASTS[name].replace(b"MONOCHROME2 ", f"{photometric} ".encode())
    exact, small = decode(data), decode(data, halvings=halvings)
    assert exact.shape == BREAST.shape
    expected = means(exact, 2**halvings)
    assert small.shape == expected.shape
    off = np.abs(small - expected) / 65535
    assert off.mean() < 0.01
    assert off.max() < 0.1
    assert abs(small.mean() - expected.mean()) < 0.005 * 65535
    assert small.dtype == exact.dtype


@pytest.mark.parametrize("name", ["lossless", "lossy"])
def test_decoding_is_exact_by_default(name: str) -> None:
    np.testing.assert_array_equal(decode(BREASTS[name]), on_scale(presented(BREASTS[name])))


def test_what_the_codec_cannot_reduce_is_averaged() -> None:
    flat = bytes(imagecodecs.jpeg2k_encode(BREAST, level=0, codecformat="j2k", resolutions=1))
    for data in (
        native(BREAST, 12, **BREAST_WINDOW),
        compressed(uid.JPEG2000Lossless, BREAST, 12, PixelPaddingValue=0),
        compressed(uid.JPEG2000Lossless, BREAST.astype(np.int16), 16),
        compressed(uid.JPEG2000Lossless, np.dstack([BREAST8, BREAST8 // 2, BREAST8 // 3]), 8),
        compressed(uid.RLELossless, BREAST, 12),
        encapsulated(uid.JPEGLSLossless, BREAST, 12, "jpegls"),
        file(dataset(BREAST, 16), uid.JPEG2000Lossless, flat),
    ):
        for halvings in (1, 3):
            expected = means(decode(data), 2**halvings)
            off = np.abs(decode(data, halvings=halvings) - expected)
            assert off.max() <= 0.5


def test_sizes_that_do_not_halve_are_rounded_up() -> None:
    odd = BREAST[:45, :83]
    for data in (
        native(odd, 12),
        compressed(uid.JPEG2000Lossless, odd, 12),
        jpeg((odd >> 4).astype(np.uint8)),
    ):
        for halvings, shape in ((1, (23, 42)), (2, (12, 21)), (3, (6, 11)), (4, (3, 6))):
            assert decode(data, halvings=halvings).shape == shape


def test_colour_is_eight_bit_rgb() -> None:
    np.testing.assert_array_equal(decode(native(RGB)), RGB)
    planar = dataset(RGB, PlanarConfiguration=1)
    planar.PixelData = RGB.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(decode(file(planar)), RGB)
    np.testing.assert_array_equal(decode(compressed(uid.RLELossless, RGB, 8)), RGB)
    deep = RGB.astype(np.uint16) * 16
    np.testing.assert_array_equal(
        decode(native(deep, 12)), np.rint(deep / 4095 * 255).astype(np.uint8)
    )
    palette = {
        f"{colour}PaletteColorLookupTable{part}": value
        for n, colour in enumerate(("Red", "Green", "Blue"))
        for part, value in (
            ("Descriptor", [256, 0, 16]),
            ("Data", (np.arange(256) * (n + 1) % 256 * 257).astype("<u2").tobytes()),
        )
    }
    data = native(GREY8, PhotometricInterpretation="PALETTE COLOR", **palette)
    expected = np.stack([GREY8.astype(int) * (n + 1) % 256 for n in range(3)], axis=-1)
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("path", TESTDATA, ids=lambda p: p.name)
def test_bundled_files_are_read_as_pydicom_does_or_refused(path: Path) -> None:
    data = path.read_bytes()
    pixels = attempt(data)
    if pixels is None:
        return
    assert is_dicom(data)
    ds = parsed(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = pixel_array(ds, index=0)
    if pixels.ndim == 2:
        np.testing.assert_array_equal(pixels, on_scale(presented(data), pixels.dtype.type))
    elif ds.BitsStored == 8 and ds.PhotometricInterpretation != "PALETTE COLOR":
        np.testing.assert_array_equal(pixels, stored)
    assert pixels.shape[:2] == (tags(path).rows, tags(path).columns)


def test_most_bundled_images_are_read() -> None:
    deep = {"32bit", "rtdose"}
    images = [
        p
        for p in TESTDATA
        if {"PixelData", "Rows"} <= set(parsed(p).dir()) and not any(d in p.name for d in deep)
    ]
    refused = {p.name for p in images if attempt(p.read_bytes()) is None}
    # damaged on purpose
    assert refused <= {
        "JPEG-lossy.dcm",
        "JPEG2000-embedded-sequence-delimiter.dcm",
        "MR_truncated.dcm",
        "badVR.dcm",
    }
    assert len(images) > 40


SEVERAL = [*list(LOSSLESS)[1:16:4], *list(LOSSLESS)[16::4], *LOSSY]


@pytest.mark.parametrize("name", SEVERAL)
def test_truncated_files_are_pixels_or_refused(name: str) -> None:
    data = LOSSY[name] if name in LOSSY else LOSSLESS[name][0]
    for tenth in range(10):
        pixels = attempt(data[: len(data) * tenth // 10])
        assert pixels is None or pixels.shape[:2] == (40, 48)
        attempt(data[: len(data) * tenth // 10], halvings=1)


@pytest.mark.parametrize("name", SEVERAL)
def test_damaged_files_are_pixels_or_refused(name: str) -> None:
    data = LOSSY[name] if name in LOSSY else LOSSLESS[name][0]
    rng = np.random.default_rng(1)
    for _ in range(10):
        damaged = bytearray(data)
        for place in rng.integers(200, len(data), 8):
            damaged[place] ^= int(rng.integers(1, 256))
        pixels = attempt(bytes(damaged))
        assert pixels is None or (pixels.ndim in {2, 3} and pixels.dtype.kind == "u")


def changed(change: Callable[[Dataset], None]) -> bytes:
    ds = dataset(GREY12, 12)
    change(ds)
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize(
    ("reason", "values"),
    [
        ("pixels", {"Rows": 0}),
        ("pixels", {"Rows": 65535, "Columns": 65535}),
        ("3840 bytes of Pixel Data", {"Rows": 400}),
        ("frame 0", {"NumberOfFrames": -1}),
        ("bits", {"BitsStored": 0}),
        ("bits", {"BitsStored": 17}),
        ("32 bits in 32", {"BitsAllocated": 32, "BitsStored": 32}),
        ("HSV", {"PhotometricInterpretation": "HSV"}),
        ("span", {"RescaleSlope": 0, "RescaleIntercept": 0}),
        ("Window Width", {"WindowCenter": 10, "WindowWidth": 0}),
        ("bits per LUT entry", {"VOILUTSequence": [lut(np.arange(9), 0, 7)]}),
    ],
)
def test_what_cannot_be_shown_is_refused(reason: str, values: dict[str, Any]) -> None:
    def change(ds: Dataset) -> None:
        for name, value in values.items():
            setattr(ds, name, value)

    assert reason in refusal(changed(change))


def test_missing_pixels_and_unknown_syntax_are_refused() -> None:
    for name in ("Rows", "BitsStored", "PhotometricInterpretation"):
        refusal(changed(lambda ds, name=name: delattr(ds, name)))  # type: ignore[misc]
    ds = dataset(GREY12, 12)
    del ds.PixelData
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    assert "no Pixel Data" in refusal(out.getvalue())
    nothing = file(dataset(GREY12, 12), uid.JPEG2000Lossless, b"\1" * 100)
    assert refusal(nothing) == "the frame is no JPEG 2000 codestream"
    assert "MPEG2" in refusal(file(dataset(GREY12, 12), uid.MPEG2MPML, b"\0" * 100))


@pytest.mark.parametrize("codec", ["jpeg2k", "htj2k", "jpegls", "jpeg"])
def test_bombs_are_refused_before_a_codec_sees_them(codec: str) -> None:
    syntax, options, place, size = {
        "jpeg2k": (uid.JPEG2000Lossless, {"codecformat": "j2k", "level": 0}, b"\xff\x51", 6),
        "htj2k": (uid.HTJ2KLossless, {}, b"\xff\x51", 6),
        "jpegls": (uid.JPEGLSLossless, {}, b"\xff\xf7", 5),
        "jpeg": (uid.JPEGBaseline8Bit, {}, b"\xff\xc0", 5),
    }[codec]
    stream = bytearray(getattr(imagecodecs, f"{codec}_encode")(GREY8, **options))
    at = stream.index(place) + size
    side = (60000).to_bytes(4 if "2k" in codec else 2, "big")
    stream[at : at + 2 * len(side)] = 2 * side
    assert LARGEST_FRAME < 60000**2
    data = file(dataset(GREY8), syntax, bytes(stream))
    assert "60000x60000" in refusal(data) or "exceeds limit" in refusal(data)


def test_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.images.dicom_tags.LARGEST_INFLATED", 2**22)
    data = file(dataset(GREY12, 12), uid.DeflatedExplicitVRLittleEndian)
    meta = data[: data.index(uid.DeflatedExplicitVRLittleEndian.encode()) + 22]
    assert attempt(data) is not None
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = b"".join(deflate.compress(bytes(2**20)) for _ in range(64)) + deflate.flush()
    assert "deflated" in refusal(meta + bomb)


def test_tags_are_read_without_the_pixels(tmp_path: Path) -> None:
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "399368009", "SCT", "oblique"
    data = native(
        GREY12,
        12,
        PatientName="Doe^Jane",
        StudyInstanceUID="1.2",
        SeriesInstanceUID="1.3",
        AccessionNumber=" 00123 ",
        Modality="MG",
        Manufacturer=" Maker ",
        ManufacturerModelName="Model",
        PresentationIntentType="FOR PRESENTATION",
        ImageLaterality="L",
        ViewCodeSequence=[view],
    )
    cut = data[: data.index(GREY12.tobytes()[:64]) + 10]
    expected = Tags(
        patient_id="P1",
        study_uid="1.2",
        series_uid="1.3",
        sop_uid="1.2.3.4",
        sop_class=uid.DigitalMammographyXRayImageStorageForPresentation,
        modality="MG",
        laterality="L",
        view="MLO",
        manufacturer="Maker",
        model="Model",
        presentation_intent="FOR PRESENTATION",
        rows=40,
        columns=48,
        frames=1,
        bits_stored=12,
        photometric="MONOCHROME2",
        transfer_syntax=uid.ExplicitVRLittleEndian,
        accession="00123",
    )
    path = tmp_path / "cut.dcm"
    path.write_bytes(cut)
    assert tags(cut) == tags(path) == tags(data) == expected
    assert "Doe" not in str(tags(data))
    refusal(cut)


@pytest.mark.parametrize(
    ("value", "scheme", "view"),
    [("399162004", "SCT", "CC"), ("R-10242", "SRT", "CC"), ("R-10226", "SRT", "MLO")],
)
def test_view_codes_are_named(value: str, scheme: str, view: str) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, "a view"
    assert tags(native(GREY12, 12, ViewCodeSequence=[code])).view == view
    code.CodeValue = "1"
    assert tags(native(GREY12, 12, ViewCodeSequence=[code])).view == "a view"


def test_view_and_laterality_are_found_where_they_are() -> None:
    assert tags(native(GREY12, 12, ViewPosition="CC", Laterality="R")).view == "CC"
    assert tags(native(GREY12, 12, ViewPosition="CC", Laterality="R")).laterality == "R"
    anatomy, groups = Dataset(), Dataset()
    anatomy.FrameLaterality = "L"
    groups.FrameAnatomySequence = [anatomy]
    data = multiframe(SharedFunctionalGroupsSequence=[groups])
    assert (tags(data).laterality, tags(data).frames, tags(data).view) == ("L", 5, "")


def test_tags_of_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="^read: "):
        tags(tmp_path / "none.dcm")
    with pytest.raises(ImageError, match="^decode: not a DICOM file"):
        tags(b"\x89PNG\r\n\x1a\n" + bytes(200))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "PPM", "BMP", "GIF"])
def test_other_images_are_not_taken_for_dicom(kind: str) -> None:
    out = io.BytesIO()
    Image.fromarray(GREY8).save(out, kind)
    assert not is_dicom(out.getvalue())
    assert not is_dicom(b"")


def test_nothing_is_said(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    data = LOSSLESS[next(n for n in LOSSLESS if n.startswith("RLE"))][0]
    with caplog.at_level(logging.DEBUG):
        attempt(data)
        attempt(data[: len(data) - 300])
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("pydicom").propagate


def test_missing_codec_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lossless.dcm"
    path.write_bytes(LOSSY["HTJ2K, 16 bits"])
    code = (
        "import sys; sys.modules['openjpeg'] = sys.modules['pylibjpeg'] = None\n"
        "from pathlib import Path; from embedstore.images.decode import decode\n"
        f"decode(Path({str(path)!r}).read_bytes())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImageError: decode: " in run.stderr
    assert "install pylibjpeg and pylibjpeg-openjpeg" in run.stderr
