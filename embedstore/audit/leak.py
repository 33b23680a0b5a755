"""Whether something stands on both sides of a split, or would whatever the split by patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.audit.findings import Evidence, Finding, Level, Section
from embedstore.audit.neighbours import Near, Pair
from embedstore.leaks import leaks
from embedstore.types import TRAIN, Embeddings, Split


def leak(
    images: Embeddings, splits: Sequence[Split], near: Near | None, pairs: Sequence[Pair]
) -> Section:
    """Look for patients, exams, files and near-identical images that stand on both sides.

    Without splits: for images of several patients that no split by patient keeps apart.
    """
    shared = _shared(images, splits) if splits else _several_patients(images)
    return Section("Leak", (*shared, *_near(images, splits, near, pairs)))


def _shared(images: Embeddings, splits: Sequence[Split]) -> tuple[Finding, ...]:
    found = next((found for split in splits if (found := leaks(images, split))), [])
    if not found:
        return (Finding("fine", "no patient, exam or identical file on both sides of the split"),)
    return tuple(
        Finding("wrong", str(one), tuple({"tested": a, "learnt from": b} for a, b in one.pairs))
        for one in found
    )


def _several_patients(images: Embeddings) -> tuple[Finding, ...]:
    """Find identical files that are said to be of several patients."""
    evidence = []
    for rows in alike(images.digests):
        patients = sorted(set(images.groups[rows].tolist()) - {""})
        if len(patients) > 1:
            evidence.append(named(images, rows))
    said = "no split given: probe's own keeps patients, exams and identical files together"
    if not evidence:
        return (Finding("fine", said),)
    text = f"{len(evidence)} files are there under the names of several patients"
    return Finding("fine", said), Finding("wrong", text, tuple(evidence))


def _near(
    images: Embeddings, splits: Sequence[Split], near: Near | None, pairs: Sequence[Pair]
) -> tuple[Finding, ...]:
    if near is None:
        return (Finding("fine", "near-identical images: not judged, there are too few patients"),)
    where = "of different patients" + (" on both sides of the split" if splits else "")
    apart = [p for p in pairs if not splits or any(_crosses(p, split) for split in splits)]
    kinds: tuple[tuple[Level, bool, str], ...] = (
        ("wrong", True, "near-identical,"),
        ("look at", False, "nearer than chance allows,"),
    )
    out = []
    for level, certain, what in kinds:
        if some := [p for p in apart if p.certain is certain]:
            lines = tuple(described(images, p) for p in some)
            out.append(Finding(level, f"{_pairs(len(some))} of images {what} {where}", lines))
    compared = f"{len(near.at)} images compared, drawn from {len(images)}"
    drawn = f" ({compared})" if len(near.at) < len(images) else ""
    return tuple(out) or (Finding("fine", f"no near-identical images {where}{drawn}"),)


def _pairs(n: int) -> str:
    return f"{n} pair{'s' if n > 1 else ''}"


def _crosses(pair: Pair, split: Split) -> bool:
    one, other = int(split.fold[pair.one]), int(split.fold[pair.other])
    return one != other and min(one, other) >= TRAIN


def described(images: Embeddings, pair: Pair) -> Evidence:
    """Return both ids, both patients, the cosine, and how near they are for that region."""
    one, other = pair.one, pair.other
    return {
        "id": str(images.ids[one]),
        "and": str(images.ids[other]),
        "cosine": round(pair.cosine, 4),
        "distance / 10th": round(pair.share, 3),
        "patient": str(images.groups[one]) or "unknown",
        "and patient": str(images.groups[other]) or "unknown",
    }


def named(images: Embeddings, rows: NDArray[np.intp]) -> dict[str, str | int | float]:
    """Return the ids of rows and the patients they are of."""
    return {
        "ids": ", ".join(images.ids[rows].tolist()),
        "patients": ", ".join(sorted({g or "unknown" for g in images.groups[rows].tolist()})),
    }


def alike(values: NDArray[Any]) -> Iterator[NDArray[np.intp]]:
    """Yield the rows that are equal, byte for byte, set by set; (n, m) values."""
    whole = np.ascontiguousarray(values)
    width = whole.dtype.itemsize * whole.shape[1]
    _, number, counts = np.unique(
        whole.view(np.dtype((np.void, width))).ravel(), return_inverse=True, return_counts=True
    )
    order = np.argsort(number, kind="stable")
    for rows in np.split(order, np.cumsum(counts)[:-1]):
        if len(rows) > 1:
            yield rows
