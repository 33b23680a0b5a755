"""A saved probe's answers, image by image or exam by exam."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import UsageError
from embedstore.fitted import Answers
from embedstore.levels import Units, units
from embedstore.output import put
from embedstore.saved import SavedProbe
from embedstore.types import Embeddings

NO_EXAM = "no image has an exam; leave out --by exam, or add the column"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Probabilities, (n, k), of images or exams.

    `images` counts how many images stand behind each row. `left` and `right` are what the images
    of one side alone say of an exam, (n,) class names, "" where there are none.
    """

    by: str
    ids: NDArray[np.str_]
    images: NDArray[np.intp]
    classes: tuple[str, ...]
    probabilities: Answers
    left: NDArray[np.str_] | None = None
    right: NDArray[np.str_] | None = None

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
    UsageError
        By exam, where no exam is known.
    """
    found = probe.predict(embeddings)
    ones = np.ones(len(embeddings), dtype=np.intp)
    if by == "image":
        return Prediction(by, embeddings.ids, ones, probe.classes, found)
    exams = embeddings.columns.get("exam", np.full(len(embeddings), ""))
    known = exams != ""
    if not known.any():
        raise UsageError(NO_EXAM)
    taken = embeddings.take(known)
    of = units(taken, "exam")
    sides = np.char.upper(taken.columns.get("laterality", np.full(len(taken), "")))
    each = [_answers(of, found[known], np.char.startswith(sides, s), probe.classes) for s in "LR"]
    every = np.ones(len(taken), dtype=bool)
    counts = np.bincount(of.of).astype(np.intp)
    return Prediction(by, of.ids, counts, probe.classes, of.mean(found[known], every), *each)


def _answers(
    of: Units, found: Answers, taken: NDArray[np.bool_], classes: tuple[str, ...]
) -> NDArray[np.str_]:
    """(u,) the most probable class of the images taken, "" where there is none."""
    named = np.array(classes)[of.mean(found, taken).argmax(axis=1)]
    there = np.bincount(of.of[taken], minlength=len(of.ids)) > 0
    return np.where(there, named, "")


def rows(found: Prediction) -> list[dict[str, Any]]:
    """Return one mapping a row: id, images, answer, and a probability for each class."""
    return [
        {
            "id": str(found.ids[i]),
            "images": int(found.images[i]),
            "answer": answer,
            **_of_sides(found, i),
            "probabilities": dict(
                zip(found.classes, found.probabilities[i].round(6).tolist(), strict=True)
            ),
        }
        for i, answer in enumerate(found.answers)
    ]


def _of_sides(found: Prediction, row: int) -> dict[str, str]:
    if found.left is None or found.right is None:
        return {}
    return {"left": str(found.left[row]), "right": str(found.right[row])}


def write_csv(found: Prediction, path: Path, force: bool = False) -> None:
    """Write id, images, answer, of exams the answers of each side, and ``p_CLASS`` columns.

    Raises
    ------
    UsageError
        Something is there already, and not `force`.
    """
    import polars as pl

    columns = {f"p_{name}": found.probabilities[:, i] for i, name in enumerate(found.classes)}
    table = {"id": found.ids.tolist(), "images": found.images, "answer": found.answers}
    if found.left is not None and found.right is not None:
        table |= {"left": found.left.tolist(), "right": found.right.tolist()}
    table |= columns
    with put(path, force) as fresh:
        pl.DataFrame(table).write_csv(fresh)
