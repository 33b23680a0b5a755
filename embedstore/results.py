"""What a probe scored, with intervals and floors, and how that is kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from embedstore.types import Spec


@dataclass(frozen=True, slots=True)
class Score:
    """One metric: its value, 95 % interval, and what an answer without looking would get.

    `low` and `high` are the percentile interval, `bca` the bias-corrected one. `floor` is the
    hardest to pass of `floors`: majority, prior and random (`metrics.floors`).
    """

    value: float
    low: float
    high: float
    floor: float
    bca: tuple[float, float] = (float("nan"), float("nan"))
    floors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        """Read what `dataclasses.asdict` gave, perhaps by way of JSON."""
        numbers = {k: _number(values[k]) for k in ("value", "low", "high", "floor")}
        low, high = map(_number, values.get("bca", (None, None)))
        lows = {kind: _number(value) for kind, value in values.get("floors", {}).items()}
        return cls(**numbers, bca=(low, high), floors=lows)


@dataclass(frozen=True, slots=True)
class Bin:
    """A point of a reliability diagram: mean confidence, share of right answers, how many."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Subgroup:
    """The scores of the images of one value of a column."""

    column: str
    value: str
    n_images: int
    n_patients: int
    metrics: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class Sides:
    """Left against right: how often each pair of answers was given, and where they differ.

    `answers` is (k, k), the left breast's by row; `apart` names the exams or patients.
    """

    answers: tuple[tuple[int, ...], ...]
    apart: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """How well one head did on the vectors of one Spec.

    `chosen` are the parameters chosen for each fold, where a grid was searched; `few` says how much
    of the training side was learnt from, "" for all of it. `level` is what one answer is of, and
    `fuse` how it came of several images. `n_train` counts what was learnt from, `n_test` answers,
    `n_train_patients` and `n_patients` theirs. `leak` says what stood on both sides of the split,
    "" for nothing.
    """

    probe: str
    parameters: Mapping[str, Any]
    spec: Spec
    label: str
    classes: tuple[str, ...]
    split: str
    split_fingerprint: str
    metrics: Mapping[str, Score]
    confusion: tuple[tuple[int, ...], ...]
    n_train: int
    n_test: int
    n_patients: int
    seconds: float
    notes: tuple[str, ...] = ()
    chosen: tuple[Mapping[str, Any], ...] = ()
    few: str = ""
    level: str = "image"
    fuse: str = ""
    n_train_patients: int = 0
    leak: str = ""
    sides: Sides | None = None
    subgroups: tuple[Subgroup, ...] = ()
    reliability: tuple[Bin, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them; what is not a number is None."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain | {"spec": self.spec.to_dict() | {"key": self.spec.key}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """Inverse of `to_dict`."""
        spec = {k: v for k, v in values["spec"].items() if k != "key"}
        return cls(
            **{
                **values,
                "spec": Spec.from_dict(spec),
                "classes": tuple(values["classes"]),
                "metrics": {k: Score.from_dict(v) for k, v in values["metrics"].items()},
                "confusion": tuple(tuple(row) for row in values["confusion"]),
                "notes": tuple(values["notes"]),
                "chosen": tuple(values["chosen"]),
                "sides": _sides(values.get("sides")),
                "subgroups": tuple(_subgroup(v) for v in values.get("subgroups", ())),
                "reliability": tuple(Bin(**v) for v in values.get("reliability", ())),
            }
        )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def without_nan(value: Any) -> Any:
    """Put None for NaN, which JSON has no word for."""
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_nan(v) for v in value)
    return value


def _sides(values: Mapping[str, Any] | None) -> Sides | None:
    if values is None:
        return None
    return Sides(tuple(tuple(row) for row in values["answers"]), tuple(values["apart"]))


def _subgroup(values: Mapping[str, Any]) -> Subgroup:
    metrics = {k: Score.from_dict(v) for k, v in values["metrics"].items()}
    return Subgroup(**{**values, "metrics": metrics})
