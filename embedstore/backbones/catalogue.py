"""What can be said of a backbone by name, before loading it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import snapshot_download, try_to_load_from_cache

from embedstore import registry
from embedstore.backbones import NOTE, RANDOM, parse
from embedstore.backbones.weights import explained
from embedstore.errors import UsageError

BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
UNKNOWN = "see its source"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `embedstore backbones list`; `dim` 0 and "" mean it depends on the model."""

    name: str
    source: str
    dim: int
    text: bool
    licence: str
    here: bool


def entries() -> list[Entry]:
    """List every installed name that stands for one model."""
    names = [n for n in registry.available(registry.BACKBONES) if n not in {"timm", "open_clip"}]
    return [entry(name) for name in names]


def entry(name: str) -> Entry:
    """Describe one backbone by the name a user types."""
    loader, model, weights = parse(name)
    if loader in {"timm", "open_clip"} and weights and Path(weights).is_dir():
        return Entry(name, "a folder", 0, loader == "open_clip", _noted_licence(weights), True)
    known: dict[str, Callable[[], Entry]] = {
        "biomedclip": lambda: Entry(
            name, BIOMEDCLIP, 512, True, "MIT", _cached(BIOMEDCLIP, "open_clip_config.json")
        ),
        "phantom-clip": lambda: Entry(
            name, "in the package (synthetic)", 128, True, "Apache-2.0", True
        ),
        "statistics": lambda: Entry(name, "no weights", 0, False, "Apache-2.0", True),
    }
    if loader in known:
        return known[loader]()
    if loader == "timm" or model.startswith("convnext"):
        return _timm_entry(name, model, weights)
    point = registry.available(registry.BACKBONES).get(loader)
    source = point.dist.name if point and point.dist else "a plug-in"
    return Entry(name, source, 0, loader == "open_clip", UNKNOWN, False)


def licence_of(name: str) -> str:
    """Return a backbone's licence as far as it is known here."""
    return entry(name).licence


def pull(name: str, target: Path) -> Path:
    """Download the files of a backbone's hub page into a folder, to be carried elsewhere.

    Raises
    ------
    UsageError
        The backbone does not come from the hub.
    BackboneError
        The hub cannot be reached.
    """
    source = entry(name).source if not name.startswith("hf-hub:") else name[7:]
    if "/" not in source:
        raise UsageError(f"{name} does not come from the hub ({source}); there is nothing to pull")
    remedy = "run this where there is internet"
    with explained(f"{source} cannot be downloaded", remedy):
        snapshot_download(source, local_dir=target)
    return target


def _timm_entry(name: str, model: str, weights: str) -> Entry:
    if Path(weights).is_file() or weights == RANDOM:
        return Entry(name, weights, timm_dim(model), False, UNKNOWN, True)
    tagged = f"{model}.{weights}" if weights else model
    if weights and tagged not in timm.list_pretrained(f"{model}.*"):
        raise UsageError(f"timm has no weights called {tagged!r}")
    config = timm.get_pretrained_cfg(tagged)
    if config is None:
        raise UsageError(f"timm knows no {model!r}")
    hub_id = config.hf_hub_id or ""
    source = str(hub_id or config.url or "no weights")
    licence = str(config.license or UNKNOWN)
    here = bool(hub_id) and _cached(hub_id, "model.safetensors")
    return Entry(name, source, timm_dim(model), False, licence, here)


def timm_dim(model: str) -> int:
    """Return the length of a timm model's pooled features, from its default configuration."""
    import torch

    net: Any
    with torch.device("meta"):
        net = timm.create_model(model, num_classes=0)
    return int(getattr(net, "head_hidden_size", None) or net.num_features)


def _noted_licence(folder: str) -> str:
    """Return the licence a bundle's note names."""
    try:
        return str(json.loads((Path(folder) / NOTE).read_text())["licence"])
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN


def _cached(hub_id: str, file: str) -> bool:
    return isinstance(try_to_load_from_cache(hub_id, file), str)
