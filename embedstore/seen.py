"""Pictures of samples as a model saw them, for the screen: out of the store, or made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedstore.errors import ImageError
from embedstore.images.dicom_tags import tags
from embedstore.images.prepare import Prepared, prepare
from embedstore.places import place
from embedstore.readers import read_each
from embedstore.report.sheet import shown
from embedstore.store import Store
from embedstore.types import Pixels, Recipe, Spec

_WORKERS = 2


def seen(store: Store, spec: Spec, rows: Sequence[int]) -> list[Pixels | str]:
    """Return the pictures that the vectors of samples were made of.

    A picture kept in the store (``extract --keep-pixels``) is taken as it is. Else the file is
    read and prepared once more, in a process of its own, and must hold the bytes it held then.

    Parameters
    ----------
    rows
        Raw row numbers of samples; one may come several times and is read once.

    Returns
    -------
    list
        For each row (h, w) or (h, w, 3) uint8, 0 to 255 being the full range of what the recipe
        makes; or in a few words why there is none.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    wanted = list(dict.fromkeys(int(row) for row in rows))
    digests = _digests(store, spec, wanted)
    found: dict[int, Pixels | str] = {
        row: f"there is no vector of {spec.backbone}" for row in wanted if row not in digests
    }
    found |= _kept(store, spec.recipe, digests)
    found |= _made_again(store, spec.recipe, {r: d for r, d in digests.items() if r not in found})
    return [found[int(row)] for row in rows]


def _digests(store: Store, spec: Spec, wanted: Sequence[int]) -> dict[int, bytes]:
    """Map raw rows to the digest of the file their vector was made of."""
    rows, places = store.aligned(spec)
    mask = np.isin(rows, wanted)
    digests = store.array(f"embeddings/{spec.key}/digests", places[mask])
    return dict(zip(rows[mask].tolist(), map(bytes, digests), strict=True))


def _kept(store: Store, recipe: Recipe, digests: dict[int, bytes]) -> dict[int, Pixels | str]:
    kept = store.kept(recipe)
    rows = [row for row in kept.rows.tolist() if row in digests]
    pairs = zip(rows, kept.read(rows), strict=True)
    return {row: _on_screen(k.picture) for row, k in pairs if k.digest == digests[row]}


def _made_again(store: Store, recipe: Recipe, digests: dict[int, bytes]) -> dict[int, Pixels | str]:
    at = np.array(list(digests), dtype=np.intp)
    paths: list[str] = store.array("samples/path", at).tolist()
    ids: list[str] = store.array("samples/id", at).tolist()
    found: dict[int, Pixels | str] = dict.fromkeys(digests, "the store does not keep the path")
    files = {row: (p, i) for row, p, i in zip(digests, paths, ids, strict=True) if p}
    jobs = [(place(path), sample_id, recipe) for path, sample_id in files.values()]
    for (row, (path, _)), made in zip(
        files.items(), read_each(_prepared, jobs, _WORKERS), strict=True
    ):
        found[row] = _checked(made, digests[row], path)
    return found


def _checked(made: Prepared | ImageError, digest: bytes, path: str) -> Pixels | str:
    if isinstance(made, ImageError):
        return f"{made.reason}: {path}"
    if made.digest != digest:
        return f"the file has changed since it was embedded: {path}"
    return _on_screen(made.pictures[0])


def _prepared(path: Path, sample_id: str, recipe: Recipe) -> Prepared:
    """Prepare one image; what a reader process does."""
    if not path.exists():
        elsewhere = "" if path.is_absolute() else " from here (extract ran in another folder?)"
        raise ImageError("read", f"no such file{elsewhere}")
    return prepare(path, _frame(path, sample_id), [recipe])


def _frame(path: Path, sample_id: str) -> int:
    """Return which frame of its file a sample is: its id says so, where there are several."""
    number = sample_id.rpartition("#")[2] if "#" in sample_id else ""
    if not (number.isascii() and number.isdigit()):
        return 0
    try:
        return int(number) if tags(path).frames > 1 else 0
    except ImageError:
        return 0


def _on_screen(picture: Pixels) -> Pixels:
    return shown(picture, 0, float(np.iinfo(picture.dtype).max))
