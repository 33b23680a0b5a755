"""Images unlike all others, images that show nothing, and images that gave no vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.audit.findings import Evidence, Finding, Section
from embedstore.audit.leak import alike, named
from embedstore.audit.neighbours import Near
from embedstore.kept import KeptPixels
from embedstore.store import Failure
from embedstore.types import Embeddings, Pixels

_FAR = 3.5
"""Modified z score beyond which a value is an outlier (Iglewicz and Hoaglin 1993)."""

_CORE = 0.999
_BLOCK = 256


def strays(
    images: Embeddings, near: Near | None, kept: KeptPixels, failures: Sequence[Failure]
) -> Section:
    """Look for outliers, empty images, equal vectors of different files, and failures."""
    found = (
        _outliers(images, near),
        _empty(images, kept),
        *_equal_vectors(images),
        _failed(failures),
    )
    return Section("Outliers and empty images", found)


def _outliers(images: Embeddings, near: Near | None) -> Finding:
    """Find what is far from its ten nearest images of other patients, on the scale of logs."""
    if near is None:
        return Finding("fine", "outliers: not judged, there are too few patients")
    distance = (1 - near.cosines).mean(axis=1)
    logs = np.log(np.maximum(distance, np.finfo(np.float32).tiny))
    middle = np.median(logs)
    spread = np.median(np.abs(logs - middle))
    z = 0.6745 * (logs - middle) / spread if spread else np.zeros(len(logs))
    far = np.flatnonzero(z > _FAR)
    if not len(far):
        return Finding("fine", "no image is far from the images of all other patients")
    order = far[np.argsort(-z[far], kind="stable")]
    lines: tuple[Evidence, ...] = tuple(
        {
            "id": str(images.ids[near.at[i]]),
            "cosine distance": round(float(distance[i]), 3),
            "robust z": round(float(z[i]), 1),
        }
        for i in order.tolist()
    )
    text = f"{len(far)} images are far from their ten nearest of other patients (z > {_FAR})"
    return Finding("look at", text, lines)


def _empty(images: Embeddings, kept: KeptPixels) -> Finding:
    rows = kept.rows.tolist()
    ids = kept.arrays.array("samples/id", kept.rows).tolist() if rows else []
    wanted = set(images.ids.tolist())
    chosen = [(row, i) for row, i in zip(rows, ids, strict=True) if i in wanted]
    if not chosen:
        text = "pixels are not kept (--keep-pixels): emptiness is judged from vectors alone, below"
        return Finding("fine", text)
    found: list[Evidence] = []
    for start in range(0, len(chosen), _BLOCK):
        block = chosen[start : start + _BLOCK]
        for (_, name), one in zip(block, kept.read([row for row, _ in block]), strict=True):
            if is_empty(one.picture):
                found.append({"id": str(name), "mean level": round(float(one.picture.mean()), 1)})
    judged = f"of {len(chosen)} with kept pixels"
    if not found:
        return Finding("fine", f"no empty images {judged}")
    return Finding("wrong", f"{len(found)} empty images {judged}", tuple(found))


def is_empty(picture: Pixels) -> bool:
    """Whether 99.9 % of the pixels lie within one grey level of 255, the brightest being 255.

    (H, W) or (H, W, 3).
    """
    tail = (1 - _CORE) / 2
    low, high = np.quantile(picture, (tail, 1 - tail))
    return bool(high - low <= max(1.0, float(picture.max()) / 255))


def _equal_vectors(images: Embeddings) -> tuple[Finding, ...]:
    """Find vectors that are equal although their files are not."""
    several: list[NDArray[np.intp]] = [
        rows
        for rows in alike(np.asarray(images.vectors))
        if len(np.unique(images.digests[rows], axis=0)) > 1
    ]
    if not several:
        return (Finding("fine", "no equal vectors of different files"),)
    lines = tuple(named(images, rows) for rows in several)
    patients = any(len(set(images.groups[rows].tolist())) > 1 for rows in several)
    count = sum(map(len, several))
    text = f"{count} different files have vectors equal to another's: empty, or saved anew"
    return (Finding("wrong" if patients else "look at", text, lines),)


def _failed(failures: Sequence[Failure]) -> Finding:
    if not failures:
        return Finding("fine", "no image failed")
    lines = tuple({"id": f.id, "stage": f.stage, "reason": f.reason} for f in failures)
    return Finding("look at", f"{len(failures)} images gave no vector", lines)
