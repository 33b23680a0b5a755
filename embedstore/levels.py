"""From images to what is asked about: a view, a breast, an exam, a patient.

Either the vectors of a unit's images are fused before a head sees them, or a head answers image by
image and its probabilities are averaged. Left and right are never averaged unseen: see `Sides`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.blocks import Blocks
from embedstore.distinct import distinct
from embedstore.errors import DataError
from embedstore.results import Sides
from embedstore.splits import linked
from embedstore.types import Embeddings

LEVELS = ("image", "view", "breast", "exam", "patient")
FUSIONS = ("probabilities", "mean", "max", "concat")

_PARTS = {
    "image": ("id",),
    "view": ("exam", "laterality", "view"),
    "breast": ("exam", "laterality"),
    "exam": ("exam",),
    "patient": ("patient",),
}
_SHOWN = 3
_SUMMED = 1 << 14  # rows at a time


@dataclass(frozen=True, slots=True)
class Units:
    """What images belong to: `ids` (u,) str, and `of` (n,), the number of each image's unit."""

    level: str
    ids: NDArray[np.str_]
    of: NDArray[np.intp]

    def agreed(self, values: NDArray[np.str_]) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
        """(n,) values to the (u,) all known ones of a unit have, "" where there is none.

        Also returns in which units, (u,), they differ.
        """
        known = np.flatnonzero(values != "")
        first = np.full(len(self.ids), "", dtype=values.dtype)
        first[self.of[known][::-1]] = values[known][::-1]
        differ = np.zeros(len(self.ids), dtype=bool)
        differ[self.of[known[values[known] != first[self.of[known]]]]] = True
        return np.where(differ, "", first), differ

    def mean(self, values: NDArray[Any] | Blocks, taken: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(n, k) values to their (u, k) means over the images `taken`, (n,); 0 where none is."""
        sums = np.zeros((len(self.ids), values.shape[1]))
        rows = np.flatnonzero(taken)
        for start in range(0, len(rows), _SUMMED):
            some = rows[start : start + _SUMMED]
            np.add.at(sums, self.of[some], values[some])
        counts = np.bincount(self.of[taken], minlength=len(self.ids))
        return sums / np.maximum(counts, 1)[:, None]


def units(embeddings: Embeddings, level: str) -> Units:
    """Find the views, breasts, exams or patients that images are of.

    An image without an exam belongs to its patient's only one.

    Raises
    ------
    DataError
        What the level is made of is unknown for every image.
    """
    n = len(embeddings)
    unknown = np.full(n, "")
    of = {name: embeddings.columns.get(name, unknown) for name in ("exam", "laterality", "view")}
    patients = np.where(embeddings.groups != "", embeddings.groups, embeddings.ids)
    for part in _PARTS[level]:
        if part in of and not (of[part] != "").any():
            raise DataError(
                f"no image has a known {part}, which --level {level} needs: give the column when "
                f"extracting (--column {part}=NAME), or score another level"
            )
    exams = np.where(of["exam"] != "", of["exam"], patients)
    columns = {**of, "exam": exams, "patient": patients, "id": embeddings.ids}
    of_unit = np.zeros(n, dtype=np.intp)
    for part in _PARTS[level]:  # units in the order of their parts
        names, number = distinct(columns[part])
        _, of_unit = np.unique(of_unit * len(names) + number, return_inverse=True)
    _, first = np.unique(of_unit, return_index=True)
    known = zip(*(columns[p][first].tolist() for p in _PARTS[level]), strict=True)
    return Units(level, np.array([" ".join(filter(None, unit)) for unit in known]), of_unit)


def fused(embeddings: Embeddings, of: Units, how: str) -> tuple[Embeddings, tuple[str, ...]]:
    """Fuse the vectors of each unit's images into one; also return what is to be said.

    The mean, the element-wise maximum, or the means of each side and view one after the other
    ("concat", of units that have all of them). Columns keep what all images of a unit agree on.
    The Spec says how it was fused, so that such vectors never meet others.
    """
    notes: tuple[str, ...] = ()
    if how == "concat":
        vectors, whole, slots = _concatenated(embeddings, of)
        pooling, dim = f"concat of {', '.join(slots)}", vectors.shape[1]
        if missing := int((~whole).sum()):
            notes = (f"{missing} {of.level}s without all of {', '.join(slots)} left out",)
    else:
        vectors, whole = _pooled(embeddings.vectors, of, how), np.ones(len(of.ids), dtype=bool)
        pooling, dim = f"{how}", embeddings.spec.dim
    spec = replace(
        embeddings.spec,
        pooling=f"{embeddings.spec.pooling}, {pooling} by {of.level}".lstrip(", "),
        dim=dim,
        dtype="float32",
    )
    columns = {name: of.agreed(values)[0] for name, values in embeddings.columns.items()}
    groups = of.agreed(linked(embeddings).astype(str))[0]
    made = Embeddings(spec, of.ids, vectors, groups, _digests(embeddings, of), columns)
    return made.take(whole), notes


def _pooled(vectors: Any, of: Units, how: str) -> NDArray[np.float32]:
    if how == "mean":
        return of.mean(vectors, np.ones(len(vectors), dtype=bool)).astype(np.float32)
    most = np.full((len(of.ids), vectors.shape[1]), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), _SUMMED):
        some = slice(start, start + _SUMMED)
        np.maximum.at(most, of.of[some], vectors[some].astype(np.float32))
    return most


def _concatenated(
    embeddings: Embeddings, of: Units
) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[str]]:
    """Put the means of each side and view side by side; also which units have all, and names."""
    unknown = np.full(len(embeddings), "")
    names = [n for n in ("laterality", "view") if n not in _PARTS[of.level]]
    parts = [embeddings.columns.get(n, unknown).tolist() for n in names]
    parts = [p for p in parts if any(p)]
    whole_names = [" ".join(pair) if all(pair) else "" for pair in zip(*parts, strict=True)]
    slots = np.array(whole_names or [""] * len(embeddings))
    found = [s for s in np.unique(slots).tolist() if s]
    if len(found) < 2:
        raise DataError(
            f"a {of.level} has no several sides or views to put side by side; use --fuse mean"
        )
    blocks = [of.mean(embeddings.vectors, slots == s) for s in found]
    has = [np.bincount(of.of[slots == s], minlength=len(of.ids)) > 0 for s in found]
    whole = np.all(has, axis=0)
    if not whole.any():
        raise DataError(f"no {of.level} has all of {', '.join(found)}; use --fuse mean")
    return np.concatenate(blocks, axis=1).astype(np.float32), whole, found


def _digests(embeddings: Embeddings, of: Units) -> NDArray[np.uint8]:
    """(u, 16): a hash of the digests of each unit's files, whatever their order."""
    order = np.argsort(of.of, kind="stable")
    ends = np.cumsum(np.bincount(of.of, minlength=len(of.ids)))[:-1]
    hashes = [
        hashlib.sha256(b"".join(sorted(d.tobytes() for d in digests))).digest()[:16]
        for digests in np.split(embeddings.digests[order], ends)
    ]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 16)


def sides(
    embeddings: Embeddings,
    of: Units,
    answers: NDArray[np.float64],
    tested: NDArray[np.bool_],
    classes: tuple[str, ...],
) -> Sides | None:
    """Set the answers for the left and the right of each exam or patient against each other.

    None at other levels, and where no unit has both sides tested.
    """
    laterality = embeddings.columns.get("laterality", np.full(len(embeddings), ""))
    if of.level not in {"exam", "patient"}:
        return None
    taken = [tested & np.char.startswith(np.char.upper(laterality), side) for side in "LR"]
    both = np.all([np.bincount(of.of[t], minlength=len(of.ids)) > 0 for t in taken], axis=0)
    if not both.any():
        return None
    left, right = (of.mean(answers, t)[both].argmax(axis=1) for t in taken)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (left, right), 1)
    apart = of.ids[both][left != right]
    return Sides(tuple(tuple(map(int, row)) for row in counts), tuple(map(str, apart.tolist())))


def missing_notes(embeddings: Embeddings, level: str) -> tuple[str, ...]:
    """Say how many images lack a part of what the level is made of; they are units by themselves.

    Of the sides and views that "concat" puts side by side, they are none.
    """
    notes = []
    for part in ("laterality", "view"):
        values = embeddings.columns.get(part, np.full(len(embeddings), ""))
        missing = int((values == "").sum())
        if missing and part in _PARTS[level]:
            notes.append(f"{missing} images without a {part} are taken for a {level} of their own")
        elif 0 < missing < len(values) and part == "laterality":
            notes.append(f"{missing} images without a laterality are of neither side")
    return tuple(notes)


def differing_note(of: Units, differ: NDArray[np.bool_], label: str) -> tuple[str, ...]:
    """Say which units were left out because their images have different labels."""
    if not differ.any():
        return ()
    some = ", ".join(map(str, of.ids[differ][:_SHOWN].tolist()))
    finer = " (--level breast keeps the sides apart)" if of.level in {"exam", "patient"} else ""
    return (
        f"{label} differs between the images of {int(differ.sum())} {of.level}s, which are left "
        f"out{finer}: {some}{' …' if differ.sum() > _SHOWN else ''}",
    )
