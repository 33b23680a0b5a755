"""``--backbone phantom-clip``: the model that comes with the package."""

from __future__ import annotations

from dataclasses import replace

from embedstore.backbones import openclip
from embedstore.errors import UsageError
from embedstore.phantomclip import FOLDER
from embedstore.types import BackboneRequest

NOTE = "phantom-clip is for trying out and for tests: it was trained on synthetic images only"


def load(request: BackboneRequest) -> openclip.OpenClipBackbone:
    """Load the bundled folder; there are no other weights of it."""
    if request.weights:
        raise UsageError("phantom-clip has no other weights; give a folder by its path")
    backbone = openclip.load(replace(request, weights=str(FOLDER)), shown="phantom-clip")
    backbone.note = NOTE
    return backbone
