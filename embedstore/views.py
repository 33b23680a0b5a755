"""Laterality and view of a DICOM archive's images, from the picture where the tags do not say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embedstore.archive import Archive, prefer_presentation
from embedstore.errors import ImageError
from embedstore.images.anatomy import laterality, view
from embedstore.images.decode import read
from embedstore.images.mammogram import WORKING_SIDE, find
from embedstore.readers import SECONDS, read_each


def look(path: Path) -> tuple[str, str]:
    """Tell laterality and view of a mammogram by its outline, "" where it cannot be told.

    Raises
    ------
    ImageError
        The file cannot be used.
    """
    _, image = read(path)
    halvings = max(0, math.floor(math.log2(max(image.shape) / WORKING_SIDE)))
    pixels = image.pixels(halvings=halvings)
    if pixels.ndim == 3:
        return "", ""
    found = find(pixels)
    return laterality(found), view(found)


def complete(
    archive: Archive,
    workers: int = 2,
    seconds: float = SECONDS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Archive:
    """Fill in what the tags of mammograms leave open; a note counts it.

    `workers` and `seconds` are those of `read_each`. Images that turn out to be there "for
    presentation" too are left out.
    """
    pairs = zip(archive.samples, archive.tags, strict=True)
    gaps = [
        n
        for n, (sample, tags) in enumerate(pairs)
        if tags.modality == "MG" and not (sample.laterality and sample.view)
    ]
    if not gaps:
        return archive
    samples, tags, told = list(archive.samples), list(archive.tags), 0
    looks = read_each(look, [(samples[n].path,) for n in gaps], workers, seconds)
    for done, (n, seen) in enumerate(zip(gaps, looks, strict=True), 1):
        if not isinstance(seen, ImageError):
            side, way = samples[n].laterality or seen[0], samples[n].view or seen[1]
            samples[n] = replace(samples[n], laterality=side, view=way)
            tags[n] = replace(tags[n], laterality=side, view=way)
        told += bool(samples[n].laterality and samples[n].view)
        on_progress(done, len(gaps))
    what = "laterality or view not in the tags"
    notes = [f"{what} of {len(gaps)} images: taken from the picture, in full of {told}"]
    kept = prefer_presentation(list(zip(samples, tags, strict=True)), notes)
    return replace(
        archive,
        samples=tuple(s for s, _ in kept),
        tags=tuple(t for _, t in kept),
        notes=(*archive.notes, *(n for n in notes if "raw detector" not in n)),
    )
