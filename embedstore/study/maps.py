"""The vectors of a backbone in two dimensions, with small pictures where the store keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedstore.plane import laid_out
from embedstore.protocol import labelled
from embedstore.store import Store
from embedstore.study.results import Result, texts_to
from embedstore.study.work import Bench, Piece, Show
from embedstore.types import Embeddings, Floats, Pixels, Spec

MOST = 2000
"""Points of a map: more are drawn over each other."""

SIDE = 48
"""Height and width of a small picture, pixels."""


def embedding_map(bench: Bench, spec: Spec) -> Piece:
    """Make a piece of a map."""
    key = bench.key("map", spec, most=MOST, side=SIDE)

    def do(show: Show) -> Result:
        images, labels, _ = labelled(bench.read(spec), bench.label)
        rows = drawn(len(images), bench.how.seed)
        places, how = flat(images.unit(), rows, bench.how.seed)
        arrays: dict[str, NDArray[Any]] = {
            "places": places,
            "ids": texts_to(images.ids[rows].tolist()),
            "labels": texts_to(labels[rows].tolist()),
        }
        pictures = _pictures(bench.store, spec, images.take(rows))
        if pictures is not None:
            arrays["pictures"] = pictures
        return Result({"backbone": spec.backbone, "how": how}, arrays)

    return Piece("map", f"{spec.backbone} {spec.key}", spec, key, "maps", do)


def drawn(n: int, seed: int) -> NDArray[np.intp]:
    """Row numbers of at most `MOST` of n images, ascending."""
    if n <= MOST:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, MOST, replace=False))


def flat(unit: Floats, rows: NDArray[np.intp], seed: int) -> tuple[Floats, str]:
    """Lay rows of (n, d) unit vectors out in two dimensions, (m, 2) in 0..1; also say how."""
    places, how = laid_out(unit[rows], seed)
    low, high = places.min(axis=0), places.max(axis=0)
    scaled: Floats = ((places - low) / np.where(high > low, high - low, 1)).astype(np.float32)
    drawn_by = f"of unit vectors of {len(rows)} of {len(unit)} images, drawn by seed {seed}"
    return scaled, f"{how} {drawn_by}; distances between groups mean little"


def _pictures(store: Store, spec: Spec, images: Embeddings) -> NDArray[np.uint8] | None:
    """(n, SIDE, SIDE) small grey pictures; None unless the store keeps all of them."""
    kept = store.kept(spec.recipe)
    known = dict(
        zip(store.array("samples/id", kept.rows).tolist(), kept.rows.tolist(), strict=True)
    )
    if not all(i in known for i in images.ids.tolist()):
        return None
    rows = [known[i] for i in images.ids.tolist()]
    return np.stack([small(one.picture) for one in kept.read(rows)])


def small(picture: Pixels) -> NDArray[np.uint8]:
    """(h, w) or (h, w, 3) of either depth to (SIDE, SIDE) uint8."""
    grey = picture.astype(np.float32) / np.float32(np.iinfo(picture.dtype).max) * 255
    if grey.ndim == 3:
        grey = grey.mean(axis=2)
    sized = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    shown: NDArray[np.uint8] = np.rint(np.asarray(sized)).clip(0, 255).astype(np.uint8)
    return shown
