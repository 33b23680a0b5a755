"""What an audit says: findings in sections, each with a level and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from embedstore.types import Spec

Level = Literal["wrong", "look at", "fine"]

Evidence = Mapping[str, str | int | float]
"""One line of a finding's table."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found, or looked for and not found."""

    level: Level
    text: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Findings about one question."""

    title: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """All findings about the vectors of one Spec; `split` says which split was looked at."""

    store: str
    spec: Spec
    label: str
    split: str
    n_images: int
    n_patients: int
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    seconds: float

    def of(self, level: Level) -> tuple[Finding, ...]:
        """Return the findings of a level, in the order of the page."""
        return tuple(f for s in self.sections for f in s.findings if f.level == level)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them."""
        spec = self.spec.to_dict() | {"key": self.spec.key}
        return asdict(self) | {"spec": spec, "wrong": len(self.of("wrong"))}
