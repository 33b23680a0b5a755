"""Extraction from kept pixels on a GPU, against the model alone and the chip's matrix peak.

python benchmarks/gpu.py [--images 60000] [--device cuda]

Pictures of 224 x 224 lie kept in a store, so that nothing is decoded; the second backbone of a
recipe does this. Without a GPU nothing is measured, nothing is written and the exit code is 1;
`--device cpu --images 64` tries the script out, and writes nothing either.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from embedstore.backbones import load_backbone
from embedstore.encode import autocast
from embedstore.extract import extract
from embedstore.images.recipe import named
from embedstore.kept import Kept
from embedstore.plan import Plan
from embedstore.store import Store
from embedstore.types import Backbone, Sample
from embedstore.writer import Writer

RESULT = Path(__file__).parent / "results" / "gpu.json"
BACKBONES = ("timm:vit_base_patch16_224@random", "convnext_base@random")
SIDE, ROUNDS = 224, 3


def finish(device: str) -> None:
    """Wait for what was begun."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: str, times: int) -> float:
    """Return what one of several runs takes, once warm."""
    work()
    finish(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    finish(device)
    return (time.perf_counter() - began) / times


def matrix_peak(device: str) -> float:
    """Measure bfloat16 FLOP/s by a large product: the best of several sizes."""
    sizes = (4096, 8192, 16384) if device.startswith("cuda") else (512,)
    rates = []
    for n in sizes:
        a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
        times = max(3, int(2e14 / n**3) if device.startswith("cuda") else 3)
        rates.append(2 * n**3 / seconds(lambda a=a, b=b: a @ b, device, times))  # type: ignore[misc]
    return max(rates)


def keep_pictures(path: Path, backbone: Backbone, images: int) -> list[Sample]:
    """Make a store that has kept pictures of so many samples."""
    samples = [Sample(f"film{n:06d}", Path(f"film{n:06d}.png")) for n in range(images)]
    pictures = np.random.default_rng(0).integers(0, 256, (256, SIDE, SIDE), dtype=np.uint8)
    with Writer(path) as writer:
        writer.add_samples(samples)
        for start in range(0, images, 4096):
            rows = np.arange(start, min(start + 4096, images))
            kept = [Kept(int(r).to_bytes(16, "little"), pictures[r % 256], 0.0) for r in rows]
            writer.keep(backbone.spec.recipe, rows, kept)
            writer.commit()
    return samples


def forward_rate(backbone: Backbone, batch_size: int, device: str, images: int) -> float:
    """Return images a second of the model alone, on a batch that lies on the device."""
    batch = torch.rand(batch_size, 3, SIDE, SIDE, device=device)
    batch = batch.to(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(device, "bfloat16"):
        times = max(1, images // batch_size)
        return batch_size / seconds(lambda: backbone.encode_image(batch), device, times)


def flops(backbone: Backbone, device: str) -> int:
    """Count the floating-point operations of one image."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        backbone.encode_image(torch.rand(1, 3, SIDE, SIDE, device=device))
    return int(counter.get_total_flops())


def measure(name: str, device: str, images: int, compiled: bool, peak: float) -> dict[str, Any]:
    """Compare extraction from kept pixels with the model alone, in turn."""
    recipe = replace(named("mammography"), size=(SIDE, SIDE))
    backbone = load_backbone(name, recipe, "", device)
    plan = Plan(device, "bfloat16", 0, 0, compile=compiled)
    rates: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS):
            path = Path(folder, f"{turn}.zarr")
            samples = keep_pictures(path, backbone, images)
            summary = extract(samples, path, [backbone], plan)
            run = Store.open(path).provenance[backbone.spec.key]["runs"][-1]
            plan = replace(plan, batch_size=summary.batch_size)
            alone = forward_rate(backbone, summary.batch_size, device, images)
            rates.append((images / run["seconds"], alone))
    rate = statistics.median(r for r, _ in rates)
    return {
        "batch_size": plan.batch_size,
        "images_per_second": round(rate, 1),
        "model_alone": round(statistics.median(a for _, a in rates), 1),
        "share_of_model_alone": round(statistics.median(r / a for r, a in rates), 3),
        "share_of_bfloat16_peak": round(rate * flops(backbone, device) / peak, 3),
        "gflop_per_image": round(flops(backbone, device) / 1e9, 2),
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: nothing measured; --device cpu tries the script out")
    peak = matrix_peak(given.device)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if given.device != "cpu" else "cpu",
        "torch": torch.__version__,
        "images": given.images,
        "compiled": given.compile,
        "bfloat16_peak_tflops": round(peak / 1e12, 2),
    }
    for name in BACKBONES:
        found = measure(name, given.device, given.images, given.compile, peak)
        result[name.partition("@")[0]] = found
        print(name, json.dumps(found), flush=True)
    print(json.dumps(result, indent=1))
    if given.device != "cpu":
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
