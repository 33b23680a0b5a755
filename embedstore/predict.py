"""A saved probe's answers, image by image or exam by exam."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError
from embedstore.fitted import Answers
from embedstore.output import put
from embedstore.saved import SavedProbe
from embedstore.types import Embeddings


@dataclass(frozen=True, slots=True)
class Prediction:
    """Probabilities, (n, k), of images or exams.

    `images` counts how many images stand behind each row.
    """

    by: str
    ids: NDArray[np.str_]
    images: NDArray[np.intp]
    classes: tuple[str, ...]
    probabilities: Answers

    @property
    def answers(self) -> list[str]:
        """The most probable class of each."""
        return [self.classes[i] for i in self.probabilities.argmax(axis=1)]


def predictions(probe: SavedProbe, embeddings: Embeddings, by: str = "image") -> Prediction:
    """Apply a probe to vectors of its Spec; of an exam, average its images' probabilities.

    Raises
    ------
    SpecMismatch
        The vectors are of another Spec.
    DataError
        By exam, where no exam is known.
    """
    found = probe.predict(embeddings)
    ones = np.ones(len(embeddings), dtype=np.intp)
    if by == "image":
        return Prediction(by, embeddings.ids, ones, probe.classes, found)
    exams = embeddings.columns.get("exam", np.full(len(embeddings), ""))
    known = exams != ""
    if not known.any():
        raise DataError("no image has an exam; leave out --by exam, or add the column")
    names, which, counts = np.unique(exams[known], return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), len(probe.classes)))
    np.add.at(sums, which, found[known])
    return Prediction(by, names, counts.astype(np.intp), probe.classes, sums / counts[:, None])


def rows(found: Prediction) -> list[dict[str, Any]]:
    """Return one mapping a row: id, images, answer, and a probability for each class."""
    return [
        {
            "id": str(found.ids[i]),
            "images": int(found.images[i]),
            "answer": answer,
            "probabilities": dict(
                zip(found.classes, found.probabilities[i].round(6).tolist(), strict=True)
            ),
        }
        for i, answer in enumerate(found.answers)
    ]


def write_csv(found: Prediction, path: Path) -> None:
    """Write id, images, answer and ``p_CLASS`` columns."""
    import polars as pl

    columns = {f"p_{name}": found.probabilities[:, i] for i, name in enumerate(found.classes)}
    table = {"id": found.ids.tolist(), "images": found.images, "answer": found.answers, **columns}
    with put(path, replace=True) as fresh:
        pl.DataFrame(table).write_csv(fresh)
