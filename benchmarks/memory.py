"""What memory an extraction takes at 1,000, 10,000 and 100,000 images; Linux only.

python benchmarks/memory.py [--images 1000 10000 100000]

Small PNG files and a backbone that costs nothing, so that what grows is embedstore's own. Each
extraction is a process; it and its readers are watched from outside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from embedstore.extract import extract
from embedstore.images.recipe import RECIPES
from embedstore.plan import choose
from embedstore.store import Store
from embedstore.types import Recipe, Sample, Spec

RESULT = Path(__file__).parent / "results" / "memory.json"
FILES, DIM, SIDE, BATCH = 64, 512, 32, 256


class Means:
    """A backbone that costs next to nothing: mean levels, repeated to 512 numbers."""

    def __init__(self, recipe: Recipe) -> None:
        self.spec = Spec("means", "0", recipe, "pooled", DIM)

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, 3, H, W) to (b, 512)."""
        return batch.mean((1, 2, 3))[:, None].expand(-1, DIM)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Raise: there is no text side."""
        raise ValueError(f"no text side for {len(texts)} texts")


def work(folder: Path, images: int) -> None:
    """Extract that many images; what the watched process does."""
    paths = sorted((folder / "images").iterdir())
    samples = [
        Sample(
            f"film{n:07d}",
            paths[n % FILES],
            f"patient{n // 4:07d}",
            labels={"density": "ABCD"[n % 4]},
        )
        for n in range(images)
    ]
    recipe = replace(RECIPES["plain"], size=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    plan = choose("cpu", "float32", BATCH, 2, images)
    assert not extract(samples, folder / f"{images}.zarr", [Means(recipe)], plan).failures


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that it started."""
    yield pid
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listed.read_text().split():
            yield from family(int(child))


def memory(pid: int) -> dict[str, int]:
    """Return the peak of what a process holds, and what of it is no file's, in KiB."""
    lines = (line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    status = dict(lines)
    return {name: int(status[name].split()[0]) for name in ("VmHWM", "RssAnon") if name in status}


def watch(folder: Path, images: int) -> dict[str, float]:
    """Run one extraction; peaks in MiB of the process, and of the largest reader."""
    command = [sys.executable, __file__, "--work", str(folder), "--images", str(images)]
    peaks = {"extractor": 0, "extractor_anonymous": 0, "reader": 0}
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            try:
                for pid in family(process.pid):
                    now, own = memory(pid), pid == process.pid
                    who = "extractor" if own else "reader"
                    peaks[who] = max(peaks[who], now.get("VmHWM", 0))
                    if own:
                        anonymous = max(peaks["extractor_anonymous"], now.get("RssAnon", 0))
                        peaks["extractor_anonymous"] = anonymous
            except (FileNotFoundError, ProcessLookupError):
                pass  # one has ended meanwhile
            time.sleep(0.1)
    assert len(Store.open(folder / f"{images}.zarr")) == images
    return {k: round(v / 1024, 1) for k, v in peaks.items()}


def make_images(folder: Path) -> None:
    """Write a few small pictures, which stand for all."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for n in range(FILES):
        levels = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(levels).save(folder / "images" / f"{n}.png")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, *given.images)
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        for images in given.images:
            rows[images] = watch(Path(folder), images)
            print(images, json.dumps(rows[images]), flush=True)
    few, many = sorted(rows)[-2:]
    growth = {
        name: round((rows[many][name] - rows[few][name]) * 2**20 / (many - few))
        for name in ("extractor", "extractor_anonymous", "reader")
    }
    result = {"mib": rows, "bytes_an_image": growth}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(growth, indent=1))


if __name__ == "__main__":
    main()
