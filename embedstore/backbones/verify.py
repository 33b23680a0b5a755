"""Whether a bundle does on this machine what it did where it was made; if not, which part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.backbones import load_backbone
from embedstore.backbones.bundle import GOLDEN, file_hashes, read_note
from embedstore.backbones.golden import image_vectors, measure, text_vectors, waves
from embedstore.errors import EmbedstoreError
from embedstore.images.recipe import RECIPES
from embedstore.types import Backbone

TOLERANCE = 1e-3
"""Largest difference of a unit vector's coordinate between two machines in float32."""

BFLOAT16_COSINE = 0.99


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the path: whether it agrees, and what was seen."""

    part: str
    ok: bool
    seen: str


def verify(folder: Path) -> list[Check]:
    """Check every part of a bundle; the list says which agree.

    Raises
    ------
    BackboneError
        The folder is not a bundle.
    """
    note = read_note(folder)
    checks = [_files(note["files"], file_hashes(folder))]
    golden = note["golden"]
    try:
        backbone = load_backbone(str(folder), RECIPES["plain"])
        now = measure(backbone, sorted((folder / GOLDEN).glob("*.png")))
    except EmbedstoreError as error:
        return [*checks, Check("loading", False, str(error))]
    checks += [_same("decoding", golden, now), _recipe(golden["recipe"], now["recipe"])]
    checks += [_tensors(golden, now), _same("weights", golden, now)]
    checks += [_vectors("image vectors", golden["image vectors"], now["image vectors"])]
    if note["text"]:
        checks += [_same("tokenizer", golden, now, key="tokens"), _text(backbone, golden)]
    for name, vectors in golden["whole"].items():
        checks.append(_vectors(f"image to vector, {name}", vectors, now["whole"][name]))
    return [*checks, _precision(backbone, golden)]


def _files(recorded: Mapping[str, str], found: Mapping[str, str]) -> Check:
    missing = [n for n in recorded if n not in found]
    changed = [n for n in recorded if n in found and recorded[n] != found[n]]
    added = [n for n in found if n not in recorded]
    parts = [("missing", missing), ("changed", changed), ("added", added)]
    trouble = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
    return Check("files", not trouble, trouble or f"{len(recorded)} files, sha256 as recorded")


def _same(part: str, golden: Mapping[str, Any], now: Mapping[str, Any], key: str = "") -> Check:
    ok = golden[key or part] == now.get(key or part)
    return Check(part, ok, "as recorded" if ok else "differs from what was recorded")


def _recipe(golden: Mapping[str, Any], now: Mapping[str, Any]) -> Check:
    differing = [
        f"{name}.{field} is {now[name][field]!r}, was {value!r}"
        for name, recipe in golden.items()
        for field, value in recipe.items()
        if now[name][field] != value
    ]
    return Check("recipe", not differing, "; ".join(differing) or "as recorded")


def _tensors(golden: Mapping[str, Any], now: Mapping[str, Any]) -> Check:
    worst = 0.0
    for name, recorded in golden["tensors"].items():
        a, b = np.asarray(recorded), np.asarray(now["tensors"][name])
        worst = max(worst, float(np.abs(a - b).max()) if a.shape == b.shape else float("inf"))
    return Check("preprocessed images", worst <= TOLERANCE, f"largest difference {worst:.1e}")


def _vectors(part: str, golden: Any, now: Any) -> Check:
    a, b = np.asarray(golden, dtype=np.float64), np.asarray(now, dtype=np.float64)
    if a.shape != b.shape:
        return Check(part, False, f"{b.shape[1]} dimensions, were {a.shape[1]}")
    scale = np.linalg.norm(a, axis=1, keepdims=True)
    worst = float((np.abs(a - b) / scale).max())
    return Check(part, worst <= TOLERANCE, f"largest difference {worst:.1e} of the vector's length")


def _text(backbone: Backbone, golden: Mapping[str, Any]) -> Check:
    """Encode the recorded tokens, so that another tokenizer does not count as another tower."""
    return _vectors(
        "text vectors", golden["text vectors"], text_vectors(backbone, golden["tokens"])
    )


def _precision(backbone: Backbone, golden: Mapping[str, Any]) -> Check:
    """Compare bfloat16 here with the recorded float32, by cosine."""
    low = image_vectors(backbone, waves(backbone.spec.recipe.size), bfloat16=True)
    full = np.asarray(golden["image vectors"])
    with np.errstate(all="ignore"):  # damaged weights give any number
        norms = np.linalg.norm(low, axis=1) * np.linalg.norm(full, axis=1)
        worst = float(((low * full).sum(axis=1) / norms).min())
    return Check("bfloat16", worst >= BFLOAT16_COSINE, f"least cosine to float32 {worst:.5f}")
