"""The floor every study should beat: grey-level percentiles and a little texture, no weights."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from embedstore.backbones import texture
from embedstore.errors import BackboneError, UsageError
from embedstore.types import BackboneRequest, Recipe, Spec

SIZE = 256


class StatisticsBackbone:
    """Hand-made features of one grey image, `texture.NAMES`."""

    def __init__(self, recipe: Recipe) -> None:
        # the code is the weights: another version of it makes other vectors
        code = hashlib.sha256(inspect.getsource(texture).encode()).hexdigest()
        self.spec = Spec("statistics", code, recipe, "features", len(texture.NAMES))

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, 1, H, W) in 0..1 to (b, d)."""
        rows = [texture.features(image) for image in batch[:, 0].numpy()]
        return torch.from_numpy(np.stack(rows))

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Raise: there is no text side."""
        raise BackboneError("statistics has no text side; use an open_clip model")


def load(request: BackboneRequest) -> StatisticsBackbone:
    """Complete the recipe (one grey channel, 256 pixels, 0..1); there is nothing to load."""
    if request.weights or request.pooling:
        raise UsageError("statistics has no weights and no pooling to choose")
    return StatisticsBackbone(
        replace(request.recipe, size=(SIZE, SIZE), colour="grey", mean=(0.0,), std=(1.0,))
    )
