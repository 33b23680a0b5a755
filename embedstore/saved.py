"""A fitted probe in a folder: numbers as safetensors, the rest as JSON, nothing pickled.

::

    PROBE/
      probe.json          head, parameters, Spec, label, classes, temperature, report
      probe.safetensors   what the head learnt, and the mean and scale of the vectors
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from embedstore.blocks import Blocks, all_finite, floats
from embedstore.calibration import apply_temperature
from embedstore.errors import DataError, UsageError
from embedstore.fitted import Answers, Fitted
from embedstore.heads import load_heads
from embedstore.output import put, refuse
from embedstore.places import quoted
from embedstore.results import Report
from embedstore.types import Embeddings, Floats, Spec

FORMAT = 1
_JSON, _ARRAYS = "probe.json", "probe.safetensors"
_DAMAGED = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""What values of other kinds than `SavedProbe.save` writes come to."""


@dataclass(frozen=True, slots=True)
class SavedProbe:
    """A fitted head with all it takes to use it on new vectors.

    Attributes
    ----------
    head
        As `heads.load_heads` takes it.
    spec
        What made the vectors it was fitted to; it takes no others.
    precision
        The one these vectors were made in.
    temperature
        What the logarithms of its probabilities are divided by, fitted to images it had not seen.
    report
        How it did on patients it had not seen.
    """

    head: str
    fitted: Fitted
    spec: Spec
    precision: str
    label: str
    classes: tuple[str, ...]
    temperature: float
    report: Report

    def predict(self, embeddings: Embeddings) -> Answers:
        """(n, k) calibrated probabilities, columns as `classes`.

        Raises
        ------
        SpecMismatch
            The vectors are of another Spec.
        DataError
            They are not finite, or too large for what the probe was fitted to.
        """
        self.spec.require(embeddings.spec)
        vectors = floats(embeddings.vectors)
        if not all_finite(vectors):
            raise DataError(f"vectors of Spec {embeddings.spec.key} hold NaN or infinity")
        try:
            return self._answers(vectors)
        except ValueError as error:
            what = f"the probe has no answer for these vectors of Spec {embeddings.spec.key}"
            raise DataError(f"{what}: {error}") from error

    def _answers(self, vectors: Floats | Blocks) -> Answers:
        return apply_temperature(self.fitted.answers(vectors, len(self.classes)), self.temperature)

    def save(self, folder: Path, force: bool = False) -> None:
        """Write the folder, in one step; one that is there is replaced only with `force`.

        Raises
        ------
        UsageError
            The head keeps something that is neither numbers nor text.
        """
        state, arrays = _taken_apart(self.fitted.head)
        described = {
            "format": FORMAT,
            "head": self.head,
            "parameters": _plain(self.fitted.head.get_params(deep=False)),
            "state": state,
            "spec": self.spec.to_dict(),
            "precision": self.precision,
            "label": self.label,
            "classes": list(self.classes),
            "temperature": self.temperature,
            "report": self.report.to_dict(),
        }
        arrays |= {"mean": self.fitted.mean, "scale": self.fitted.scale}
        with put(folder, force, (_JSON, _ARRAYS)) as fresh:
            fresh.mkdir()
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, fresh / _ARRAYS)
            (fresh / _JSON).write_text(json.dumps(described, indent=1, default=str))


def refuse_place(folder: Path, force: bool) -> None:
    """Raise `UsageError` where something is that `SavedProbe.save` would not replace."""
    refuse(folder, force, (_JSON, _ARRAYS))


def load(folder: Path | str, head: str = "") -> SavedProbe:
    """Load what `SavedProbe.save` wrote.

    `head` is where its class is now, needed for one that came from a file or a module other than
    scikit-learn's: no code is run because a folder says so.

    Raises
    ------
    UsageError
        There is no probe, or its head is not installed.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / _JSON).read_text())
        arrays = load_file(folder / _ARRAYS)
        if described["format"] != FORMAT:
            raise UsageError(f"{folder}: probe format {described['format']}, {FORMAT} is read here")
        name = head or described["head"]
        if ".py:" in name and not head:
            raise UsageError(f"{folder}: its head came from a file: give --head FILE.py:CLASS")
        if ":" in name and not head and not name.startswith("sklearn."):
            raise UsageError(f"{folder}: its head is {name}: if you trust that, give --head {name}")
        (made,) = load_heads([name])
        fitted = made(**described["parameters"])
        _put_together(fitted, described["state"], arrays)
        if not set(np.asarray(fitted.classes_).tolist()) <= set(range(len(described["classes"]))):
            raise ValueError("its head knows other classes")
        found = SavedProbe(
            name,
            Fitted(fitted, arrays["mean"], arrays["scale"]),
            Spec.from_dict(described["spec"]),
            described["precision"],
            described["label"],
            tuple(described["classes"]),
            described["temperature"],
            Report.from_dict(described["report"]),
        )
        hash(found.spec)  # which a list in place of a text has not
        with np.errstate(all="ignore"):  # whatever is wrong, the answer is not finite or none
            tried = found._answers(np.zeros((1, found.spec.dim), dtype=np.float32))
        if not np.isfinite(tried).all():
            raise ValueError("its answers are no numbers")
        return found
    except FileNotFoundError as error:
        if inside := sorted(file.parent.name for file in folder.glob(f"*/{_JSON}")):
            probes = ", ".join(str(folder / name) for name in inside)
            raise UsageError(f"{folder}: is no probe, but holds some: {probes}") from error
        raise UsageError(
            f"{folder}: no saved probe; make one with `embedstore probe … --save {quoted(folder)}`"
        ) from error
    except (*_DAMAGED, SafetensorError, NotADirectoryError) as error:
        raise UsageError(f"{folder}: not a saved probe, or damaged: {error}") from error


def _taken_apart(head: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Split what a head learnt, its attributes in ``_``, into plain values and arrays."""
    learnt = head.saved_state() if hasattr(head, "saved_state") else vars(head)
    state: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in learnt.items():
        if not name.endswith("_") or name.startswith("_"):
            continue
        if _is_numbers(value):
            arrays[name] = value
            state[name] = "array"
        elif isinstance(value, list | tuple) and value and all(map(_is_numbers, value)):
            arrays |= {f"{name}.{i}": v for i, v in enumerate(value)}
            state[name] = ["array"] * len(value)
        else:
            state[name] = {"value": _plain_value(head, name, value)}
    return state, arrays


def _put_together(head: Any, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    found: dict[str, Any] = {}
    for name, kind in state.items():
        if kind == "array":
            found[name] = arrays[name]
        elif isinstance(kind, list):
            found[name] = [arrays[f"{name}.{i}"] for i in range(len(kind))]
        else:
            found[name] = kind["value"]
    if hasattr(head, "restore_state"):
        head.restore_state(found)
    else:
        vars(head).update(found)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iufb"


def _plain_value(head: Any, name: str, value: Any) -> Any:
    plain = _plain(value)
    try:
        json.dumps(plain)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{type(head).__name__} cannot be saved without pickling: {name} is "
            f"{type(value).__name__}, neither numbers nor text"
        ) from error
    return plain


def _plain(value: Any) -> Any:
    """Turn NumPy's values into Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
