"""Stores whose image vectors are made up, and whose text side is the real phantom-clip."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from embedstore.backbones import load_backbone
from embedstore.images.recipe import RECIPES
from embedstore.types import Backbone, Recipe, Sample, Spec, unit_rows
from embedstore.writer import Writer

MADE = {
    "precision": "float32",
    "device": "cpu",
    "versions": {"embedstore": "0"},
    "started": "2026-01-01",
}


@functools.cache
def clip(name: str = "phantom-clip", recipe: str = "mammography") -> Backbone:
    return load_backbone(name, RECIPES[recipe])


def said(sentences: Sequence[str], backbone: Backbone | None = None) -> np.ndarray:
    """(m, d) by the backbone itself, one sentence at a time."""
    backbone = backbone or clip()
    with torch.inference_mode():
        return np.concatenate([backbone.encode_text([s]).float().numpy() for s in sentences])


def write(
    path: Path, vectors: np.ndarray, labels: Sequence[str], spec: Spec | None = None, a_patient=2
) -> None:
    """Commit one vector for each label, so many a patient in turn."""
    spec, n = spec or clip().spec, len(labels)
    with Writer(path) as writer:
        if not len(writer.store()):
            writer.add_samples(
                [
                    Sample(
                        f"i{i}",
                        Path(f"{i}.png"),
                        group=f"p{i // a_patient}",
                        exam=f"e{i // a_patient}",
                        labels={"density": label},
                    )
                    for i, label in enumerate(labels)
                ]
            )
        writer.add_spec(spec, MADE)
        digests = np.random.default_rng(0).integers(0, 256, (n, 16), dtype=np.uint8)
        writer.append(spec, np.arange(n), vectors.astype(np.float32), digests)
        writer.commit()


def near(sentences: Sequence[str], truth: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    """(n, d) near the sentence of each class, and as noisy as that."""
    directions = unit_rows(said(sentences))
    rng = np.random.default_rng(seed)
    d = directions.shape[1]
    return directions[truth] + noise * rng.standard_normal((len(truth), d)) / np.sqrt(d)


def other_recipe() -> Recipe:
    return RECIPES["plain"]
