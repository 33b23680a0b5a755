"""embedstore: frozen embeddings of medical images in plain Zarr, and honest probes on them.

The public names load on first use, so that importing embedstore stays cheap. `open` is where a
notebook begins. The stages are functions in modules of the same name:
``embedstore.extract.extract``, ``embedstore.evaluate.evaluate``, ``embedstore.export.export``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.backbones import load_backbone
    from embedstore.errors import EmbedstoreError
    from embedstore.manifest import read_manifest
    from embedstore.results import Report
    from embedstore.store import Store
    from embedstore.types import Embeddings, Recipe, Sample, Spec, Split

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
    "open",
    "read_manifest",
]

_HOMES = {
    "EmbedstoreError": "errors",
    "Report": "results",
    "Store": "store",
    "load_backbone": "backbones",
    "read_manifest": "manifest",
}


def open(path: Path | str, verify: bool = False) -> Store:
    """Open a store that `extract` made, for reading; never waits for a writer.

    What it shows is the last commit of that moment. With `verify`, the checksum of every chunk is
    compared when it is first read from.

    Raises
    ------
    StoreError
        Nothing is there, or it is not a store of this format.
    """
    from embedstore.store import Store

    return Store.open(path, verify)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'embedstore' has no attribute {name!r}")
    value = getattr(import_module(f"embedstore.{_HOMES.get(name, 'types')}"), name)
    globals()[name] = value
    return value
