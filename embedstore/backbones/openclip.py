"""Any open_clip model as a frozen backbone, BiomedCLIP by name.

BiomedCLIP: Zhang et al., "BiomedCLIP: a multimodal biomedical foundation model pretrained from
fifteen million scientific image-text pairs", arXiv 2303.00915.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from embedstore.backbones import RANDOM
from embedstore.backbones.catalogue import BIOMEDCLIP
from embedstore.backbones.folder import (
    CONFIG,
    TOKENIZER_FILES,
    WEIGHTS,
    read_config,
    self_contained,
)
from embedstore.backbones.hub import hub_folder
from embedstore.backbones.tokens import token_counts
from embedstore.backbones.weights import explained, seeded, state_sha256
from embedstore.errors import BackboneError, UsageError
from embedstore.images.recipe import fit_to_model
from embedstore.types import BackboneRequest, Recipe, Resize, Spec

POOLINGS = ("projected", "pre-projection")
_HUB_FILES = ["*.json", "*.txt", "*.model", "open_clip*"]
_SENTENCE = "the breasts are extremely dense on this image"


@dataclass(frozen=True, slots=True)
class Source:
    """A loaded model, and what is needed to write it out again."""

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    tokenizer_files: tuple[Path, ...] = ()


class OpenClipBackbone:
    """An open_clip model: an image side and, with the projected vectors, a text side.

    `note` is what its users should be told whenever it is used.
    """

    note = ""

    def __init__(
        self, name: str, source: Source, recipe: Recipe, pooling: str, device: str
    ) -> None:
        model = source.model
        self.source = source
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = source.tokenizer
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

    @property
    def logit_scale(self) -> float | None:
        """What cosines were multiplied by in training, the inverse of a temperature."""
        scale = getattr(self.model, "logit_scale", None)
        return None if scale is None else float(scale.exp())

    @property
    def context_length(self) -> int:
        """The longest text that `encode_text` reads whole, in tokens."""
        return int(self.tokenizer.context_length)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, as if there were no limit."""
        return token_counts(self.tokenizer, texts)

    def export(self, folder: Path) -> None:
        """Write the model into a folder in the hub's format, complete, weights as safetensors."""
        (folder / CONFIG).write_text(json.dumps(self.source.config, indent=1))
        for file in self.source.tokenizer_files:
            shutil.copyfile(file, folder / file.name)
        if hasattr(self.model, "text") and hasattr(self.model.text, "config"):
            (folder / "config.json").write_text(self.model.text.config.to_json_string())
        # cloned: safetensors refuses tensors that share memory
        state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        save_file(state, folder / WEIGHTS[0])


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
        source = _from_folder(Path(request.weights))
    elif request.name.startswith("hf-hub:") and request.weights:
        source = _from_folder(_folder_of(Path(request.weights), shown))
    elif request.name.startswith("hf-hub:"):
        source = _from_folder(hub_folder(request.name.removeprefix("hf-hub:"), _HUB_FILES))
    else:
        source = _from_name(request.name, request.weights)
        shown = f"{shown}@{RANDOM}" if request.weights == RANDOM else shown
    recipe = _recipe(request.recipe, source.model)
    return OpenClipBackbone(shown, source, recipe, pooling, request.device)


def _from_folder(folder: Path) -> Source:
    config = read_config(folder)
    remedy = "the weights and open_clip_config.json must belong together"
    with self_contained(folder) as copy, explained(str(folder), remedy):
        model = open_clip.create_model(f"local-dir:{copy}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{copy}")
    _check_tokenizer(tokenizer, folder)
    files = tuple(p for p in sorted(folder.iterdir()) if p.name in TOKENIZER_FILES)
    return Source(model, tokenizer, config, files)


def _folder_of(file: Path, shown: str) -> Path:
    """Return the folder of a weights file, where the rest of the model lies beside it."""
    if not file.is_file():
        raise BackboneError(f"{file}: no such folder or weights file of {shown}")
    missing = [n for n in (CONFIG, *TOKENIZER_FILES[:2]) if not (file.parent / n).is_file()]
    if missing:
        raise BackboneError(f"{file}: {shown} also needs {', '.join(missing)}, in the same folder")
    return file.parent


def _from_name(name: str, weights: str) -> Source:
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
    config = {"model_cfg": open_clip.get_model_config(name)}
    return Source(model, tokenizer, config | {"preprocess_cfg": _preprocessing(model)})


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


def _preprocessing(model: Any) -> dict[str, Any]:
    """Return open_clip's preprocessing of a model as plain values."""
    config: dict[str, Any] = json.loads(json.dumps(model.visual.preprocess_cfg))
    return config


def _recipe(recipe: Recipe, model: Any) -> Recipe:
    config = _preprocessing(model)
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
