"""Any open_clip model as a frozen backbone, BiomedCLIP by name.

BiomedCLIP: Zhang et al., "BiomedCLIP: a multimodal biomedical foundation model pretrained from
fifteen million scientific image-text pairs", arXiv 2303.00915.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch

from embedstore.backbones import RANDOM
from embedstore.backbones.folder import read_config, self_contained
from embedstore.backbones.hub import hub_folder
from embedstore.backbones.weights import explained, seeded, state_sha256
from embedstore.errors import BackboneError, UsageError
from embedstore.images.recipe import fit_to_model
from embedstore.types import BackboneRequest, Recipe, Resize, Spec

BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
POOLINGS = ("projected", "pre-projection")
_HUB_FILES = ["*.json", "*.txt", "*.model", "open_clip*"]
_SENTENCE = "the breasts are extremely dense on this image"


class OpenClipBackbone:
    """An open_clip model: an image side and, with the projected vectors, a text side."""

    def __init__(
        self, name: str, model: Any, tokenizer: Any, recipe: Recipe, pooling: str, device: str
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.device = device
        weights = state_sha256(model.state_dict(), type(model.visual).__name__)
        if pooling == "pre-projection":
            _drop_projection(model.visual)
        with torch.inference_mode():
            blank = torch.zeros(1, 3, *recipe.size, device=device)
            dim = int(model.encode_image(blank).shape[1])
        self.spec = Spec(name, weights, recipe, pooling, dim, text=pooling == "projected")

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, 3, H, W) to (b, d), not normalised."""
        features: torch.Tensor = self.model.encode_image(batch.to(self.device))
        return features

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """(m, d), not normalised."""
        if not self.spec.text:
            raise BackboneError(f"{self.spec.backbone}: text goes with the pooling 'projected'")
        tokens = self.tokenizer(list(texts)).to(self.device)
        features: torch.Tensor = self.model.encode_text(tokens)
        return features


def load_biomedclip(request: BackboneRequest) -> OpenClipBackbone:
    """Load BiomedCLIP from the hub or its cache, or ``biomedclip@FOLDER``."""
    return load(replace(request, name=f"hf-hub:{BIOMEDCLIP}"), shown="biomedclip")


def load(request: BackboneRequest, shown: str = "") -> OpenClipBackbone:
    """Load ``NAME@TAG``, ``NAME@FILE``, ``NAME@random``, ``hf-hub:ID`` or a folder."""
    pooling = request.pooling or POOLINGS[0]
    if pooling not in POOLINGS:
        raise UsageError(f"open_clip models know the poolings {POOLINGS}, not {pooling!r}")
    shown = shown or request.name.removeprefix("hf-hub:")
    if request.weights and Path(request.weights).is_dir():
        model, tokenizer = _from_folder(Path(request.weights))
    elif request.name.startswith("hf-hub:"):
        if request.weights:
            raise BackboneError(f"{request.weights}: no such folder of {shown}")
        model, tokenizer = _from_folder(
            hub_folder(request.name.removeprefix("hf-hub:"), _HUB_FILES)
        )
    else:
        model, tokenizer = _from_name(request.name, request.weights)
        shown = f"{shown}@{RANDOM}" if request.weights == RANDOM else shown
    recipe = _recipe(request.recipe, model)
    return OpenClipBackbone(shown, model, tokenizer, recipe, pooling, request.device)


def _from_folder(folder: Path) -> tuple[Any, Any]:
    read_config(folder)
    remedy = "the weights and open_clip_config.json must belong together"
    with self_contained(folder) as copy, explained(str(folder), remedy):
        model = open_clip.create_model(f"local-dir:{copy}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{copy}")
    _check_tokenizer(tokenizer, folder)
    return model, tokenizer


def _from_name(name: str, weights: str) -> tuple[Any, Any]:
    if not weights:
        known = [tag for model, tag in open_clip.list_pretrained() if model == name]
        raise UsageError(
            f"open_clip:{name} needs weights: open_clip:{name}@TAG, @FILE or @{RANDOM}; "
            f"known tags: {', '.join(known) or 'none'}"
        )
    remedy = "give a tag of `open_clip.list_pretrained()` or a weights file of this architecture"
    pretrained = None if weights == RANDOM else weights
    with explained(f"open_clip:{name}@{weights}", remedy), seeded():
        model = open_clip.create_model(name, pretrained=pretrained, pretrained_text=False)
        tokenizer = open_clip.get_tokenizer(name)
    return model, tokenizer


def _check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer that loads but knows no words: it would answer the same for any text."""
    inner = getattr(tokenizer, "tokenizer", None)
    unknown = getattr(inner, "unk_token_id", None)
    if inner is None or unknown is None:
        return
    ids = inner(_SENTENCE, add_special_tokens=False).input_ids
    if ids.count(unknown) * 2 > len(ids):
        raise BackboneError(
            f"{folder}: the tokenizer turns {ids.count(unknown)} of {len(ids)} tokens of "
            f"{_SENTENCE!r} into unknown ones; its vocabulary is not this model's"
        )


def _drop_projection(visual: Any) -> None:
    """Let the image tower end before its projection (timm towers: ``head``; ViT: ``proj``)."""
    if hasattr(visual, "trunk"):
        visual.head = torch.nn.Identity()
    elif getattr(visual, "proj", None) is not None:
        visual.proj = None
    else:
        raise UsageError(f"{type(visual).__name__} has no projection to stop before")


def _recipe(recipe: Recipe, model: Any) -> Recipe:
    config = json.loads(json.dumps(model.visual.preprocess_cfg))
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    names: dict[str, Resize] = {"squash": "squash", "longest": "pad", "shortest": "centre-crop"}
    return fit_to_model(
        recipe,
        size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize=names[config["resize_mode"]],
    )
