"""What else extracts embeddings from a folder of PNG files; a process each, run by extract.py.

python benchmarks/contenders.py dataloader|clip-benchmark|clip-benchmark-float32 FILES WEIGHTS OUT

FILES lists one image a line. The model is open_clip's `convnext_tiny` with the weights of a
file; vectors go to OUT as .npy. Settings are those of all contenders: batches of 32, two workers.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

MODEL = "convnext_tiny"
BATCH, WORKERS = 32, 2


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Image files through a model's own transform; no classes."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        """Count the files."""
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        """Read one; the second is the class that CLIP_benchmark expects."""
        with Image.open(self.paths[place]) as image:
            return self.transform(image), 0


def dataloader(paths: list[Path], weights: str) -> np.ndarray[Any, Any]:
    """Embed as a user writes it: open_clip, its transform, a DataLoader, float32."""
    model, _, transform = open_clip.create_model_and_transforms(MODEL, pretrained=weights)
    model.eval()
    found = []
    with torch.no_grad():
        for images, _ in DataLoader(Images(paths, transform), BATCH, num_workers=WORKERS):
            found.append(model.encode_image(images).numpy())
    return np.concatenate(found)


def clip_benchmark(paths: list[Path], weights: str, amp: bool) -> np.ndarray[Any, Any]:
    """Embed by CLIP_benchmark's loader and zero-shot loop.

    Its feature extraction for linear probes refuses to run without CUDA; its zero-shot loop does
    the same work, and with the identity for class vectors its logits are 100 times the embeddings.
    """
    models = importlib.import_module("clip_benchmark.models.open_clip")
    metrics = importlib.import_module("clip_benchmark.metrics.zeroshot_classification")
    model, transform, _ = models.load_open_clip(MODEL, weights)
    model.eval()
    loader = DataLoader(Images(paths, transform), BATCH, shuffle=False, num_workers=WORKERS)
    dim = open_clip.get_model_config(MODEL)["embed_dim"]
    logits, _ = metrics.run_classification(model, torch.eye(dim), loader, "cpu", amp)
    vectors: np.ndarray[Any, Any] = logits.numpy() / 100
    return vectors


def main() -> None:
    """Embed the files by one of them."""
    which, files, weights, out = sys.argv[1:]
    paths = [Path(line) for line in Path(files).read_text().splitlines()]
    if which == "dataloader":
        vectors = dataloader(paths, weights)
    else:
        vectors = clip_benchmark(paths, weights, amp=which == "clip-benchmark")
    np.save(out, vectors)


if __name__ == "__main__":
    main()
