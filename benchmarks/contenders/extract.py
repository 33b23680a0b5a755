"""PNG files to vectors by one model: open_clip's `convnext_tiny`, weights from a file, float32.

Batches of 32 and two workers; the model is loaded before. What few files take is subtracted, so
that starting workers does not count.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.area import Area, Bound, Contender, Work

EMBED = "PNG files to vectors"
MODEL = "convnext_tiny"
BATCH, WORKERS = 32, 2
Embed = Callable[[list[Path], Path], Any]


def make(folder: Path, quick: bool) -> str:
    """Synthetic mammograms, and weights with which images do not look all alike."""
    from benchmarks.extract import films, save_weights

    save_weights(folder / "weights.safetensors")
    films(folder, 3 if quick else 20)
    return f"{len(files(folder))} mammograms of 1024 x 1024, {MODEL}"


def files(folder: Path) -> list[Path]:
    """All of them, in order."""
    return sorted((folder / "films" / "images").iterdir())


def work(folder: Path, embed: Embed) -> Mapping[str, Work]:
    """Embed all of them, less what the first four take."""
    paths = files(folder)
    return {EMBED: Work(lambda empty: embed(paths, empty), lambda empty: embed(paths[:4], empty))}


def embedstore(folder: Path) -> Mapping[str, Work]:
    """`extract` into a store, with open_clip's own transforms."""
    from embedstore.backbones import load_backbone
    from embedstore.extract import extract
    from embedstore.images.recipe import named
    from embedstore.plan import choose
    from embedstore.store import Store
    from embedstore.types import Sample

    weights = folder / "weights.safetensors"
    backbone = load_backbone(f"open_clip:{MODEL}@{weights}", named("plain"), "", "cpu")

    def embed(paths: list[Path], empty: Path) -> Any:
        samples = [Sample(path.stem, path) for path in paths]
        plan = choose("cpu", "float32", BATCH, WORKERS, len(paths))
        assert not extract(samples, empty / "s.zarr", [backbone], plan).failures
        return Store.open(empty / "s.zarr").vectors(backbone.spec)

    return work(folder, embed)


def images(paths: list[Path], transform: Any) -> Any:
    """Batches of tensors, with the class that CLIP_benchmark expects."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, place: int) -> Any:
            with Image.open(paths[place]) as image:
                return transform(image), 0

    return DataLoader(Images(), BATCH, num_workers=WORKERS)


def dataloader(folder: Path) -> Mapping[str, Work]:
    """Do as a user writes it: open_clip, its transform, a DataLoader."""
    import open_clip
    import torch

    weights = str(folder / "weights.safetensors")
    model, _, transform = open_clip.create_model_and_transforms(MODEL, pretrained=weights)
    model.eval()

    def embed(paths: list[Path], empty: Path) -> Any:
        with torch.no_grad():
            found = [model.encode_image(batch).numpy() for batch, _ in images(paths, transform)]
        return np.concatenate(found)

    return work(folder, embed)


def clip_benchmark(folder: Path) -> Mapping[str, Work]:
    """CLIP_benchmark's zero-shot loop.

    Its feature extraction for linear probes refuses to run without CUDA; the zero-shot loop does
    the same work, and with the identity for class vectors its logits are 100 times the embeddings.
    """
    import open_clip
    import torch

    models = importlib.import_module("clip_benchmark.models.open_clip")
    metrics = importlib.import_module("clip_benchmark.metrics.zeroshot_classification")
    model, transform, _ = models.load_open_clip(MODEL, str(folder / "weights.safetensors"))
    model.eval()
    identity = torch.eye(open_clip.get_model_config(MODEL)["embed_dim"])

    def embed(paths: list[Path], empty: Path) -> Any:
        loader = images(paths, transform)
        logits, _ = metrics.run_classification(model, identity, loader, "cpu", amp=False)
        return logits.numpy() / 100

    return work(folder, embed)


def clip_retrieval(folder: Path) -> Mapping[str, Work]:
    """`clip-retrieval inference`; it writes float16, normalised, in the files' order."""
    inference = importlib.import_module("clip_retrieval.clip_inference.main")
    weights = folder / "weights.safetensors"

    def embed(paths: list[Path], empty: Path) -> Any:
        (empty / "in").mkdir()
        for path in paths:
            (empty / "in" / path.name).symlink_to(path)
        inference.main(
            input_dataset=str(empty / "in"),
            output_folder=str(empty / "out"),
            clip_model=f"open_clip:{MODEL}/{weights}",
            enable_text=False,
            batch_size=BATCH,
            num_prepro_workers=WORKERS,
        )
        return np.load(empty / "out" / "img_emb" / "img_emb_0.npy")

    return work(folder, embed)


def apart(task: str, folder: Path, answer: Any, ours: Any) -> float:
    """Largest difference of vectors of unit length."""
    unit, other = (
        v.astype(float) / np.linalg.norm(v.astype(float), axis=1, keepdims=True)
        for v in (answer, ours)
    )
    return float(np.abs(unit - other).max())


AREA = Area(
    "Extraction",
    {EMBED: Bound(1e-5, "largest difference of unit vectors")},
    {
        "embedstore": Contender("", embedstore),
        "open_clip, DataLoader": Contender("", dataloader),
        "CLIP_benchmark": Contender("clip-benchmark", clip_benchmark),
        "clip-retrieval": Contender("clip-retrieval", clip_retrieval),
    },
    make,
    apart,
)
