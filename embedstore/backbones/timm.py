"""Any timm model as a frozen backbone: pooled features after the model's own final norm.

``num_classes=0`` keeps pool, norm and flatten, as timm's feature-extraction guide has it; pooling
``forward_features`` by hand would skip the norm and give other numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import save_for_hf

from embedstore.backbones import RANDOM
from embedstore.backbones.hub import hub_folder
from embedstore.backbones.weights import explained, seeded, state_sha256
from embedstore.errors import BackboneError, UsageError
from embedstore.images.recipe import fit_to_model
from embedstore.types import BackboneRequest, Recipe, Resize, Spec

_HUB_FILES = ["config.json", "model.safetensors", "pytorch_model.bin"]


class TimmBackbone:
    """A timm model; `spec` says which weights and recipe."""

    def __init__(self, name: str, model: Any, recipe: Recipe, device: str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device
        # some models have no fixed feature count before they run; this is timm's own figure
        dim = int(getattr(model, "head_hidden_size", None) or model.num_features)
        architecture = str(model.pretrained_cfg["architecture"])
        weights = state_sha256(model.state_dict(), architecture)
        self.spec = Spec(name, weights, recipe, "pooled", dim)

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, 3, H, W) to (b, d)."""
        features: torch.Tensor = self.model(batch.to(self.device))
        return features

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Raise: a timm model has no text side."""
        raise BackboneError(f"{self.spec.backbone} has no text side; use an open_clip model")

    def export(self, folder: Path) -> None:
        """Write the model into a folder in the hub's format, weights as safetensors."""
        save_for_hf(self.model, str(folder), safe_serialization=True)


def load(request: BackboneRequest) -> TimmBackbone:
    """Load ``NAME``, ``NAME@TAG``, ``NAME@FILE``, ``NAME@random`` or a folder in timm's format."""
    if request.pooling not in {"", "pooled"}:
        raise UsageError(f"{request.name} knows the pooling 'pooled', not {request.pooling!r}")
    name, options, how = _plan(request)
    with explained(f"{request.name}{'@' * bool(request.weights)}{request.weights}", how), seeded():
        model = timm.create_model(name, num_classes=0, **options)
    recipe = _recipe(request.recipe, model)
    shown = f"{request.name}@{RANDOM}" if request.weights == RANDOM else request.name
    return TimmBackbone(shown, model, recipe, request.device)


def _plan(request: BackboneRequest) -> tuple[str, dict[str, Any], str]:
    """Return timm's model name, options for ``create_model``, and what to do if it fails."""
    weights = request.weights
    if weights == RANDOM:
        return request.name, {"pretrained": False}, "`timm.list_models()` lists the names"
    if weights and Path(weights).is_dir():
        return _folder_plan(Path(weights))
    if Path(weights).is_file():
        overlay = {"file": weights, "hf_hub_id": None}
        remedy = f"give weights of {request.name}, as safetensors or a state dict"
        return request.name, {"pretrained": True, "pretrained_cfg_overlay": overlay}, remedy
    if "/" in weights:
        raise BackboneError(f"{weights}: no such weights file")
    config = timm.get_pretrained_cfg(request.name, allow_unregistered=True)
    if config is None:
        raise BackboneError(f"timm knows no {request.name!r}; `timm.list_models()` lists the names")
    name = f"{request.name}.{weights}" if weights else request.name
    known = timm.list_pretrained(f"{request.name.partition('.')[0]}.*")
    if "." in name and name not in known:
        raise BackboneError(f"timm has no weights called {name!r}; known: {', '.join(known)}")
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise BackboneError(f"timm has no weights for {name!r}; give a file: {name}@FILE")
    if config.hf_hub_id:
        return _folder_plan(hub_folder(config.hf_hub_id, _HUB_FILES))
    return name, {"pretrained": True}, f"give a weights file: {request.name}@FILE"


def _folder_plan(folder: Path) -> tuple[str, dict[str, Any], str]:
    _architecture(folder)
    return f"local-dir:{folder}", {"pretrained": True}, "check the folder's files"


def _architecture(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text())["architecture"])
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(f"{folder / 'config.json'}: not timm's configuration") from error


def _recipe(recipe: Recipe, model: Any) -> Recipe:
    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    height, width = config["input_size"][1:]
    resize: Resize = "squash" if config["crop_mode"] == "squash" else "centre-crop"
    return fit_to_model(
        recipe,
        size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize=resize,
        scale_size=math.floor(min(height, width) / config["crop_pct"]),
    )
