"""What a model does to a few images and sentences, taken apart so that a fault can be placed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedstore.images.decode import read
from embedstore.images.recipe import RECIPES, apply, fit_to_model
from embedstore.types import Backbone, Floats

SENTENCES = (
    "the breasts are almost entirely fatty",
    "the breasts are extremely dense",
    "this is a photo of a mammogram",
)
_EVERY = 7


def measure(backbone: Backbone, images: Sequence[Path]) -> dict[str, Any]:
    """Record each part of the path of a backbone, loaded with the recipe "plain", as plain values.

    The parts do not build on each other: vectors of a formula's tensor do not depend on decoding or
    recipe, vectors of recorded tokens not on the tokenizer. "whole" is everything together.
    """
    pixels = [read(path)[1].pixels() for path in images]
    plain = backbone.spec.recipe
    cropped = fit_to_model(
        RECIPES["mammography"], plain.size, plain.mean, plain.std, plain.interpolation
    )
    recipes = {"plain": plain, "mammography": cropped}
    tensors = {n: np.stack([apply(r, p) for p in pixels]) for n, r in recipes.items()}
    found: dict[str, Any] = {
        "decoding": [hashlib.sha256(np.ascontiguousarray(p).tobytes()).hexdigest() for p in pixels],
        "recipe": {name: recipe.to_dict() for name, recipe in recipes.items()},
        "tensors": {n: t[..., ::_EVERY, ::_EVERY].tolist() for n, t in tensors.items()},
        "weights": backbone.spec.weights_sha256,
        "image vectors": image_vectors(backbone, waves(plain.size)).tolist(),
        "whole": {n: image_vectors(backbone, t).tolist() for n, t in tensors.items()},
    }
    if backbone.spec.text:
        tokens = token_ids(backbone)
        found["tokens"] = tokens
        found["text vectors"] = text_vectors(backbone, tokens).tolist()
    return found


def waves(size: tuple[int, int]) -> Floats:
    """(2, 3, H, W) values of a formula, the same everywhere: crossing waves, within -2..2."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    pictures = [
        [np.sin(x / (5 + c + 7 * n)) + np.cos(y / (9 + 2 * c + n)) for c in range(3)]
        for n in range(2)
    ]
    return np.asarray(pictures, dtype=np.float32)


def image_vectors(backbone: Backbone, tensors: Floats, bfloat16: bool = False) -> Floats:
    """(b, 3, H, W) to (b, d) float32; under bfloat16 autocast on wish."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        vectors: Floats = backbone.encode_image(torch.from_numpy(tensors)).float().numpy()
    return vectors


def token_ids(backbone: Any) -> list[list[int]]:
    """(m, context) token numbers of `SENTENCES`."""
    ids: list[list[int]] = backbone.tokenizer(list(SENTENCES)).tolist()
    return ids


def text_vectors(backbone: Any, tokens: list[list[int]]) -> Floats:
    """(m, context) token numbers to (m, d) float32."""
    with torch.inference_mode():
        vectors: Floats = backbone.model.encode_text(torch.tensor(tokens)).float().numpy()
    return vectors
