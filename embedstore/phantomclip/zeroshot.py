"""Zero-shot density: the mean direction of a class's sentences against an image's vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.images.recipe import apply
from embedstore.phantomclip.sentences import class_texts
from embedstore.phantoms import DENSITIES
from embedstore.types import Backbone, Pixels, unit_rows

__all__ = ["class_vectors", "image_vectors", "probabilities"]

_BATCH = 32
_SCALE = 20.0  # of the cosine before the softmax; it changes no order within one class


def class_vectors(
    backbone: Backbone, held_out: bool = False, groups: Sequence[str] = DENSITIES
) -> NDArray[np.floating[Any]]:
    """(k, d), one row a group of densities (``"A"``, or ``"BC"`` for either), unit length."""
    single = [
        unit_rows(_numbers(backbone.encode_text(class_texts(d, held_out)))).mean(axis=0)
        for d in DENSITIES
    ]
    rows = np.stack(single)
    return unit_rows(
        np.stack([unit_rows(rows[[DENSITIES.index(d) for d in g]]).mean(axis=0) for g in groups])
    )


def image_vectors(backbone: Backbone, images: Sequence[Pixels]) -> NDArray[np.floating[Any]]:
    """(n, d), as the backbone gives them for images prepared by its own recipe."""
    recipe = backbone.spec.recipe
    vectors = []
    with torch.inference_mode():
        for i in range(0, len(images), _BATCH):
            batch = np.stack([apply(recipe, pixels) for pixels in images[i : i + _BATCH]])
            vectors.append(_numbers(backbone.encode_image(torch.from_numpy(batch))))
    return np.concatenate(vectors)


def probabilities(
    vectors: NDArray[np.floating[Any]], classes: NDArray[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """Softmax of the scaled cosines: (n, d) and (k, d) to (n, k)."""
    logits = _SCALE * unit_rows(vectors) @ classes.T
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.floating[Any]] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _numbers(tensor: torch.Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return numbers
