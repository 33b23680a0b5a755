"""A split in a file: who is tested when, for every head, prompt and fine-tune alike.

Plain JSON: ``format``, ``kind``, ``by``, ``label``, ``ids`` and for each repeat its ``seed``,
``method`` and ``fold`` (one number an id: the fold that tests it, -1 training only, -2 validation,
-3 outside) and ``counts`` (of images by fold and class), and a ``fingerprint`` of who stands where.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError, UsageError
from embedstore.levels import Units
from embedstore.output import put
from embedstore.types import OUTSIDE, Embeddings, Split, fingerprint

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedSplit:
    """A split with all its repeats, and how it came about."""

    kind: str
    by: str
    label: str
    splits: tuple[Split, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of who stands where in every repeat; of one, the split's own."""
        return fingerprint_of(self.splits)

    def on(self, embeddings: Embeddings) -> tuple[list[Split], tuple[str, ...]]:
        """Return the splits row for row of these embeddings, and what is to be said.

        Images the split does not name stand outside.

        Raises
        ------
        DataError
            It names none of them, or nothing of them is tested or learnt from.
        """
        ids = self.splits[0].ids
        places = {name: i for i, name in enumerate(ids.tolist())}
        at = np.array([places.get(name, -1) for name in embeddings.ids.tolist()])
        if (at < 0).all():
            raise DataError(
                "the split names none of these images, so it is of another store: make one of "
                "this with `embedstore split`"
            )
        notes = []
        if strange := int((at < 0).sum()):
            notes.append(f"{strange} images that the split does not name are left out")
        if gone := len(ids) - len(embeddings) + strange:
            notes.append(f"{gone} images of the split are not among those with a label and vector")
        out = []
        for split in self.splits:
            fold = np.where(at >= 0, split.fold[at], OUTSIDE).astype(np.intp)
            made = Split(split.method, embeddings.ids, fold, split.seed)
            if fold.max() < 0 or any(not len(a) or not len(b) for a, b in made):
                raise DataError(
                    "of the images with a label and vector, the split leaves a side of a fold "
                    "empty: make it anew with `embedstore split`"
                )
            out.append(made)
        return out, tuple(notes)

    def at(self, of: Units, ids: NDArray[np.str_]) -> SavedSplit:
        """Return the split of the units that the images of these (n,) ids belong to.

        A unit of which some images are tested is tested.
        """
        places = {name: i for i, name in enumerate(self.splits[0].ids.tolist())}
        at = np.array([places.get(name, -1) for name in ids.tolist()])
        splits = []
        for split in self.splits:
            fold = np.full(len(of.ids), OUTSIDE)
            np.maximum.at(fold, of.of, np.where(at >= 0, split.fold[at], OUTSIDE))
            splits.append(Split(split.method, of.ids, fold, split.seed))
        return SavedSplit(self.kind, self.by, self.label, tuple(splits))

    def save(self, file: Path | str, labels: NDArray[np.str_], force: bool = False) -> None:
        """Write the file, in one step; one that is there is replaced only with `force`.

        It is the same, byte by byte, for any order of the rows.

        Parameters
        ----------
        labels
            (n,) str, which are counted.
        """
        order = np.argsort(self.splits[0].ids)
        described = {
            "format": FORMAT,
            "kind": self.kind,
            "by": self.by,
            "label": self.label,
            "fingerprint": self.fingerprint,
            "repeats": [
                {
                    "seed": s.seed,
                    "method": s.method,
                    "counts": _counts(s, labels),
                    "fold": s.fold[order].tolist(),
                }
                for s in self.splits
            ],
            "ids": self.splits[0].ids[order].tolist(),
        }
        with put(Path(file), force) as fresh:
            fresh.write_text(json.dumps(described) + "\n")


def fingerprint_of(splits: Sequence[Split]) -> str:
    """Hash who stands where in one split, or in several repeats."""
    own = [split.fingerprint for split in splits]
    return own[0] if len(own) == 1 else fingerprint(own)


def _counts(split: Split, labels: NDArray[np.str_]) -> dict[str, dict[str, int]]:
    folds = np.unique(split.fold).tolist()
    return {str(k): dict(sorted(Counter(labels[split.fold == k].tolist()).items())) for k in folds}


def load_split(file: Path | str) -> SavedSplit:
    """Read what `SavedSplit.save` wrote.

    Raises
    ------
    UsageError
        There is no such file, or it is no split, of a newer format, or changed since.
    """
    try:
        told = json.loads(Path(file).read_text())
        if told["format"] != FORMAT:
            raise UsageError(
                f"{file}: is of split format {told['format']}, and this embedstore reads "
                f"{FORMAT}: use a newer one, or make the split anew"
            )
        ids = np.array(told["ids"], dtype=str)
        splits = tuple(
            Split(r["method"], ids, np.array(r["fold"], dtype=np.intp), int(r["seed"]))
            for r in told["repeats"]
        )
        saved = SavedSplit(told["kind"], told["by"], told["label"], splits)
        if len(set(told["ids"])) < len(ids) or not splits or not len(ids):
            raise ValueError("no ids, or one twice")
        if saved.fingerprint != told["fingerprint"]:
            raise UsageError(
                f"{file}: changed since it was made; make it anew with `embedstore split --force`"
            )
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such split; make one with `embedstore split`") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{file}: not a split made by `embedstore split`, or damaged") from error
    return saved
