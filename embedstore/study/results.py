"""What a piece of work came to, in two small files: JSON, and arrays as safetensors.

The JSON is written last: where it is, the piece is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from embedstore.answered import Answered
from embedstore.audit.findings import Audit, Finding, Section
from embedstore.output import put
from embedstore.results import without_nan
from embedstore.types import Spec

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Result:
    """Plain values, as JSON gives them back, and arrays by name."""

    told: Mapping[str, Any]
    arrays: Arrays = field(default_factory=dict)


def write(result: Result, stem: Path) -> None:
    """Write ``STEM.json`` and, where there are arrays, ``STEM.safetensors``."""
    if result.arrays:
        solid = {name: np.ascontiguousarray(values) for name, values in result.arrays.items()}
        with put(_beside(stem, ".safetensors"), replace=True) as fresh:
            save_file(solid, fresh)
    told = {**result.told, "arrays": sorted(result.arrays)}
    # a plug-in's parameters may be anything
    text = json.dumps(without_nan(told), indent=1, default=str)
    with put(_beside(stem, ".json"), replace=True) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")


def read(stem: Path) -> Result | None:
    """Read what `write` wrote; None where it is not there whole."""
    try:
        told = json.loads(_beside(stem, ".json").read_text(encoding="utf-8"))
        names = told.pop("arrays")
        arrays = load_file(_beside(stem, ".safetensors")) if names else {}
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError):
        return None
    return Result(told, arrays) if sorted(arrays) == names else None


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def texts_to(values: Sequence[str]) -> NDArray[np.uint8]:
    """Turn texts into bytes, which safetensors can hold."""
    return np.frombuffer(json.dumps(list(values)).encode(), dtype=np.uint8)


def texts_from(values: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Inverse of `texts_to`."""
    return np.array(json.loads(values.tobytes()), dtype=np.str_)


def answered_to(answered: Answered) -> dict[str, NDArray[Any]]:
    """Keep what was tested; not the columns, which may say who a patient is."""
    ever = np.any([fold >= 0 for fold in answered.fold], axis=0)
    kept = answered.take(ever)
    arrays: dict[str, NDArray[Any]] = {
        "ids": texts_to(kept.ids.tolist()),
        "truth": kept.truth.astype(np.int64),
        "groups": kept.groups.astype(np.int64),
    }
    arrays |= {f"run.{i}": run.astype(np.float64) for i, run in enumerate(kept.runs)}
    return arrays | {f"fold.{i}": fold.astype(np.int64) for i, fold in enumerate(kept.fold)}


def answered_from(arrays: Arrays) -> Answered:
    """Return what `answered_to` kept."""
    repeats = range(sum(name.startswith("run.") for name in arrays))
    return Answered(
        texts_from(arrays["ids"]),
        arrays["truth"].astype(np.intp),
        arrays["groups"].astype(np.intp),
        {},
        tuple(arrays[f"run.{i}"] for i in repeats),
        tuple(arrays[f"fold.{i}"].astype(np.intp) for i in repeats),
    )


def audit_from(values: Mapping[str, Any]) -> Audit:
    """Inverse of `Audit.to_dict`."""
    plain = {k: v for k, v in values.items() if k != "wrong"}
    spec = {k: v for k, v in plain.pop("spec").items() if k != "key"}
    sections = tuple(
        Section(
            s["title"],
            tuple(Finding(f["level"], f["text"], tuple(f["evidence"])) for f in s["findings"]),
        )
        for s in plain.pop("sections")
    )
    notes = tuple(plain.pop("notes"))
    return Audit(**plain, spec=Spec.from_dict(spec), sections=sections, notes=notes)
