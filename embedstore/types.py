"""The types every stage takes and gives: samples, recipes, specs, embeddings, splits.

Nothing here imports torch, scikit-learn or FAISS: these types cross every border cheaply.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.blocks import Blocks, part
from embedstore.errors import DataError, SpecMismatch

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Floats = NDArray[np.float32]
Resize = Literal["pad", "squash", "centre-crop"]

_HASHED = 1 << 18
TRAIN, VALIDATION, OUTSIDE = -1, -2, -3
"""What stands in a split for an image that no fold tests."""


def fingerprint(value: object) -> str:
    """Hash any JSON-able value to 12 hex digits, the same on every machine and Python."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def unit_rows(vectors: NDArray[np.floating[Any]]) -> Floats:
    """Scale each row of (n, d) to Euclidean length 1, in float32; a zero row stays zero."""
    rows = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    norms[norms == 0] = 1
    unit: Floats = np.divide(rows, norms, dtype=np.float32)
    return unit


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it.

    Attributes
    ----------
    path
        The file; where it is `private` it may name the patient, and is never stored.
    group
        The patient, "" where it is not known.
    frame
        Which frame of a DICOM file of several, from 0.
    """

    id: str
    path: Path
    group: str = ""
    exam: str = ""
    view: str = ""
    laterality: str = ""
    split: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    frame: int = 0
    private: bool = False

    @property
    def shown_path(self) -> str:
        """The path as it may be stored and said: "" where private, odd bytes of names escaped."""
        if self.private:
            return ""
        return os.fsencode(str(self.path)).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything between an image file and the tensor a backbone takes.

    Attributes
    ----------
    window
        Which VOI LUT or window of a DICOM file that has several, from 0.
    exact
        Decode every pixel. False lets a large file be decoded at a half, a quarter, … of its size
        as long as what the recipe keeps of it still shrinks by 1.25 or more to `size`: on
        mammograms less than 4 of 255 grey levels off in the mean (`docs/dicom.md`).
    polarity
        "auto" turns a film with a bright background; "keep" leaves it.
    crop
        "breast" cuts to the breast and sets what lies outside it to zero; "none" keeps the frame.
    flip
        Side the chest wall is put on, or "none".
    scale
        Grey levels to 0..1: "dtype" divides by the type's largest value; "auto" does so for
        8 bit and stretches deeper images from their own minimum to their own maximum; "resized"
        does the same with the maximum that is left after resizing, which neither a single hot
        pixel nor decoding at a lower resolution moves much.
    colour
        "grey" averages a colour image to luminance first (ITU-R 601); "rgb" keeps three channels.
    resize
        "pad" keeps the aspect ratio and adds zeros; "squash" ignores it; "centre-crop" scales the
        shorter side and cuts the longer (what open_clip and timm do).
    interpolation
        "bicubic" or "bilinear", with antialiasing, as Pillow defines them.
    size
        Height and width of the tensor, pixels.
    scale_size
        The shorter side before the cut, with "centre-crop" and "squash" (timm's ``crop_pct``);
        0 means `size`.
    mean, std
        Per-channel normalisation after the scaling to 0..1.
    """

    name: str = "mammography"
    window: int = 0
    exact: bool = False
    polarity: Literal["auto", "keep"] = "auto"
    crop: Literal["breast", "none"] = "breast"
    flip: Literal["none", "left", "right"] = "left"
    scale: Literal["resized", "auto", "dtype"] = "resized"
    colour: Literal["grey", "rgb"] = "grey"
    resize: Resize = "pad"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    size: tuple[int, int] = (224, 224)
    scale_size: int = 0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def key(self) -> str:
        """Stable hash of every field but the name."""
        return _recipe_key(self)

    def __str__(self) -> str:
        """Tell it apart from others of its name that one may have beside it, in a few words."""
        asked = f", window {self.window}" if self.window else ""
        return f"{self.name}{', exact' if self.exact else ''}{asked}"

    @property
    def pixel_key(self) -> str:
        """Hash of what the pixels depend on: all but mean and std."""
        return replace(self, mean=(), std=()).key

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them (tuples become lists)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Inverse of `to_dict`."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class Spec:
    """What made a vector: backbone, weights, recipe, pooling. Two keys never mix."""

    backbone: str
    weights_sha256: str
    recipe: Recipe
    pooling: str
    dim: int
    dtype: Literal["float32", "float16"] = "float32"
    text: bool = False

    @property
    def key(self) -> str:
        """Stable hash of all that changes the numbers (the display name `backbone` does not)."""
        return _spec_key(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "recipe": self.recipe.to_dict()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """Inverse of `to_dict`."""
        return cls(**{**values, "recipe": Recipe.from_dict(values["recipe"])})

    def require(self, other: Spec) -> None:
        """Raise `SpecMismatch`, naming the first field that differs, unless the keys are equal."""
        if self.key == other.key:
            return
        mine, theirs = self.to_dict(), other.to_dict()
        pairs = [(f"recipe.{k}", v, theirs["recipe"][k]) for k, v in mine.pop("recipe").items()]
        pairs += [(k, v, theirs[k]) for k, v in mine.items()]
        name, a, b = next(p for p in pairs if p[1] != p[2] and p[0] not in {"recipe.name"})
        raise SpecMismatch(
            f"vectors of Spec {self.key} and {other.key} cannot be mixed: "
            f"{name} is {a!r} in one and {b!r} in the other"
        )


@lru_cache(maxsize=1024)
def _recipe_key(recipe: Recipe) -> str:
    return fingerprint({k: v for k, v in recipe.to_dict().items() if k != "name"})


@lru_cache(maxsize=1024)
def _spec_key(spec: Spec) -> str:
    values = spec.to_dict() | {"recipe": spec.recipe.key}
    del values["backbone"], values["text"]
    return fingerprint(values)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of one Spec with what is known of their images.

    Attributes
    ----------
    vectors
        (n, d) float32 or float16, as the backbone gave them (not normalised). Where they would not
        fit in memory a `Blocks`, which stays on the disk and gives rows when asked.
    ids, groups
        (n,) str: sample ids and patients.
    digests
        (n, 16) uint8: leading half of the sha256 of each file, equal for identical files.
    columns
        Name to (n,) str: labels and the other columns of the sample table, "" where unknown.
    """

    spec: Spec
    ids: NDArray[np.str_]
    vectors: NDArray[np.floating[Any]] | Blocks
    groups: NDArray[np.str_]
    digests: NDArray[np.uint8]
    columns: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse columns of unequal length and vectors of another dimension than the Spec's."""
        n = len(self.ids)
        arrays: dict[str, Sized] = {
            "vectors": self.vectors,
            "groups": self.groups,
            "digests": self.digests,
        }
        for name, array in {**arrays, **self.columns}.items():
            if len(array) != n:
                raise DataError(f"{name} has {len(array)} rows, ids has {n}")
        if self.vectors.ndim != 2 or self.vectors.shape[1] != self.spec.dim:
            raise DataError(f"vectors are {self.vectors.shape}, the Spec says (n, {self.spec.dim})")

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.ids)

    def unit(self) -> Floats:
        """(n, d) float32, each row of Euclidean length 1; a zero row stays zero."""
        return unit_rows(np.asarray(self.vectors))

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Embeddings:
        """Only those rows, in that order."""
        return Embeddings(
            self.spec,
            self.ids[rows],
            part(self.vectors, rows),
            self.groups[rows],
            self.digests[rows],
            {k: v[rows] for k, v in self.columns.items()},
        )


@dataclass(frozen=True, slots=True)
class Split:
    """Who is tested when: `fold[i]` is the fold that tests sample i.

    Or else `TRAIN` for training only, `VALIDATION` for neither (calibration, early stopping), and
    `OUTSIDE` for what the split does not know.
    """

    method: str
    ids: NDArray[np.str_]
    fold: NDArray[np.intp]
    seed: int

    @property
    def fingerprint(self) -> str:
        """Hash of who stands where, whatever the order of the rows, and whatever is outside."""
        folds = np.atleast_1d(self.fold)  # a damaged file may have one number
        inside = np.flatnonzero(folds != OUTSIDE)
        inside = inside[np.argsort(self.ids[inside], kind="stable")]
        # as `fingerprint` of the sorted pairs of id and fold, of which ten million fill the memory
        sha256 = hashlib.sha256(b"[")
        for start in range(0, len(inside), _HASHED):
            rows = inside[start : start + _HASHED]
            pairs = list(zip(self.ids[rows].tolist(), folds[rows].tolist(), strict=True))
            text = json.dumps(pairs, separators=(",", ":"), ensure_ascii=True)
            sha256.update(("," * bool(start) + text[1:-1]).encode())
        sha256.update(b"]")
        return sha256.hexdigest()[:12]

    def __iter__(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield (train, test) row numbers, fold by fold."""
        for k in range(int(self.fold.max()) + 1):
            learnt = (self.fold != k) & (self.fold >= TRAIN)
            yield np.flatnonzero(learnt), np.flatnonzero(self.fold == k)


@dataclass(frozen=True, slots=True)
class BackboneRequest:
    """What a backbone's loader is asked for: ``NAME[@WEIGHTS]`` taken apart, and the recipe.

    `recipe` carries the user's choices; the loader fills in size, mean and std from the model.
    """

    name: str
    weights: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    pooling: str = ""
    device: str = "cpu"


class Backbone(Protocol):
    """A frozen model. What happens to pixels before it is all in ``spec.recipe``."""

    spec: Spec

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, c, H, W) float32, as `spec.recipe` makes it, to (b, d), not normalised."""

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """(m, d), not normalised; raises `BackboneError` where the model has no text side."""


class Probe(Protocol):
    """A head: the scikit-learn classifier contract."""

    classes_: NDArray[Any]

    def fit(self, X: Floats, y: NDArray[Any]) -> Probe:
        """Learn from (n, d) vectors and (n,) labels."""

    def predict_proba(self, X: Floats) -> Floats:
        """(n, d) to (n, k), columns in the order of `classes_`."""
