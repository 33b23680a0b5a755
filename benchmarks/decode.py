"""From a DICOM file to a model's input: embedstore against pydicom and a full-size resize.

python benchmarks/decode.py [--runs 5]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_voi_lut
from pydicom.pixels.utils import pixel_array

from embedstore.extract import extract
from embedstore.images.prepare import prepare
from embedstore.images.recipe import RECIPES, tensors
from embedstore.phantoms import films, render
from embedstore.plan import choose
from embedstore.readers import read_each
from embedstore.types import Recipe, Sample, Spec

RESULT = Path(__file__).parent / "results" / "decode.json"
SHAPE = (3328, 2560)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = (224, 384)
Grey = NDArray[np.uint16]


def mammogram(seed: int = 0) -> Grey:
    """Render a breast of SHAPE at 16 bits, with the noise a detector adds."""
    film = Image.fromarray(render(films(1, seed, label_rate=0)[0], 512))
    smooth = np.asarray(film.resize(SHAPE[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
    noise = np.random.default_rng(seed).normal(0, 80, SHAPE)
    grey = np.where(smooth > 12, smooth * 200 + noise, 0)
    return np.clip(grey, 0, 65535).astype(np.uint16)


def dataset(grey: NDArray[Any], bits: int) -> Dataset:
    """Describe a digital mammogram."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    ds.SOPInstanceUID = uid.generate_uid()
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = grey.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * grey.itemsize, bits, bits - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = 2 ** (bits - 1), 2**bits
    ds.PixelData = grey.tobytes()
    return ds


def write(path: Path, ds: Dataset, syntax: uid.UID, stream: bytes = b"") -> Path:
    """Save with a transfer syntax; `stream` is the frame of an encapsulated one."""
    ds.file_meta.TransferSyntaxUID = syntax
    if stream:
        ds.PixelData = encapsulate([stream])
    elif syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, np.uint16).byteswap().tobytes()
    ds["PixelData"].VR = "OB" if stream or ds.BitsAllocated == 8 else "OW"
    ds.save_as(path, enforce_file_format=True)
    return path


def corpus(folder: Path) -> dict[str, Path]:
    """Write one image in every transfer syntax."""
    grey = mammogram()
    eight, twelve = (grey >> 8).astype(np.uint8), grey >> 4
    made: dict[str, Path] = {}
    for syntax in (
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ):
        made[syntax.name] = write(folder / f"{syntax}.dcm", dataset(grey, 16), syntax)
    options: dict[str, Any]
    pixels: NDArray[Any]
    for syntax, codec, pixels, bits, options in (
        (uid.JPEGBaseline8Bit, "jpeg", eight, 8, {"level": 95}),
        (uid.JPEGExtended12Bit, "jpeg", twelve, 12, {"level": 95, "bitspersample": 12}),
        (uid.JPEGLossless, "jpeg", grey, 16, {"lossless": True, "predictor": 6}),
        (uid.JPEGLosslessSV1, "jpeg", grey, 16, {"lossless": True, "predictor": 1}),
        (uid.JPEGLSLossless, "jpegls", grey, 16, {}),
        (uid.JPEGLSNearLossless, "jpegls", grey, 16, {"level": 8}),
        (uid.JPEG2000Lossless, "jpeg2k", grey, 16, {"codecformat": "j2k", "reversible": True}),
        (uid.JPEG2000, "jpeg2k", grey, 16, {"codecformat": "j2k", "level": 80}),
        (uid.HTJ2KLossless, "htj2k", grey, 16, {}),
    ):
        stream = bytes(getattr(imagecodecs, f"{codec}_encode")(pixels, **options))
        made[syntax.name] = write(folder / f"{syntax}.dcm", dataset(pixels, bits), syntax, stream)
    rle = dataset(grey, 16)
    rle.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    rle.compress(uid.RLELossless)
    rle.save_as(folder / "rle.dcm", enforce_file_format=True)
    made[uid.RLELossless.name] = folder / "rle.dcm"
    return made


def peer(path: Path, size: int) -> NDArray[np.float32]:
    """Do what a script does: decode in full, window, scale to 0..1, resize, pad, normalise."""
    ds = pydicom.dcmread(io.BytesIO(path.read_bytes()))
    levels = apply_voi_lut(pixel_array(ds), ds).astype(np.float32)
    unit = (levels - levels.min()) / (levels.max() - levels.min())
    ratio = size / max(unit.shape)
    shape = round(unit.shape[1] * ratio), round(unit.shape[0] * ratio)
    small = np.asarray(Image.fromarray(unit).resize(shape, Image.Resampling.BICUBIC))
    square = np.zeros((size, size), dtype=np.float32)
    square[:, : small.shape[1]] = small
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (MEAN, STD))
    return np.asarray((square[None] - mean) / std, dtype=np.float32)


def ours(path: Path, recipe: Recipe) -> NDArray[np.float32]:
    """From the file to the same kind of tensor, the digest and the breast's outline included."""
    # a file under a new name each time would be read anew; here only the last one is remembered
    prepare.__globals__["_opened"].cache_clear()
    return np.asarray(tensors(recipe, prepare(path, 0, [recipe]).pictures)[0])


def compare(path: Path, size: int, runs: int) -> dict[str, float]:
    """Time both in turn; medians in milliseconds and of the ratio pair by pair."""
    recipe = replace(RECIPES["mammography"], size=(size, size), mean=MEAN, std=STD)
    pairs = []
    for run in range(runs + 1):
        theirs = seconds(lambda: peer(path, size))
        own = seconds(lambda: ours(path, recipe))
        if run:  # the first warms up
            pairs.append((theirs, own))
    return {
        "pydicom_ms": round(1000 * statistics.median(t for t, _ in pairs), 1),
        "embedstore_ms": round(1000 * statistics.median(o for _, o in pairs), 1),
        "times_faster": round(statistics.median(t / o for t, o in pairs), 2),
    }


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def scaling(files: list[Path], runs: int) -> dict[str, float]:
    """Files per second of one and of two reader processes, start-up left out, in turn."""
    recipe = replace(RECIPES["mammography"], mean=MEAN, std=STD)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(runs):
        for workers, found in rates.items():
            results = read_each(prepare, [(f, 0, [recipe]) for f in files], workers)
            for _ in range(2 * workers):
                next(results)
            began, left = time.perf_counter(), sum(1 for _ in results)
            found.append(left / (time.perf_counter() - began))
    pairs = zip(rates[1], rates[2], strict=True)
    return {
        "one": round(statistics.median(rates[1]), 2),
        "two": round(statistics.median(rates[2]), 2),
        "ratio": round(statistics.median(two / one for one, two in pairs), 2),
    }


class Means:
    """A backbone that costs next to nothing, so that reading is what is measured."""

    def __init__(self, recipe: Recipe) -> None:
        self.spec = Spec("means", "0", recipe, "pooled", 3)

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, 3, H, W) to (b, 3)."""
        return batch.mean((2, 3))

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Raise: there is no text side."""
        raise ValueError(f"no text side for {len(texts)} texts")


def second_backbone(files: list[Path], folder: Path) -> dict[str, float]:
    """Embed by a second backbone of the same recipe: from the files, and from kept pixels."""
    first = replace(RECIPES["mammography"], mean=MEAN, std=STD)
    samples = [Sample(str(n), path) for n, path in enumerate(files)]
    plan = choose("cpu", "float32", 32, 2, len(files))
    took = {}
    for name, keep in (("files", False), ("kept pixels", True)):
        store = folder / f"{keep}.zarr"
        extract(samples, store, [Means(first)], plan, keep_pixels=keep)
        second = Means(replace(first, mean=(0.5,) * 3))
        took[name] = extract(samples, store, [second], plan).seconds
    ratio = took["files"] / took["kept pixels"]
    return {f"{k}_s": round(v, 3) for k, v in took.items()} | {"times_faster": round(ratio, 1)}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = corpus(Path(folder))
        rows = {}
        for name, path in files.items():
            syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
            plugins = get_decoder(syntax).available_plugins
            rows[name] = {
                "pydicom_uses": next((p for p in plugins if p != "imagecodecs"), "itself"),
                "megabytes": round(path.stat().st_size / 1e6, 1),
                **{str(size): compare(path, size, given.runs) for size in SIZES},
            }
            print(name, json.dumps(rows[name]), flush=True)
        several = [p for n, p in files.items() if "2000" in n or "Explicit" in n] * 16
        processes = scaling(several, 3)
        second = second_backbone(several, Path(folder))
    result = {
        "shape": SHAPE,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "transfer_syntaxes": rows,
        "files_per_second": processes,
        "second_backbone": {"images": len(several), **second},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"files_per_second": processes, "second_backbone": second}, indent=1))


if __name__ == "__main__":
    main()
