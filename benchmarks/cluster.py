"""What Ray adds to an extraction on one machine, and how much one driver can write.

python benchmarks/cluster.py [--patients 100] [--rounds 5]

`embedstore extract` with and without ``--ray``, alternately, each into a new store: the same films,
one worker with all processors. The ratio is of the seconds from the first batch to the last commit,
as the store's own provenance has them; starting is told apart. The driver alone is given batches
that cost nothing but to be unpickled, as they come from workers.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from embedstore.backlog import Job
from embedstore.encode import Vectors
from embedstore.extract import extract
from embedstore.feed import Batch, Feed
from embedstore.images.prepare import Prepared
from embedstore.plan import Plan
from embedstore.store import Store
from embedstore.types import Recipe, Sample, Spec

HERE = Path(__file__).parent
RESULT = HERE / "results" / "cluster.json"
MODEL = "timm:convnext_atto@random"
BATCH = 16


def environment() -> dict[str, str]:
    """Return this environment, the hub shut off."""
    return os.environ | {"HF_HUB_OFFLINE": "1"}


def run(films: Path, store: Path, *options: str) -> tuple[float, float]:
    """Extract in a process of its own; the seconds of the extraction, and of all else."""
    command = [sys.executable, str(HERE.parent / "cli.py"), "extract", str(films)]
    command += ["--store", str(store), "--backbone", MODEL, "--batch-size", str(BATCH), *options]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    whole = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    (made,) = Store.open(store).provenance.values()
    seconds = float(made["runs"][-1]["seconds"])
    return seconds, whole - seconds


class Flat:
    """A backbone of 512 dimensions that is never asked."""

    spec = Spec("flat", "0", Recipe(), "pooled", 512)

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        """Refuse."""
        raise NotImplementedError

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Refuse."""
        raise NotImplementedError


class Instant:
    """A cluster whose batches are there at once."""

    limit = BATCH

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def find_batch_size(self, plan: Plan, images: int) -> int:
        """Return the size of all."""
        return BATCH

    def encoders(self, plan: Plan) -> AbstractContextManager[Instant]:
        """Return itself."""
        return nullcontext(self)

    def encoded(self, feed: Feed, job: Job) -> Generator[tuple[Batch, Vectors]]:
        """Yield one batch over and over, unpickled each time."""
        picture = np.full((224, 224), 7, np.uint8)
        (spec,) = (b.spec for b in job.backbones)
        vectors = {spec.key: np.ones((BATCH, spec.dim), np.float32)}
        kept = picture if job.keep else picture[:0]
        prepared = [Prepared(os.urandom(16), (kept.copy(),), (0.0,), (1, 1)) for _ in range(BATCH)]
        buffers: list[pickle.PickleBuffer] = []
        sent = pickle.dumps((prepared, vectors), protocol=5, buffer_callback=buffers.append)
        for start in range(0, len(feed), BATCH):
            items, found = pickle.loads(sent, buffers=buffers)
            yield Batch([(start + n, p) for n, p in enumerate(items)], [], {}), found


def written(images: int, keep_pixels: bool) -> float:
    """Return the images a driver appends and commits in a second."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = Flat()
        samples = [Sample(f"image-{n}", Path(folder, f"{n}.png")) for n in range(images)]
        store, plan = Path(folder, "S.zarr"), Plan("cpu", "float32", BATCH, 1)
        extract(samples, store, [backbone], plan, keep_pixels=keep_pixels, cluster=Instant())
        (made,) = Store.open(store).provenance.values()
        return float(made["runs"][-1]["images_per_second"])


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=100, help="four films each")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    plain: list[tuple[float, float]] = []
    with_ray: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        films = Path(folder, "films")
        command = [sys.executable, str(HERE.parent / "cli.py"), "phantoms", str(films)]
        options = ["--patients", str(given.patients), "--size", "512"]
        subprocess.run(command + options, check=True, capture_output=True)
        for n in range(given.rounds):
            plain.append(run(films / "manifest.csv", Path(folder, f"plain{n}.zarr")))
            with_ray.append(run(films / "manifest.csv", Path(folder, f"ray{n}.zarr"), "--ray"))
            print(f"plain {plain[-1][0]:.2f} s, --ray {with_ray[-1][0]:.2f} s", flush=True)
    ratios = [r / p for (r, _), (p, _) in zip(with_ray, plain, strict=True)]
    result = {
        "images": 4 * given.patients,
        "model": MODEL,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "torch": torch.__version__,
        "ray": ray.__version__,
        "rounds": given.rounds,
        "plain_s": round(statistics.median(p for p, _ in plain), 2),
        "ray_s": round(statistics.median(r for r, _ in with_ray), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "plain_start_s": round(statistics.median(s for _, s in plain), 1),
        "ray_start_s": round(statistics.median(s for _, s in with_ray), 1),
        "driver_images_a_second": round(written(200_000, keep_pixels=False)),
        "driver_images_a_second_with_pixels": round(written(20_000, keep_pixels=True)),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
