"""One folder with everything a model needs on a machine without internet, and the proof of it.

A bundle is a folder in the hub's own format (open_clip's or timm's) with safetensors weights, the
text tower's ``config.json``, and `NOTE`: licence, sha256 of every file, and golden values, so
that `verify` can tell on another machine whether the whole path gives the same numbers, and which
part does not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from embedstore.backbones import NOTE, load_backbone
from embedstore.backbones.catalogue import licence_of
from embedstore.backbones.golden import measure
from embedstore.errors import BackboneError, UsageError
from embedstore.images.recipe import RECIPES
from embedstore.phantoms import films, render
from embedstore.types import Backbone

GOLDEN = "golden"
FORMAT = 1


def bundle(name: str, target: Path) -> Path:
    """Write the bundle of a backbone into a new folder and return it.

    Raises
    ------
    UsageError
        The backbone has no weights to bundle, or the folder is not empty.
    BackboneError
        The weights cannot be had.
    """
    if target.exists() and any(target.iterdir()):
        raise UsageError(f"{target}: not empty; give a new folder")
    backbone = load_backbone(name)
    export: Callable[[Path], None] | None = getattr(backbone, "export", None)
    if export is None:
        raise UsageError(f"{name} has no weights to bundle")
    target.mkdir(parents=True, exist_ok=True)
    try:
        export(target)
        _golden_images(target / GOLDEN)
        _write_note(target, backbone, licence_of(name))
    except BaseException:
        shutil.rmtree(target)
        raise
    return target


def file_hashes(folder: Path) -> dict[str, str]:
    """Map each file of a bundle, but for the note itself, to its sha256."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NOTE)
    return {p.relative_to(folder).as_posix(): _sha256(p) for p in files}


def read_note(folder: Path) -> dict[str, Any]:
    """Return a bundle's note; `BackboneError` where the folder is no bundle."""
    try:
        note: dict[str, Any] = json.loads((folder / NOTE).read_text())
        version = note["format"]
    except FileNotFoundError as error:
        raise BackboneError(
            f"{folder}: not a bundle ({NOTE} is missing); make one with `embedstore backbones "
            f"bundle`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{folder / NOTE}: damaged") from error
    if version != FORMAT:
        raise BackboneError(f"{folder}: bundle format {version}; this embedstore reads {FORMAT}")
    return note


def _write_note(folder: Path, backbone: Backbone, licence: str) -> None:
    hashes = file_hashes(folder)
    # from the folder as it will be loaded, not from the model in memory
    carried = load_backbone(str(folder), RECIPES["plain"])
    golden = measure(carried, sorted((folder / GOLDEN).glob("*.png")))
    note = {
        "format": FORMAT,
        "name": backbone.spec.backbone,
        "licence": licence,
        "dim": backbone.spec.dim,
        "text": backbone.spec.text,
        "files": hashes,
        "golden": golden,
    }
    (folder / NOTE).write_text(json.dumps(note, indent=1) + "\n")


def _golden_images(folder: Path) -> None:
    """Write two synthetic films, 8 bit, and one of 16 bit."""
    folder.mkdir()
    chosen = films(3, seed=20)
    for number, film in enumerate((chosen[1], chosen[7], chosen[9])):
        # not square, so that another way of resizing shows
        pixels = render(film, 256)[:, : 200 + 20 * number]
        if number == 2:
            Image.fromarray(pixels.astype("uint16") * 16).save(folder / f"{number}.png")
        else:
            Image.fromarray(pixels).save(folder / f"{number}.png")


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
