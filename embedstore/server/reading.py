"""What a reader process makes of an upload; it ends with it, so that nothing is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedstore.errors import ImageError
from embedstore.images.dicom_tags import tags
from embedstore.images.prepare import prepare
from embedstore.types import Pixels, Recipe


@dataclass(frozen=True, slots=True)
class Read:
    """A picture as the recipe made it, half of the file's sha256, and DICOM's patient or ""."""

    picture: Pixels
    digest: bytes
    patient: str


def read(path: Path, recipe: Recipe) -> Read:
    """Read and prepare one file.

    Raises
    ------
    ImageError
        It cannot be used.
    """
    prepared = prepare(path, 0, [recipe])
    try:
        patient = tags(path).patient_id
    except ImageError:
        patient = ""  # not DICOM: it says nothing of the patient
    return Read(prepared.pictures[0], prepared.digest, patient)
