from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from embedstore.errors import ImageError
from embedstore.images.decode import decode, read

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (33, 47), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (33, 47), dtype=np.uint16)
RGB = RNG.integers(0, 256, (33, 47, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (33, 47), dtype=np.uint8)


def pil(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """Write a PNG by hand; each row of `rows` begins with its filter byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def by_hand(pixels: np.ndarray) -> bytes:
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    return png(width, height, rows, 8 * pixels.itemsize)


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.stage == "decode"
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value


def attempt(data: bytes) -> np.ndarray | None:
    """Decode, or None where that is refused; anything but an ImageError goes through."""
    try:
        return decode(data)
    except ImageError:
        return None


LOSSLESS = {
    "png 8": (by_hand(GREY8), GREY8),
    "png 16": (by_hand(GREY16), GREY16),
    "png rgb": (pil(RGB, "PNG"), RGB),
    "tiff 8": (tiff(GREY8), GREY8),
    "tiff 16": (tiff(GREY16), GREY16),
    "tiff rgb": (tiff(RGB, photometric="rgb"), RGB),
    "tiff 32 with 16-bit levels": (tiff(GREY16.astype(np.uint32)), GREY16),
    "tiff, first of two pages": (tiff(np.stack([GREY16, GREY16 // 2])), GREY16),
    "pgm 8": (b"P5 47 33 255\n" + GREY8.tobytes(), GREY8),
    "pgm 16": (b"P5\n# made by hand\n47 33\n65535\n" + GREY16.astype(">u2").tobytes(), GREY16),
    "pgm as text": (b"P2 47 33 255\n" + b" ".join(b"%d" % v for v in GREY8.ravel()), GREY8),
    "pgm as text, 16": (
        b"P2 47 33 65535\n" + b"\n".join(b"%d" % v for v in GREY16.ravel()),
        GREY16,
    ),
    "tiff tiled": (tiff(np.tile(GREY16, (3, 3)), tile=(32, 16)), np.tile(GREY16, (3, 3))),
}
LOSSLESS |= {
    f"tiff {pixels.itemsize * 8} {order} {how}": (
        tiff(pixels, byteorder=order, compression=how, predictor=predictor),
        pixels,
    )
    for pixels in (GREY8, GREY16)
    for order in "<>"
    for how, predictor in (("lzw", None), ("zlib", None), ("lzw", 2), ("packbits", None))
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_are_those_written(name: str) -> None:
    data, written = LOSSLESS[name]
    pixels = decode(data)
    assert pixels.dtype == written.dtype
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, written)


@pytest.mark.parametrize("name", [n for n in LOSSLESS if n.startswith("tiff")])
def test_tiff_is_read_as_tifffile_does(name: str) -> None:
    data, _ = LOSSLESS[name]
    np.testing.assert_array_equal(decode(data), tifffile.imread(io.BytesIO(data), key=0))


def test_twelve_bits_of_pgm_are_stretched_to_sixteen() -> None:
    grey = GREY16 // 16
    pixels = decode(b"P5 47 33 4095\n" + grey.astype(">u2").tobytes())
    np.testing.assert_allclose(pixels, grey * (65535 / 4095), atol=1)


def test_alpha_is_dropped_and_colours_are_looked_up() -> None:
    rgba = np.dstack([RGB, ALPHA])
    np.testing.assert_array_equal(decode(pil(rgba, "PNG")), RGB)
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY8), Image.fromarray(ALPHA)])
    np.testing.assert_array_equal(decode(pil(grey_alpha, "PNG")), GREY8)
    palette = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    indexed = Image.fromarray(GREY8 % 16, "L")
    indexed.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decode(pil(indexed, "PNG")), palette[GREY8 % 16])
    with_transparency = pil(indexed, "PNG", transparency=bytes(range(16)))
    np.testing.assert_array_equal(decode(with_transparency), palette[GREY8 % 16])


def test_black_and_white_spans_the_range() -> None:
    bits = GREY8 > 127
    np.testing.assert_array_equal(decode(pil(Image.fromarray(bits), "PNG")), bits * np.uint8(255))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_is_read_as_pillow_does(mode: str) -> None:
    data = pil(Image.fromarray(RGB).convert(mode), "JPEG")
    reference = Image.open(io.BytesIO(data)).convert("L" if mode == "L" else "RGB")
    np.testing.assert_array_equal(decode(data), np.array(reference))


def test_the_digest_is_the_leading_half_of_sha256(tmp_path: Path) -> None:
    data, written = LOSSLESS["png 16"]
    (tmp_path / "a.png").write_bytes(data)
    digest, image = read(tmp_path / "a.png")
    assert digest.hex() == hashlib.sha256(data).hexdigest()[:32]
    np.testing.assert_array_equal(image.pixels(), written)
    assert image.shape == written.shape


def test_what_cannot_be_read_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, reason in [
        ("gone.png", "No such file or directory"),
        ("empty.png", "the file is empty"),
        ("folder.png", "Is a directory"),
        ("loop.png", "Too many levels of symbolic links"),
    ]:
        with pytest.raises(ImageError) as caught:
            read(tmp_path / name)
        assert (caught.value.stage, caught.value.reason) == ("read", reason)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_one_may_not_read_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(LOSSLESS["png 8"][0])
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(ImageError, match="read: Permission denied"):
        read(tmp_path / "a.png")


def test_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("this is not an image\n" * 100)
    with pytest.raises(ImageError, match="decode: not an image in a format known here"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["png 8", "png 16", "tiff 16", "tiff 8 < zlib", "pgm 16"])
def test_a_truncated_file_is_refused_or_whole(name: str) -> None:
    data, written = LOSSLESS[name]
    lengths = range(1, len(data), 7)
    decoded = {n: pixels for n in lengths if (pixels := attempt(data[:n])) is not None}
    # what ends a file (PNG's last chunks) is not needed for its pixels
    for length, pixels in decoded.items():
        np.testing.assert_array_equal(pixels, written, err_msg=f"{length} of {len(data)}")
    assert len(decoded) < 20


def test_a_truncated_jpeg_is_refused() -> None:
    data = pil(RGB, "JPEG", quality=95)
    for length in range(1, len(data) - 40, 29):
        refusal(data[:length])


@pytest.mark.parametrize("name", ["png 16", "tiff tiled", "tiff 8 < lzw", "tiff rgb", "pgm 16"])
def test_damaged_bytes_give_pixels_or_an_image_error(name: str) -> None:
    data, _ = LOSSLESS[name]
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(300):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data) if trial % 2 else 100, 3):
            damaged[at] = rng.integers(256)
        refused += attempt(bytes(damaged)) is None
    assert refused > 20


def test_an_error_without_words_still_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(Image, "open", fail)
    assert refusal(b"x").reason == "OSError"


def test_a_tile_wider_than_all_integers_is_an_image_error() -> None:
    # TileWidth (tag 322) of 4 GiB, found by flipping bits: an OverflowError inside Pillow
    data = bytearray(tiff(np.tile(GREY16, (3, 3)), tile=(32, 16), byteorder="<"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages[0].tags["TileWidth"].offset + 2
    data[at : at + 10] = struct.pack("<HII", 4, 1, 0xFFFFFFFF)
    refusal(bytes(data))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 100), (8, 7)])
def test_specks_are_refused(height: int, width: int) -> None:
    error = refusal(by_hand(np.zeros((height, width), np.uint8)))
    assert error.reason == f"{width}x{height} pixels; at least 8 a side are needed"


def test_the_least_size_and_the_longest_shape_pass() -> None:
    assert decode(by_hand(np.zeros((8, 8), np.uint8))).shape == (8, 8)
    assert decode(by_hand(np.zeros((8, 400), np.uint8))).shape == (8, 400)
    error = refusal(by_hand(np.zeros((401, 8), np.uint8)))
    assert error.reason == "8x401 pixels; one side is over 50 times the other"


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken() -> None:
    error = refusal(png(200_000, 200_000, b"\0" * 100))
    assert "exceeds limit" in error.reason


def test_an_image_of_a_hundred_megapixels_passes() -> None:
    # Pillow warns from 89 megapixels on, and warnings are errors here
    assert decode(png(20_000, 5_000, b"\0" * 20_001 * 5_000)).shape == (5_000, 20_000)


def test_a_wide_image_is_decoded_to_its_last_column() -> None:
    grey = np.arange(20_000 * 500, dtype=np.uint32).reshape(500, 20_000).astype(np.uint16)
    np.testing.assert_array_equal(decode(by_hand(grey)), grey)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (GREY8.astype(np.float32), "floating-point grey levels; store 8- or 16-bit integers"),
        (np.full((20, 20), 70_000, np.int32), "grey levels 70000 to 70000 do not fit 16 bits"),
        (GREY8.astype(np.int32) - 1000, None),
    ],
)
def test_grey_levels_that_do_not_fit_are_refused(pixels: np.ndarray, reason: str | None) -> None:
    expected = reason or f"grey levels {pixels.min()} to {pixels.max()} do not fit 16 bits"
    assert refusal(tiff(pixels)).reason == expected


def test_an_image_error_crosses_process_borders_whole() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(refusal(b"nothing")))
    assert (error.stage, str(error)) == (
        "decode",
        "decode: not an image in a format known here (PNG, JPEG, TIFF, PGM, DICOM)",
    )


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_a_jpeg_comes_smaller_close_to_its_block_means(mode: str, halvings: int) -> None:
    smooth = np.add.outer(np.arange(96), np.arange(128)).astype(np.uint8)
    picture = Image.fromarray(smooth).convert(mode)
    data, side = pil(picture, "JPEG", quality=95), 2**halvings
    small = decode(data, halvings=halvings)
    blocks = smooth.reshape(96 // side, side, 128 // side, side).mean(axis=(1, 3))
    assert small.shape == (*blocks.shape, 3)[: 3 if mode == "RGB" else 2]
    assert np.abs(small.reshape(*blocks.shape, -1) - blocks[..., None]).max() < 4


def test_other_pictures_come_in_full_whatever_does() -> None:
    for name in ("png 16", "tiff 8", "pgm 8"):
        data, written = LOSSLESS[name]
        np.testing.assert_array_equal(decode(data, halvings=2), written)
    with pytest.raises(ImageError, match="frame 1 was asked for; only DICOM has several"):
        decode(LOSSLESS["png 8"][0], frame=1)


def test_a_dicom_file_is_read_as_pydicom_shows_it(tmp_path: Path) -> None:
    stored = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    ds.Rows, ds.Columns, ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 64, 48, 0, 12, 11
    ds.PixelData = stored.tobytes()
    for keyword in ("PixelPaddingValue", "RescaleSlope", "RescaleIntercept"):
        if keyword in ds:
            del ds[keyword]
    ds.WindowCenter, ds.WindowWidth = 1500, 800
    ds.save_as(tmp_path / "a.dcm")
    digest, image = read(tmp_path / "a.dcm")
    expected = pydicom.pixels.apply_windowing(stored, ds)  # onto 0 to 4095
    np.testing.assert_allclose(image.pixels() / 65535, expected / 4095, atol=1e-3)
    assert digest == hashlib.sha256((tmp_path / "a.dcm").read_bytes()).digest()[:16]
