"""A corpus of image files, whole and damaged, to run an extraction over: `write_corpus`.

The same files each time. Those whose names start with "whole-" are undamaged; the DICOM files
among them name a patient whose `IDENTIFIERS` must never come up in an error.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.filewriter import write_file_meta_info

IDENTIFIERS = ("Zyxwanda", "Quillfeather", "KENNWORT", "7351735", "19351127", "Schnurrbart")
WHOLE = "whole-"

_Pixels = np.ndarray[Any, Any]
_Files = Iterator[tuple[str, bytes]]
_JPEG_SYNTAXES = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless)
_SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    *_JPEG_SYNTAXES,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2K,
    uid.MPEG2MPML,
    uid.UID("1.2.3.4"),
)


def write_corpus(folder: Path) -> list[Path]:
    """Write all files into a folder that exists; their paths, the undamaged ones first."""
    whole = bases()
    files = chain(
        ((WHOLE + name, data) for name, data in whole.items()),
        *(_damaged(name, data) for name, data in whole.items()),
        _lying_lengths(whole),
        _lying_attributes(),
        _wrong_syntaxes(whole),
        _lying_encapsulation(),
        _lying_codestreams(whole),
        _bombs(),
        _impostors(whole),
    )
    paths = []
    for name, data in files:
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    assert len(set(paths)) == len(paths)
    return paths


def bases() -> dict[str, bytes]:
    """Give undamaged files by name, of every kind that is read."""
    pictures = {f"{name}.{kind}": data for name, kind, data in _pictures()}
    return pictures | {f"{name}.dcm": data for name, data in _dicom_files()}


def breast(height: int, width: int, bits: int, seed: int = 0) -> _Pixels:
    """Draw a breast from edge to edge: (h, w) uint8 or uint16."""
    y, x = np.mgrid[:height, :width]
    inside = (x / (0.9 * width)) ** 2 + ((y - height / 2) / (0.48 * height)) ** 2 < 1
    noise = np.random.default_rng(seed).normal(0, 0.04, (height, width))
    level = np.where(inside, 0.5 + noise + 0.2 * np.sin(x / 9) * np.cos(y / 7), 0)
    top = 2**bits - 1
    return np.rint(level.clip(0, 1) * top).astype(np.uint8 if bits <= 8 else np.uint16)


SMALL = {bits: breast(80, 64, bits) for bits in (8, 12, 16)}
LARGE = {bits: breast(800, 620, bits) for bits in (8, 12)}  # decoded at a half
RGB = np.dstack([SMALL[8], SMALL[8] // 2, SMALL[8] // 3])


def _pil(pixels: _Pixels, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def _tiff(pixels: _Pixels, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def _pictures() -> Iterator[tuple[str, str, bytes]]:
    yield "grey8", "png", _pil(SMALL[8], "PNG")
    yield "grey16", "png", _pil(SMALL[16], "PNG")
    yield "rgb", "png", _pil(RGB, "PNG")
    yield "large", "png", _pil(LARGE[12], "PNG")
    yield "grey", "jpg", _pil(SMALL[8], "JPEG")
    yield "rgb", "jpg", _pil(RGB, "JPEG")
    yield "progressive", "jpg", _pil(RGB, "JPEG", progressive=True)
    yield "large", "jpg", _pil(LARGE[8], "JPEG")
    yield "raw8", "tif", _tiff(SMALL[8])
    yield "raw16", "tif", _tiff(SMALL[16], byteorder=">")
    yield "lzw", "tif", _tiff(SMALL[16], compression="lzw")
    yield "deflate", "tif", _tiff(SMALL[12], compression="zlib", predictor=2)
    yield "tiled", "tif", _tiff(np.tile(SMALL[16], (2, 2)), tile=(32, 48))
    yield "rgb", "tif", _tiff(RGB, photometric="rgb")
    yield "grey16", "pgm", b"P5 64 80 65535\n" + SMALL[16].astype(">u2").tobytes()


def _dataset(pixels: _Pixels, bits: int, **attributes: Any) -> Dataset:
    """Describe (h, w), (h, w, 3) or, with NumberOfFrames, (n, h, w) pixels of one patient."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    ds.SOPInstanceUID = "1.2.826.0.1.7351735.1"
    ds.StudyInstanceUID = "1.2.826.0.1.7351735.2"
    ds.SeriesInstanceUID = "1.2.826.0.1.7351735.3"
    ds.AccessionNumber = "A7351735"
    ds.ReferringPhysicianName = "Schnurrbart^Otto"
    ds.PatientName = "Zyxwanda^O'Quillfeather"
    ds.PatientID = "KENNWORT-1"
    ds.PatientBirthDate = "19351127"
    ds.ImageLaterality = "L"
    ds.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    first = pixels[0] if "NumberOfFrames" in attributes else pixels
    ds.Rows, ds.Columns = first.shape[:2]
    ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else "MONOCHROME2"
    ds.BitsAllocated = 8 * pixels.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(ds, name, value)
    ds.PixelData = pixels.tobytes()
    return ds


def _written(ds: Dataset, syntax: str = uid.ExplicitVRLittleEndian, *streams: bytes) -> bytes:
    """Write a file; `streams` are the frames of an encapsulated transfer syntax."""
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    if streams:
        ds.PixelData = encapsulate(list(streams))
    elif syntax == uid.ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "u2").byteswap().tobytes()
    if "PixelData" in ds:
        ds["PixelData"].VR = "OB" if streams or ds.BitsAllocated <= 8 else "OW"
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _voi_lut() -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 12])
    item.add_new("LUTData", "US", (np.arange(4096) ** 2 // 4096).tolist())
    return [item]


def _stream(codec: str, pixels: _Pixels, **options: Any) -> bytes:
    return bytes(getattr(imagecodecs, f"{codec}_encode")(pixels, **options))


def _dicom_files() -> _Files:
    for syntax, short in zip(
        _SYNTAXES[:4], ("implicit", "explicit", "big", "deflated"), strict=True
    ):
        for bits in (8, 12, 16):
            yield f"{short}{bits}", _written(_dataset(SMALL[bits], bits), syntax)
    windows = {"WindowCenter": [2000, 1500], "WindowWidth": [3000, 900]}
    shown = {
        "RescaleSlope": 2,
        "RescaleIntercept": -100,
        "PhotometricInterpretation": "MONOCHROME1",
    }
    signed = SMALL[12].astype(np.int16) - 2048
    yield "windows", _written(_dataset(SMALL[12], 12, **windows))
    yield "shown", _written(_dataset(SMALL[12], 12, **windows, **shown))
    yield "signed", _written(_dataset(signed, 12, PixelPaddingValue=-2048))
    yield "lut", _written(_dataset(SMALL[12], 12, VOILUTSequence=_voi_lut()))
    yield "rgb", _written(_dataset(RGB, 8))
    yield "frames", _written(_dataset(np.stack([SMALL[12]] * 3), 12, NumberOfFrames=3))
    yield "large", _written(_dataset(LARGE[12], 12))
    yield from _encapsulated_files()


def _encapsulated_files() -> _Files:
    def one(syntax: str, pixels: _Pixels, bits: int, codec: str, **options: Any) -> bytes:
        return _written(_dataset(pixels, bits), syntax, _stream(codec, pixels, **options))

    for bits in (8, 12, 16):
        pixels = SMALL[bits]
        rle = _dataset(pixels, bits)
        rle.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        rle.compress(uid.RLELossless, generate_instance_uid=False)
        yield f"rle{bits}", _written_as_it_is(rle)
        yield f"ls{bits}", one(uid.JPEGLSLossless, pixels, bits, "jpegls")
        lossless = {"lossless": True, "bitspersample": bits}
        sv1 = one(uid.JPEGLosslessSV1, pixels, bits, "jpeg", predictor=1, **lossless)
        yield f"sv1-{bits}", sv1
        j2k = {"level": 0, "codecformat": "j2k", "bitspersample": bits}
        yield f"j2k{bits}", one(uid.JPEG2000Lossless, pixels, bits, "jpeg2k", **j2k)
        yield f"ht{bits}", one(uid.HTJ2KLossless, pixels, bits, "htj2k")
    small, large = SMALL[12], LARGE[12]
    lossy = {"level": 60, "codecformat": "j2k", "reversible": False, "bitspersample": 12}
    yield "near", one(uid.JPEGLSNearLossless, small, 12, "jpegls", level=3)
    yield (
        "lossless",
        one(uid.JPEGLossless, small, 12, "jpeg", predictor=4, **lossless | {"bitspersample": 12}),
    )
    yield "extended", one(uid.JPEGExtended12Bit, small, 12, "jpeg8", level=90, bitspersample=12)
    yield "j2k-lossy", one(uid.JPEG2000, small, 12, "jpeg2k", **lossy)
    yield "ht-lossy", one(uid.HTJ2K, small, 12, "htj2k", level=0.001)
    yield "j2k-large", one(uid.JPEG2000, large, 12, "jpeg2k", **lossy)
    yield "ls-large", one(uid.JPEGLSLossless, large, 12, "jpegls")
    for name, pixels in (("jpeg", SMALL[8]), ("jpeg-large", LARGE[8])):
        yield name, _written(_dataset(pixels, 8), uid.JPEGBaseline8Bit, _pil(pixels, "JPEG"))
    colour = _dataset(RGB, 8, PhotometricInterpretation="YBR_FULL_422")
    yield "jpeg-rgb", _written(colour, uid.JPEGBaseline8Bit, _pil(RGB, "JPEG"))
    several = _dataset(np.stack([small] * 3), 12, NumberOfFrames=3)
    yield "j2k-frames", _written(several, uid.JPEG2000, *[_stream("jpeg2k", small, **lossy)] * 3)


def _written_as_it_is(ds: Dataset) -> bytes:
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _damaged(name: str, data: bytes) -> _Files:
    """Damage any file: cut short, bits flipped, bytes overwritten, left out or doubled."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    stem, _, kind = name.rpartition(".")
    for tenth in range(1, 10):
        yield f"{stem}-cut{tenth}.{kind}", data[: len(data) * tenth // 10]
    for trial in range(10):
        within = len(data) if trial % 2 else min(len(data), 1024)  # headers have more to break
        yield f"{stem}-flip{trial}.{kind}", _flipped(data, within, 1 + trial % 8, rng)
    for trial in range(4):
        within = len(data) if trial % 2 else min(len(data), 1024)
        start, length = int(rng.integers(within)), int(rng.integers(1, 64))
        noise = rng.bytes(length)
        yield f"{stem}-noise{trial}.{kind}", data[:start] + noise + data[start + length :]
        yield f"{stem}-gap{trial}.{kind}", data[:start] + data[start + length :]
    start = int(rng.integers(len(data)))
    yield f"{stem}-doubled.{kind}", data[:start] + data[start // 2 :]


def _flipped(data: bytes, within: int, count: int, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for at in rng.integers(0, within, count):
        damaged[at] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _lying_lengths(whole: dict[str, bytes]) -> _Files:
    """State other lengths for elements than they have, in explicit VR."""
    keywords = ("PatientName", "Rows", "WindowCenter", "VOILUTSequence", "LUTData", "PixelData")
    for name in ("explicit12", "windows", "lut", "frames", "j2k12", "jpeg", "rle12"):
        data = whole[f"{name}.dcm"]
        places = {k: _length_of(data, k) for k in keywords} | {"item": _item_length(data)}
        places["TransferSyntaxUID"] = _length_of(data, "TransferSyntaxUID")
        places["SOPClassUID"] = _length_of(data, "SOPClassUID")
        for keyword, (at, size) in places.items():
            if not at:
                continue
            true = int.from_bytes(data[at : at + size], "little")
            lies = {0, 1, 7, true - 1, true + 1, true - 2, true + 2, 2 * true, 0xFFFE, 0xFFFF}
            if size == 4:
                lies |= {0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF}
            for lie in sorted(n for n in lies - {true} if 0 <= n < 256**size):
                lying = data[:at] + lie.to_bytes(size, "little") + data[at + size :]
                yield f"{name}-{keyword}-of-{lie}.dcm", lying


def _length_of(data: bytes, keyword: str) -> tuple[int, int]:
    """Place and bytes of the length of an explicit VR element; 0, 0 where there is none."""
    tag = pydicom.tag.Tag(keyword)
    start = data.find(struct.pack("<HH", tag.group, tag.element), 132)
    if start < 0:
        return 0, 0
    long = data[start + 4 : start + 6] in {b"OB", b"OW", b"SQ", b"UN"}
    return (start + 8, 4) if long else (start + 6, 2)


def _item_length(data: bytes) -> tuple[int, int]:
    start = data.find(b"\xfe\xff\x00\xe0")
    return (start + 4, 4) if start > 0 else (0, 0)


_LIES: dict[str, tuple[Any, ...]] = {
    "Rows": (0, 1, 7, 79, 81, 32768, 65534, 65535, None),
    "Columns": (0, 1, 7, 63, 65, 32768, 65534, 65535, None),
    "BitsAllocated": (0, 1, 7, 8, 12, 16, 24, 32, 64, 65535, None),
    "BitsStored": (0, 1, 3, 8, 12, 15, 16, 17, 65535, None),
    "PixelRepresentation": (0, 1, 2, 65535, None),
    "SamplesPerPixel": (0, 2, 3, 4, 65535, None),
    "PlanarConfiguration": (1, 7, None),
    "PhotometricInterpretation": ("RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "X", None),
    "NumberOfFrames": (0, -1, 2, 10**9, None),
    "WindowWidth": (0, -5, 1e-300, [1, 2, 3]),
    "RescaleSlope": (0, 1e308, -1),
    "PixelPaddingValue": (0, 65535),
    "PresentationLUTShape": ("INVERSE", "X"),
}


def _lying_attributes() -> _Files:
    """Describe the pixels as what they are not."""
    small, windows = SMALL[12], {"WindowCenter": 2000, "WindowWidth": 3000}
    j2k = _stream("jpeg2k", small, level=0, codecformat="j2k", bitspersample=12)
    kinds: dict[str, tuple[_Pixels, int, str, list[bytes]]] = {
        "native": (small, 12, uid.ExplicitVRLittleEndian, []),
        "rgb": (RGB, 8, uid.ExplicitVRLittleEndian, []),
        "deflated": (small, 12, uid.DeflatedExplicitVRLittleEndian, []),
        "jpeg": (SMALL[8], 8, uid.JPEGBaseline8Bit, [_pil(SMALL[8], "JPEG")]),
        "j2k": (small, 12, uid.JPEG2000Lossless, [j2k]),
        "ls": (small, 12, uid.JPEGLSLossless, [_stream("jpegls", small)]),
        "rle": (SMALL[8], 8, uid.RLELossless, [_rle(SMALL[8])]),
    }
    for kind, (pixels, bits, syntax, streams) in kinds.items():
        for keyword, lies in _LIES.items():
            for lie in lies:
                ds = _dataset(pixels, bits, **windows)
                data = _with_lie(ds, {keyword: lie}, syntax, streams)
                yield f"{kind}-{keyword}-{str(lie).replace('/', '')}.dcm", data
        for side in (0, 13_000, 65535):
            ds = _dataset(pixels, bits, **windows)
            both = {"Rows": side, "Columns": side}
            yield f"{kind}-{side}x{side}.dcm", _with_lie(ds, both, syntax, streams)
        ds = _dataset(pixels, bits)
        del ds.PixelData
        yield f"{kind}-no-pixels.dcm", _with_lie(ds, {}, syntax, [])
        ds = _dataset(pixels, bits)
        ds.PixelData = b""
        yield f"{kind}-empty-pixels.dcm", _with_lie(ds, {}, syntax, [b"\0\0"] if streams else [])


def _rle(pixels: _Pixels) -> bytes:
    """Run lengths of one byte a pixel (PS3.5 annex G), all literal."""
    flat = pixels.tobytes()
    runs = [flat[i : i + 128] for i in range(0, len(flat), 128)]
    coded = b"".join(bytes([len(run) - 1]) + run for run in runs)
    return struct.pack("<16I", 1, 64, *[0] * 14) + coded + b"\0" * (len(coded) % 2)


def _with_lie(ds: Dataset, lies: dict[str, Any], syntax: str, streams: list[bytes]) -> bytes:
    data = Dataset()
    data.update(ds)
    data.file_meta = ds.file_meta
    if streams:
        data.PixelData = encapsulate(streams)
    if "PixelData" in data:
        data["PixelData"].VR = "OB" if streams or ds.BitsAllocated <= 8 else "OW"
    for keyword, lie in lies.items():
        setattr(data, keyword, lie)
        if lie is None:
            delattr(data, keyword)
    data.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return _written_as_it_is(data)


def _wrong_syntaxes(whole: dict[str, bytes]) -> _Files:
    """Name each transfer syntax over data of each other."""
    names = "implicit12 explicit12 big12 deflated12 rle12 jpeg extended lossless sv1-12 ls12 near"
    for name in (*names.split(), "j2k12", "j2k-lossy", "ht12", "ht-lossy", "rgb", "lut"):
        data = whole[f"{name}.dcm"]
        body = data[_end_of_meta(data) :]
        for number, syntax in enumerate(_SYNTAXES):
            yield f"{name}-as-{number}.dcm", _under(syntax, body)


def _end_of_meta(data: bytes) -> int:
    at, size = _length_of(data, "FileMetaInformationGroupLength")
    value = at + size
    return value + 4 + int.from_bytes(data[value : value + 4], "little")


def _under(syntax: str, body: bytes) -> bytes:
    """Put a file meta that names a transfer syntax before the bytes of a data set."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid.UID("1.2.826.0.1.7351735.1")
    meta.TransferSyntaxUID = uid.UID(syntax)
    out = io.BytesIO()
    write_file_meta_info(out, meta)
    return b"\0" * 128 + b"DICM" + out.getvalue() + body


def _lying_encapsulation() -> _Files:
    """Point the offset table elsewhere, and break the fragments."""
    pixels = SMALL[12]
    stream = _stream("jpegls", pixels)
    for count in (1, 3):
        ds = _dataset(np.stack([pixels] * count), 12, NumberOfFrames=count)
        data = _written(ds, uid.JPEGLSLossless, *[stream] * count)
        at = _item_length(data)[0]
        table = struct.unpack(f"<{count}I", data[at + 4 : at + 4 + 4 * count])
        for number, lie in enumerate(
            (1, 8, 0xFFFFFFFF, 0x7FFFFFFF, len(stream), len(stream) * 2 + 1, len(data))
        ):
            offsets = struct.pack(f"<{count}I", *[lie] * count)
            yield (
                f"table{count}-{number}.dcm",
                data[: at + 4] + offsets + data[at + 4 + len(offsets) :],
            )
        backwards = struct.pack(f"<{count}I", *reversed(table))
        yield f"table{count}-back.dcm", data[: at + 4] + backwards + data[at + 4 + len(backwards) :]
        first = at + 4 + 4 * count + 4
        for number, lie in enumerate((0, 1, 2, len(stream) * 4, 0x7FFFFFFE, 0xFFFFFFFF)):
            yield (
                f"fragment{count}-{number}.dcm",
                data[:first] + struct.pack("<I", lie) + data[first + 4 :],
            )
        yield f"endless{count}.dcm", data.removesuffix(b"\xfe\xff\xdd\xe0\0\0\0\0")
    for number, lie in enumerate((0, 8, 2**40, 2**63 - 1)):
        ds = _dataset(np.stack([pixels] * 2), 12, NumberOfFrames=2)
        ds.PixelData, _, lengths = encapsulate_extended([stream] * 2)
        ds.ExtendedOffsetTable = struct.pack("<2Q", lie, lie)
        ds.ExtendedOffsetTableLengths = lengths if number % 2 else struct.pack("<2Q", lie, lie)
        ds.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
        ds["PixelData"].VR = "OB"
        yield f"extended-table-{number}.dcm", _written_as_it_is(ds)


def _lying_codestreams(whole: dict[str, bytes]) -> _Files:
    """State another size in a codestream than the data set does, and than the data hold."""
    marks = {
        "jpeg": b"\xff\xc0", "jpeg-rgb": b"\xff\xc0", "extended": b"\xff\xc1",
        "sv1-12": b"\xff\xc3", "ls12": b"\xff\xf7",
    }  # fmt: skip
    sides = (0, 1, 7, 63, 65, 640, 13_000, 60_000, 65535)
    for name, mark in marks.items():
        data = whole[f"{name}.dcm"]
        at = data.index(mark, data.index(b"\xff\xd8\xff")) + 5
        for side in sides:
            sized = data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]
            yield f"{name}-frame-of-{side}.dcm", sized
    jpeg = whole["grey.jpg"]
    at = jpeg.index(b"\xff\xc0") + 5
    for side in sides:
        yield f"frame-of-{side}.jpg", jpeg[:at] + struct.pack(">HH", side, side) + jpeg[at + 4 :]
    for name in ("j2k12", "j2k-frames", "ht12"):
        data = whole[f"{name}.dcm"]
        at = data.index(b"\xff\x4f\xff\x51") + 8
        for side in (*sides, 2**31, 2**32 - 1):
            yield (
                f"{name}-frame-of-{side}.dcm",
                data[:at] + struct.pack(">II", side, side) + data[at + 8 :],
            )
            # one tile as large as the image, and the data set agrees
            whole_tile = data[:at] + struct.pack(">II", side, side) + data[at + 8 : at + 16]
            whole_tile += struct.pack(">II", side, side) + data[at + 24 :]
            yield f"{name}-tile-of-{side}.dcm", _resized(whole_tile, min(side, 65535))


def _resized(data: bytes, side: int) -> bytes:
    """Set Rows and Columns of an explicit VR file."""
    for keyword in ("Rows", "Columns"):
        at, size = _length_of(data, keyword)
        data = data[: at + size] + struct.pack("<H", side) + data[at + size + 2 :]
    return data


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, packed: bytes, depth: int = 8) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    """Deflate `count` zeros (a multiple of 2**20) at once: one megabyte's code, over and over."""
    packer = zlib.compressobj(9, wbits=-15)
    megabyte = packer.compress(b"\0" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return megabyte * (count >> 20) + packer.flush()


def _bombs() -> _Files:
    """Pack into a small file what would not fit into memory."""
    packed = zlib.compress(b"\0" * 60_001 * 60)
    yield "bomb60000.png", _png(60_000, 60_000, packed)
    yield "bomb65535.png", _png(65_535, 65_535, packed, 16)
    yield "bomb-wide.png", _png(2**31 - 1, 8, packed)
    yield "bomb-deep.png", _png(13_000, 13_000, packed, 16)  # allowed, but its rows are missing
    grey = np.broadcast_to(np.uint8(0), (64, 64))
    for name, options in (
        ("raw", {}),
        ("zlib", {"compression": "zlib"}),
        ("lzw", {"compression": "lzw"}),
    ):
        tiff = _tiff(np.ascontiguousarray(grey), byteorder="<", **options)
        for side in (13_000, 60_000, 2**31, 2**32 - 1):
            yield f"bomb{side}-{name}.tif", _tiff_sized(tiff, side)
    yield "bomb.pgm", b"P5 60000 60000 65535\n" + bytes(1000)
    yield "bomb-13000.pgm", b"P5 13000 13000 65535\n" + bytes(1000)
    header = _written(_dataset(SMALL[12], 12), uid.ExplicitVRLittleEndian)
    start = _end_of_meta(header)
    packer = zlib.compressobj(9, wbits=-15)
    begin = packer.compress(header[start:]) + packer.flush(zlib.Z_FULL_FLUSH)
    for size in (2**28, 15 * 2**26, 2**30 + 2**26):
        yield (
            f"bomb-{size >> 20}.dcm",
            _under(uid.DeflatedExplicitVRLittleEndian, begin + _zeros(size)),
        )
    # the zeros are an element before the pixels, stated in full
    at = header.index(b"\x10\x00\x10\x00PN")
    long = struct.pack("<HH2sHI", 0x9, 0x1000, b"OB", 0, 2**29)
    packer = zlib.compressobj(9, wbits=-15)
    begin = packer.compress(header[start:at] + long) + packer.flush(zlib.Z_FULL_FLUSH)
    yield "bomb-element.dcm", _under(uid.DeflatedExplicitVRLittleEndian, begin + _zeros(2**29))
    large = _dataset(SMALL[8], 8, Rows=13_000, Columns=13_000)
    run = b"\x81\0" * (13_000 * 13_000 // 128 + 1)  # 128 zeros each
    yield (
        "bomb-rle.dcm",
        _written(large, uid.RLELossless, struct.pack("<16I", 1, 64, *[0] * 14) + run),
    )


def _tiff_sized(data: bytes, side: int) -> bytes:
    """Set ImageWidth, ImageLength and RowsPerStrip of a little-endian TIFF."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = [file.pages[0].tags[code].offset for code in (256, 257, 278)]
    for at in places:
        data = data[: at + 2] + struct.pack("<HII", 4, 1, side) + data[at + 12 :]
    return data


def _impostors(whole: dict[str, bytes]) -> _Files:
    """Hold what the name or the first bytes do not promise."""
    rng = np.random.default_rng(2)
    magics = {
        "png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff\xe0", "tif": b"II*\0\x08\0\0\0",
        "tiff": b"MM\0*\0\0\0\x08", "pgm": b"P5 64 80 65535\n", "dcm": b"\0" * 128 + b"DICM",
        "dicom": b"\x08\0\x05\0CS\x0a\0",
    }  # fmt: skip
    for kind, magic in magics.items():
        yield f"empty.{kind}", b""
        yield f"magic.{kind}", magic
        for trial in range(8):
            yield f"random{trial}.{kind}", magic + rng.bytes(int(rng.integers(1, 5000)))
    for name, data in list(whole.items())[::3]:
        stem, _, kind = name.rpartition(".")
        other = whole["grey8.png" if kind == "dcm" else "explicit12.dcm"]
        yield f"{stem}-then-another.{kind}", data + other
    for name, data in list(whole.items())[1::3]:
        if name.endswith(".dcm"):
            yield f"{name[:-4]}-bare.dcm", data[132:]
            yield f"{name[:-4]}-no-meta.dcm", data[:132] + data[_end_of_meta(data) :]
