"""Zero-shot evaluation of prompt variants on vectors that are there: nothing is encoded.

Each variant words each of four classes by a sentence of its own, and gets AUROC, macro F1 and
quadratic kappa.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.contenders.area import Area, Bound, Contender, Work

EVALUATE = "variants"
BATCH = 64  # CLIP_benchmark's default
Variant = Callable[[int], tuple[Any, Any]]
"""From its number to logits and truth."""


def make(folder: Path, quick: bool) -> str:
    """Vectors of images and sentences."""
    from benchmarks.prompts import vectors

    images, variants = (2000, 20) if quick else (20_000, 50)
    task, texts = vectors(images, 512, variants)
    for name, array in (("images", task.images), ("truth", task.truth), ("texts", texts)):
        np.save(folder / f"{name}.npy", array)
    return f"{variants} variants, {images:,} x 512 images"


def given(folder: Path) -> tuple[Any, Any, Any, int]:
    """Vectors of images, their classes, vectors of sentences, and the number of classes."""
    images, truth, texts = (np.load(folder / f"{n}.npy") for n in ("images", "truth", "texts"))
    return images, truth, texts, int(truth.max()) + 1


def embedstore(folder: Path) -> Mapping[str, Work]:
    """All variants together."""
    from embedstore.tournament import Entries, Task, scored, tested_side

    images, truth, texts, k = given(folder)
    groups = np.arange(len(truth)) // 4
    task = Task(images, truth, groups, groups % 5, tuple("ABCD"))

    def run(empty: Path) -> Any:
        variants = range(len(texts) // k)
        entries = Entries.of(texts, [tuple((v * k + c,) for c in range(k)) for v in variants])
        (found,) = scored(task, entries, [tested_side(task, False)])
        names = ("auroc", "macro_f1", "quadratic_kappa")
        return np.stack([found.metric(name) for name in names], axis=1)

    return {EVALUATE: Work(run)}


def loop(folder: Path) -> Mapping[str, Work]:
    """Loop over numpy in float64 and scikit-learn's metrics."""
    from benchmarks.prompts import by_loop
    from embedstore.tournament import Task

    images, truth, texts, k = given(folder)
    groups = np.arange(len(truth)) // 4
    task = Task(images, truth, groups, groups % 5, tuple("ABCD"))
    return {EVALUATE: Work(lambda empty: by_loop(task, texts, len(texts) // k)[0])}


def each(variants: int, variant: Variant) -> Mapping[str, Work]:
    """Evaluate one after the other, the metrics by scikit-learn."""
    from sklearn import metrics as sk

    def run(empty: Path) -> Any:
        out = []
        for number in range(variants):
            logits, truth = variant(number)
            p, answer = logits.double().softmax(dim=1).numpy(), logits.argmax(dim=1).numpy()
            out.append(
                (
                    sk.roc_auc_score(truth, p, multi_class="ovr"),
                    sk.f1_score(truth, answer, average="macro"),
                    sk.cohen_kappa_score(truth, answer, weights="quadratic"),
                )
            )
        return np.array(out)

    return {EVALUATE: Work(run)}


class Ready:
    """A model that has its vectors ready: an image is its vector, a sentence its number."""

    def __init__(self, texts: Any) -> None:
        import torch

        self.texts = torch.from_numpy(texts)

    def tokenize(self, sentences: list[str]) -> Any:
        """Numbers for tokens."""
        import torch

        return torch.tensor([int(sentence) for sentence in sentences])

    def encode_text(self, rows: Any, normalize: bool = False) -> Any:
        """Look up; they are of unit length."""
        return self.texts[rows]

    def encode_image(self, batch: Any) -> Any:
        """Hand back."""
        return batch


def open_clip_loop(folder: Path) -> Mapping[str, Work]:
    """open_clip's `build_zero_shot_classifier`, and logits as its own evaluation takes them."""
    import open_clip
    import torch

    images, truth, texts, k = given(folder)
    model, pixels = Ready(texts), torch.from_numpy(images)

    def variant(number: int) -> tuple[Any, Any]:
        weights = open_clip.build_zero_shot_classifier(
            model, model.tokenize, range(number * k, number * k + k), [str], None, "cpu"
        )
        return 100 * model.encode_image(pixels) @ weights, truth

    return each(len(texts) // k, variant)


class Cut:
    """Batches cut once, in a data set's place."""

    def __init__(self, images: Any, truth: Any, classes: list[str]) -> None:
        import torch

        self.batches = list(zip(torch.split(images, BATCH), torch.split(truth, BATCH), strict=True))
        self.dataset = SimpleNamespace(classes=classes)

    def __iter__(self) -> Iterator[Any]:
        """Yield them in order."""
        return iter(self.batches)


def clip_benchmark(cut: bool) -> Callable[[Path], Mapping[str, Work]]:
    """CLIP_benchmark's own functions; over a DataLoader, as its command does, or batches cut once.

    The loader reads in this process: workers would be started for each variant.
    """

    def start(folder: Path) -> Mapping[str, Work]:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        theirs = importlib.import_module("clip_benchmark.metrics.zeroshot_classification")
        vars(theirs).update(tqdm=iter)  # no progress bars
        images, truth, texts, k = given(folder)
        model, tensors = Ready(texts), (torch.from_numpy(images), torch.from_numpy(truth))
        classes = [str(c) for c in range(k)]
        batches: Any = Cut(*tensors, classes)
        if not cut:
            batches = DataLoader(TensorDataset(*tensors), BATCH)

        def variant(number: int) -> tuple[Any, Any]:
            sentences = {c: [str(number * k + int(c))] for c in classes}
            weights = theirs.zero_shot_classifier(
                model, model.tokenize, classes, sentences, "cpu", amp=False
            )
            logits, target = theirs.run_classification(model, weights, batches, "cpu", amp=False)
            return logits, target.numpy()

        return each(len(texts) // k, variant)

    return start


def apart(task: str, folder: Path, answer: Any, ours: Any) -> float:
    """Largest difference of a metric."""
    return float(np.abs(answer - ours).max())


AREA = Area(
    "Prompts",
    {EVALUATE: Bound(1e-3, "largest difference of a metric")},
    {
        "embedstore": Contender("", embedstore),
        "numpy and scikit-learn": Contender("", loop),
        "open_clip": Contender("", open_clip_loop),
        "CLIP_benchmark": Contender("clip-benchmark", clip_benchmark(cut=False)),
        "CLIP_benchmark, batches cut before": Contender("clip-benchmark", clip_benchmark(cut=True)),
    },
    make,
    apart,
)
