"""The root ``zarr.json`` of a store, which is its commit: what it says, and how it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.chunks import Layout
from embedstore.errors import StoreError
from embedstore.places import ObjectPlace

FORMAT = 3
_MOST_ROWS, _MOST_VALUES = 2**40, 2**28  # of an array, of a row; what is more is damage
COPY = "put it back from a copy of the store"


def read_root(path: Path) -> dict[str, Any]:
    """Return the root ``zarr.json`` of a store; `StoreError` where `path` is none."""
    try:
        root: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())
        version = root["attributes"]["embedstore"]["format"]
        names = root["consolidated_metadata"]["metadata"] if version == FORMAT else {}
        outside = [n for n in map(str, names) if ".." in n.split("/") or n.startswith("/")]
    except FileNotFoundError as error:
        trouble = "is not an embedstore store" if path.exists() else "no such store"
        raise StoreError(f"{path}: {trouble}; make one with `embedstore extract`") from error
    except NotADirectoryError as error:
        raise StoreError(f"{path}: is a file, not a store") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}: a Zarr folder that embedstore did not make") from error
    if version != FORMAT:
        raise StoreError(
            f"{path}: store format {version}, {FORMAT} is read here; extract into a new store"
        )
    if outside:  # files are read and written where an array is called
        raise StoreError(f"{path}: names an array outside of it, {outside[0]!r}; do not use it")
    _refuse_damaged(path, root)
    return root


def damaged(path: Path, what: str) -> StoreError:
    """Return the error of a root ``zarr.json`` that says what no commit writes."""
    return StoreError(
        f"{path / 'zarr.json'}: damaged: what it says of {what} is not what embedstore writes; "
        f"{COPY}"
    )


def _refuse_damaged(path: Path, root: Mapping[str, Any]) -> None:
    """Refuse a root by which no array could be found or read."""
    name = "the store"
    try:
        if type(root["attributes"]["embedstore"]["commit"]) is not int:
            raise TypeError
        for name, metadata in root["consolidated_metadata"]["metadata"].items():
            if metadata["node_type"] == "group":
                continue
            if metadata["node_type"] != "array":
                raise ValueError
            layout, rows = layout_of(name, metadata), metadata["shape"][0]
            # str: of null numpy makes a float64
            known = layout.dtype == "string" or np.dtype(str(layout.dtype)).kind in "iuf"
            if not known or any(type(n) is not int or n < 0 for n in (rows, *layout.row)):
                raise ValueError
            if rows > _MOST_ROWS or math.prod(layout.row) > _MOST_VALUES:
                raise ValueError
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, name) from error


def layout_of(name: str, metadata: Mapping[str, Any]) -> Layout:
    """Return the layout an array's ``zarr.json`` describes."""
    rewrites = int(metadata["attributes"].get("rewrites", 0))
    return Layout(name, metadata["data_type"], tuple(metadata["shape"][1:]), rewrites)


Stamp = tuple[int | str, int]


def stamp_of(path: Path) -> Stamp:
    """Return what tells one root ``zarr.json`` from another; zeros where there is none."""
    file = path / "zarr.json"
    try:
        if isinstance(file, ObjectPlace):
            head = file.head()
            return head["e_tag"] or head["version"] or "", int(head["last_modified"].timestamp())
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def groups_above(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of every group above an array."""
    names = {p.as_posix() for n in arrays for p in Path(n).parents if p != Path()}
    return {n: {"attributes": {}, "zarr_format": 3, "node_type": "group"} for n in sorted(names)}


def root_of(state: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """Return the root ``zarr.json`` of a commit: its state, and the metadata of every array."""
    return as_json(
        {
            "attributes": {"embedstore": state},
            "zarr_format": 3,
            "node_type": "group",
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                # sorted: zarr-python takes siblings that do not stand together for missing
                "metadata": dict(sorted({**groups_above(arrays), **arrays}.items())),
            },
        }
    )


def as_json(value: object) -> bytes:
    """Return a value as the text of a ``zarr.json``."""
    return json.dumps(value, indent=1).encode()
