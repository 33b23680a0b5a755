"""Fine-tuning: images a second against a plain timm loop, and against one that decodes PNGs.

python benchmarks/finetune.py [--model convnext_atto] [--images 256] [--rounds 3]

All three train the same timm model with AdamW on cross-entropy, in the same precision and batches,
without augmentation. The plain loop has its pictures in memory, ready; ours reads them from a
store's kept pixels; the last decodes 1024 x 1024 PNGs with as many workers as there are processors
and timm's own transform. On a GPU also the share of what forward and backward passes alone do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch.utils.data import DataLoader, Dataset

from embedstore.backbones import load_backbone
from embedstore.extract import extract
from embedstore.finetune import Hardware, Settings
from embedstore.finetune.batches import Films
from embedstore.finetune.fit import fit
from embedstore.finetune.network import Classifier, image_side
from embedstore.finetune.objectives import CrossEntropy
from embedstore.plan import choose, choose_device, has_bfloat16
from embedstore.store import Store
from embedstore.types import Sample

RESULT = Path(__file__).parent / "results" / "finetune.json"
CLASSES, SIDE = 4, 1024
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


class Pngs(Dataset[tuple[torch.Tensor, int]]):
    """The files, decoded whenever they are asked for."""

    def __init__(self, files: list[Path], transform: Any) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        """Count the files."""
        return len(self.files)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        """Decode one."""
        with Image.open(self.files[item]) as image:
            return self.transform(image.convert("RGB")), item % CLASSES


def films(folder: Path, n: int) -> list[Path]:
    """Write smooth pictures with grain, as large as a digitised film, 8 bit."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(n):
        coarse = rng.random((16, 16)) * 180
        smooth = Image.fromarray(coarse.astype(np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        grain = rng.integers(0, 40, (SIDE, SIDE))
        files.append(folder / f"{i}.png")
        Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)).save(files[-1])
    return files


def steps_a_second(times: list[float]) -> float:
    """Return the mean pace, the first steps left out."""
    return (len(times) - 3) / (times[-1] - times[2])


def plain(
    name: str, batches: Callable[[], Batches], epochs: int, device: str, bfloat16: bool
) -> float:
    """Return images a second of the loop everyone writes."""
    model = timm.create_model(name, num_classes=CLASSES).to(device).train()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    kind = torch.device(device).type
    times, images = [], 0
    for _ in range(epochs):
        for pictures, truth in batches():
            with torch.autocast(kind, torch.bfloat16) if bfloat16 else nullcontext():
                pictures = pictures.to(device, memory_format=torch.channels_last)
                loss = torch.nn.functional.cross_entropy(model(pictures), truth.to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            images = len(truth)
            loss.item()
            times.append(time.perf_counter())
    return steps_a_second(times) * images


def ours(
    store: Store, name: str, settings: Settings, device: str, bfloat16: bool, folder: Path
) -> float:
    """Return images a second of `embedstore finetune`'s own loop, from kept pixels."""
    backbone = load_backbone(f"timm:{name}@random")
    pictures = store.dataset(backbone.spec, pixels=True).unnormalised()
    truth = np.arange(len(pictures)) % CLASSES
    learner = Classifier(
        image_side(backbone),
        CrossEntropy(backbone.spec.dim, CLASSES),
        backbone.spec.recipe,
        settings,
        np.ones(CLASSES),
    )
    hardware = Hardware(
        "gpu" if device == "cuda" else device,
        precision="bfloat16" if bfloat16 else "float32",
        workers=4 if device == "cuda" else 0,
        logger="none",
    )
    times: list[float] = []
    source = Films(pictures, np.arange(len(pictures)), truth)
    fit(
        learner,
        source,
        None,
        settings,
        hardware,
        folder,
        lambda *_: times.append(time.perf_counter()),
    )
    return steps_a_second(times) * len(source) / -(-len(source) // settings.batch)


def alone(name: str, batch: int, device: str, bfloat16: bool) -> float:
    """Return images a second of forward and backward passes of one batch, nothing else."""
    model = timm.create_model(name, num_classes=CLASSES).to(device).train()
    model.to(memory_format=torch.channels_last)
    pictures = torch.rand(batch, 3, 224, 224, device=device).contiguous(
        memory_format=torch.channels_last
    )
    truth = torch.arange(batch, device=device) % CLASSES
    times = []
    for _ in range(30):
        with torch.autocast(device, torch.bfloat16) if bfloat16 else nullcontext():
            loss = torch.nn.functional.cross_entropy(model(pictures), truth)
        torch.autograd.backward(loss)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
    return steps_a_second(times) * batch


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make films and store, and let the loops take turns."""
    device = choose_device()
    bfloat16 = has_bfloat16(device)
    files = films(folder, given.images)
    backbone = load_backbone(f"timm:{given.model}@random")
    samples = [Sample(f.stem, f, f"p{f.stem}") for f in files]
    plan = choose(device, "float32", 16, 2, len(files))
    extract(samples, folder / "s.zarr", [backbone], plan, keep_pixels=True)
    store = Store.open(folder / "s.zarr")
    settings = Settings(
        start="random",
        epochs=given.epochs,
        batch=given.batch,
        validation=0.0,
        augment="none",
        label_smoothing=0.0,
        layer_decay=1.0,
        schedule="constant",
        warm_up=0.0,
    )
    ready = torch.rand(given.images, 3, *backbone.spec.recipe.size)
    truth = torch.arange(given.images) % CLASSES
    model = timm.create_model(given.model)
    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    pngs = Pngs(files, create_transform(**config))
    decoding = DataLoader(
        pngs, given.batch, shuffle=True, num_workers=os.cpu_count() or 1, persistent_workers=True
    )

    def in_memory() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(given.images)
        for some in order.tensor_split(-(-given.images // given.batch)):
            yield ready[some], truth[some]

    rows = []
    for number in range(given.rounds):
        own = ours(store, given.model, settings, device, bfloat16, folder / f"run{number}")
        loop = plain(given.model, in_memory, given.epochs, device, bfloat16)
        png = plain(given.model, lambda: decoding, given.epochs, device, bfloat16)
        rows.append((own, loop, png))
        print(f"{own:.1f} images/s, plain loop {loop:.1f}, decoding {png:.1f}", flush=True)
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "model": given.model,
        "batch": given.batch,
        "precision": "bfloat16" if bfloat16 else "float32",
        "images_a_second": round(statistics.median(r[0] for r in rows), 1),
        "plain_loop": round(statistics.median(r[1] for r in rows), 1),
        "plain_loop_decoding": round(statistics.median(r[2] for r in rows), 1),
        "ratio_to_plain": round(statistics.median(a / b for a, b, _ in rows), 2),
        "ratio_to_decoding": round(statistics.median(a / c for a, _, c in rows), 2),
    }
    if device == "cuda":
        floor = alone(given.model, given.batch, device, bfloat16)
        result["forward_and_backward_alone"] = round(floor, 1)
        result["share_of_it"] = round(statistics.median(r[0] for r in rows) / floor, 3)
    return result


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="convnext_atto")
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = measure(given, Path(name))
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
