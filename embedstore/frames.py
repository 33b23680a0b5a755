"""Which frames of files that have several (tomosynthesis, series) become samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from embedstore.errors import ImageError, UsageError
from embedstore.images.dicom_tags import tags
from embedstore.types import Sample

MOST_FRAMES = 100_000
"""Frames a file may claim to have; one that claims more is left whole, to fail when it is read."""


def expand(
    samples: Iterable[Sample], choice: str = "first", known: Mapping[Path, int] | None = None
) -> list[Sample]:
    """Make one sample of each chosen frame of the DICOM files that have several.

    Such a sample's id is that of the file's with ``#`` and the frame. A frame that a file does not
    have is kept, to fail when it is read; all other files stay as they are.

    Parameters
    ----------
    samples
        Their files may be of any format.
    choice
        "first" (nothing changes), "middle", a number from 0, or "every:N" (from the first).
    known
        How many frames files have, as `Archive.frames`; other files are looked at.

    Raises
    ------
    UsageError
        `choice` is none of these.
    """
    pick = _picked(choice)
    if pick is None:
        return list(samples)
    known = known or {}
    return [
        one
        for sample in samples
        for one in _of_frames(sample, pick, known.get(sample.path) or _count(sample.path))
    ]


def _picked(choice: str) -> Callable[[int], Sequence[int]] | None:
    """Parse a choice to a function from the number of frames to frames; None for "first"."""
    if choice == "first":
        return None
    if choice == "middle":
        return lambda count: (count // 2,)
    found = re.fullmatch("(every:)?([0-9]{1,9})", choice)
    if not found or (found[1] and not int(found[2])):
        raise UsageError(
            f"frames {choice!r}: give first, middle, a number from 0, or every:N with N from 1"
        )
    number = int(found[2])
    return (lambda count: range(0, count, number)) if found[1] else (lambda count: (number,))


def _count(path: Path) -> int:
    """Count the frames of a file; 1 for what is no DICOM file or cannot be read."""
    try:
        return tags(path).frames
    except ImageError:
        return 1


def _of_frames(
    sample: Sample, pick: Callable[[int], Sequence[int]], count: int
) -> Iterable[Sample]:
    if not 1 < count <= MOST_FRAMES:
        return [sample]
    return [replace(sample, id=f"{sample.id}#{frame}", frame=frame) for frame in pick(count)]
