"""Zero-shot evaluation as CLIP_benchmark does it, one variant after the other; run by prompts.py.

python benchmarks/prompts_contender.py FOLDER VARIANTS

FOLDER has images.npy (n, d), truth.npy (n,) and texts.npy (VARIANTS * k, d). Its own functions run
over a model that has its vectors ready, in batches of its default size. Prints JSON: seconds of a
variant with a DataLoader as its command makes one (in this process: workers would be started for
each variant), and with batches that are cut beforehand; as it comes, and with three metrics of its
logits by scikit-learn for its own two. Also the mean recalls it found.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn import metrics as sk
from torch.utils.data import DataLoader, TensorDataset

BATCH = 64


class Vectors(TensorDataset):
    """Vectors and classes, with the one attribute of a data set that is asked for."""

    def __init__(self, images: torch.Tensor, truth: torch.Tensor, classes: list[str]) -> None:
        super().__init__(images, truth)
        self.classes = classes


class Cut:
    """Batches cut once."""

    def __init__(self, images: torch.Tensor, truth: torch.Tensor, classes: list[str]) -> None:
        self.batches = list(zip(torch.split(images, BATCH), torch.split(truth, BATCH), strict=True))
        self.dataset = SimpleNamespace(classes=classes)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield them in order."""
        return iter(self.batches)


def accuracy(logits: torch.Tensor, truth: torch.Tensor, topk: tuple[int, ...] = (1,)) -> list[Any]:
    """Share of images whose class is among the first, for each number of firsts."""
    found = logits.topk(max(topk), 1, True, True)[1].t()
    right = found.eq(truth.view(1, -1).expand_as(found))
    return [float(right[:k].reshape(-1).float().sum(0)) / len(truth) for k in topk]


def main(folder: Path, variants: int) -> None:
    """Evaluate each variant twice."""
    theirs = importlib.import_module("clip_benchmark.metrics.zeroshot_classification")
    # no progress bars, and its accuracy as it is but for a conversion that numpy 2.4 refuses
    vars(theirs).update(tqdm=iter, accuracy=accuracy)
    images, truth, texts = (
        torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("images", "truth", "texts")
    )
    k = int(truth.max()) + 1
    classes = [str(c) for c in range(k)]
    cut, loader = Cut(images, truth, classes), DataLoader(Vectors(images, truth, classes), BATCH)
    model = SimpleNamespace(encode_image=lambda batch: batch, encode_text=lambda rows: texts[rows])

    def tokenizer(sentences: list[str]) -> torch.Tensor:
        return torch.tensor([int(sentence) for sentence in sentences])

    def sentences(variant: int) -> dict[str, list[str]]:
        return {c: [str(variant * k + int(c))] for c in classes}

    def as_it_comes(variant: int, batches: Any) -> float:
        return float(
            theirs.evaluate(
                model, batches, tokenizer, classes, sentences(variant), "cpu", amp=False
            )["mean_per_class_recall"]
        )

    def with_metrics(variant: int, batches: Any) -> None:
        weights = theirs.zero_shot_classifier(
            model, tokenizer, classes, sentences(variant), "cpu", amp=False
        )
        logits, target = theirs.run_classification(model, weights, batches, "cpu", amp=False)
        p, answer = logits.double().softmax(dim=1).numpy(), logits.argmax(dim=1).numpy()
        sk.roc_auc_score(target.numpy(), p, multi_class="ovr")
        sk.f1_score(target.numpy(), answer, average="macro")
        sk.cohen_kappa_score(target.numpy(), answer, weights="quadratic")

    def timed(work: Callable[[int], Any]) -> tuple[float, list[Any]]:
        work(0)
        began = time.perf_counter()
        found = [work(variant) for variant in range(variants)]
        return (time.perf_counter() - began) / variants, found

    loaded, recalls = timed(lambda variant: as_it_comes(variant, loader))
    seconds = {
        "its loader": loaded,
        "its loader, the three metrics": timed(lambda variant: with_metrics(variant, loader))[0],
        "batches cut beforehand": timed(lambda variant: as_it_comes(variant, cut))[0],
        "batches cut beforehand, the three metrics": timed(
            lambda variant: with_metrics(variant, cut)
        )[0],
    }
    print(json.dumps({"seconds": seconds, "recalls": recalls}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
