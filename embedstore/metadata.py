"""What arrays and groups say of themselves, in ``zarr.json`` files beside what the root says.

They are for clients that open one array without the root. They are written after it, so they may
lag behind a commit; they never run ahead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedstore.chunks import write_whole
from embedstore.commit import COPY, as_json
from embedstore.errors import StoreError
from embedstore.store import Store

_AGAIN = "the next `embedstore extract` writes it anew"


def own_metadata(path: Path, name: str) -> Any:
    """Return what a metadata file holds: None where there is none, "" where it is no JSON."""
    try:
        return json.loads((path / name / "zarr.json").read_bytes())
    except FileNotFoundError:
        return None
    except StoreError:  # of the connection, not of the file
        raise
    except (OSError, ValueError):
        return ""


def describe_again(store: Store) -> None:
    """Write the metadata anew of arrays that were written anew without its having been told.

    The chunks it describes are about to be removed.
    """
    for name, metadata in store.arrays.items():
        own = own_metadata(store.path, name)
        if isinstance(own, dict) and _rewrites(own) < _rewrites(metadata):
            write_whole(store.path / name / "zarr.json", as_json(metadata))


def metadata_trouble(own: Any, root: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return kind, what and what to do of one array's or group's own ``zarr.json``."""
    if own is None:
        return "behind", "not there yet; the root zarr.json has it", f"harmless, {_AGAIN}"
    if not isinstance(own, dict) or own.get("node_type") != root.get("node_type"):
        return "metadata", "damaged; the root zarr.json has it", _AGAIN
    if own["node_type"] == "group":
        return "", "", ""
    shape, theirs = own.get("shape"), root["shape"]
    ours = shape if isinstance(shape, list) and shape else [-1]
    if _rewrites(own) < _rewrites(root):
        return "behind", "describes the array before it was written anew", f"harmless, {_AGAIN}"
    if _rewrites(own) > _rewrites(root):
        what = "describes the array as written anew since"
        return "metadata", what, f"the root zarr.json may be an old one: {COPY}"
    # attributes are anyone's to add
    keys = (set(own) | set(root)) - {"attributes", "shape"}
    if any(own.get(k) != root.get(k) for k in keys) or ours[1:] != theirs[1:]:
        return "metadata", "differs from what the root zarr.json says of it", _AGAIN
    if not isinstance(ours[0], int) or ours[0] < 0 or ours[0] > theirs[0]:
        what = f"says {ours[0]} rows where the commit has {theirs[0]}"
        return "metadata", what, f"the root zarr.json may be an old one: {COPY}"
    if ours[0] < theirs[0]:
        what = f"says {ours[0]} rows where the commit has {theirs[0]}"
        return "behind", what, f"harmless, {_AGAIN}"
    return "", "", ""


def _rewrites(metadata: Mapping[str, Any]) -> int:
    attributes = metadata.get("attributes")
    count = attributes.get("rewrites", 0) if isinstance(attributes, dict) else 0
    return count if isinstance(count, int) else 0
