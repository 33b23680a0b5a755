"""Laterality and view of a DICOM archive's images, from the picture where the tags do not say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embedstore.archive import Archive
from embedstore.errors import ImageError
from embedstore.images.anatomy import laterality, view
from embedstore.images.decode import read
from embedstore.images.mammogram import WORKING_SIDE, find
from embedstore.readers import read_each

_WORKERS = 2


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
    archive: Archive, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Archive:
    """Fill in what the tags of mammograms leave open; a note counts what was taken or not told."""
    pairs = zip(archive.samples, archive.tags, strict=True)
    gaps = [
        n
        for n, (sample, tags) in enumerate(pairs)
        if tags.modality == "MG" and not (sample.laterality and sample.view)
    ]
    if not gaps:
        return archive
    samples, taken = list(archive.samples), 0
    looks = read_each(look, [(samples[n].path,) for n in gaps], min(_WORKERS, len(gaps)))
    for done, (n, seen) in enumerate(zip(gaps, looks, strict=True), 1):
        if not isinstance(seen, ImageError):
            side, way = samples[n].laterality or seen[0], samples[n].view or seen[1]
            samples[n] = replace(samples[n], laterality=side, view=way)
        taken += bool(samples[n].laterality and samples[n].view)
        on_progress(done, len(gaps))
    open_still = f"; {len(gaps) - taken} could not be told" if taken < len(gaps) else ""
    note = f"laterality or view of {taken} of {len(gaps)} images taken from the picture{open_still}"
    return replace(archive, samples=tuple(samples), notes=(*archive.notes, note))
