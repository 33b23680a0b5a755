"""Backbones: one loader a family, found by name through the registry.

A name is ``NAME[@WEIGHTS]`` or a folder:

- ``biomedclip``, ``convnext_tiny``, ``statistics``: an installed name (`registry.available`);
- ``timm:vit_base_patch16_224``, ``open_clip:ViT-B-32``: any model of that library;
- ``hf-hub:ORG/NAME``: an open_clip model on the hub;
- a folder in the hub's own format, of open_clip or timm.

WEIGHTS is a tag (``convnext_tiny@fb_in22k``), a weights file, a folder, or ``random``: untrained
weights from a fixed seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embedstore import registry
from embedstore.errors import BackboneError, UnknownName
from embedstore.types import Backbone, BackboneRequest, Recipe, Spec

RANDOM = "random"
RUN = "run.json"
NOTE = "embedstore.json"
"""The file that makes a model folder a bundle."""


def load_backbone(
    text: str, recipe: Recipe | None = None, pooling: str = "", device: str = "cpu"
) -> Backbone:
    """Load a backbone by the name a user types.

    Raises
    ------
    UnknownName
        No such name is installed.
    BackboneError
        The weights cannot be had or do not fit.
    """
    loader, name, weights = parse(text)
    request = BackboneRequest(name, weights, recipe or Recipe(), pooling, device)
    made: Any = registry.load(registry.BACKBONES, loader)(request)
    if weights and (label := _tuned_for(Path(weights))):
        made.note = (
            f"{name} was fine-tuned for {label}: only patients it has not learnt from can test it"
        )
    backbone: Backbone = made
    return backbone


def load_of(spec: Spec, text: str = "", device: str = "cpu") -> Backbone:
    """Load the backbone that made a Spec's vectors, with its recipe and pooling.

    Parameters
    ----------
    text
        The name a user types, or the Spec's key; by default the Spec's own name.

    Raises
    ------
    BackboneError
        The weights cannot be had or do not fit.
    SpecMismatch
        It is another one.
    """
    name = spec.backbone if not text or spec.key.startswith(text) else text
    pooling = spec.pooling if spec.pooling == "pre-projection" else ""
    try:
        backbone = load_backbone(name, spec.recipe, pooling, device)
    except UnknownName as error:
        if name != spec.backbone:
            raise
        raise UnknownName(
            f"no backbone {name!r} is installed; where a model folder made these vectors, give "
            f"that folder"
        ) from error
    spec.require(backbone.spec)
    return backbone


def specs_named(specs: Iterable[Spec], text: str) -> tuple[Spec, ...]:
    """Return those that a user means by a backbone's name, as he typed it, or by a key."""
    _, name, weights = parse(text)
    known = {text, f"{name}@{RANDOM}" if weights == RANDOM else name}
    return tuple(s for s in specs if s.backbone in known or s.key.startswith(text))


def parse(text: str) -> tuple[str, str, str]:
    """Take ``NAME[@WEIGHTS]`` or a folder apart: registered loader, model name, weights."""
    if Path(text).is_dir():
        return _family(Path(text)), _shown(Path(text)), text
    name, _, weights = text.partition("@")
    if name.startswith("hf-hub:"):
        return "open_clip", name, weights
    loader, colon, rest = name.partition(":")
    return (loader, rest, weights) if colon else (name, name, weights)


def _shown(folder: Path) -> str:
    """Return the name a bundle was made under, else the folder's."""
    try:
        return str(json.loads((folder / NOTE).read_text())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.resolve().name


def _tuned_for(folder: Path) -> str:
    """Return the label that a model folder was fine-tuned for by `embedstore finetune`, or ""."""
    run = folder.parent if folder.name.startswith("fold-") else folder  # of several, one each
    try:
        return str(json.loads((run / RUN).read_text())["label"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _family(folder: Path) -> str:
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    if (folder / "config.json").is_file():
        return "timm"
    raise BackboneError(
        f"{folder}: holds neither open_clip_config.json nor timm's config.json, so it is not a "
        f"model folder in the hub's format"
    )
