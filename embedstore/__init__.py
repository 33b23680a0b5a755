"""embedstore: frozen embeddings of medical images in plain Zarr, and honest probes on them.

The public names load on first use, so that importing embedstore stays cheap. The stages are
functions in modules of the same name: ``embedstore.extract.extract``,
``embedstore.evaluate.evaluate``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.backbones import load_backbone
    from embedstore.errors import EmbedstoreError
    from embedstore.manifest import read_manifest
    from embedstore.search import neighbours
    from embedstore.store import Store
    from embedstore.types import Embeddings, Recipe, Report, Sample, Spec, Split

__all__ = [
    "Embeddings",
    "EmbedstoreError",
    "Recipe",
    "Report",
    "Sample",
    "Spec",
    "Split",
    "Store",
    "load_backbone",
    "neighbours",
    "read_manifest",
]

_HOMES = {
    "EmbedstoreError": "errors",
    "Store": "store",
    "load_backbone": "backbones",
    "neighbours": "search",
    "read_manifest": "manifest",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'embedstore' has no attribute {name!r}")
    value = getattr(import_module(f"embedstore.{_HOMES.get(name, 'types')}"), name)
    globals()[name] = value
    return value
