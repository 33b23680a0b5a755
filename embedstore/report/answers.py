"""Answers of a search as plain data, with their pictures: what a page or a sheet shows."""

from __future__ import annotations

from dataclasses import dataclass

from embedstore.types import Pixels

Facts = tuple[tuple[str, str], ...]
"""Names and values, in the order they are shown."""

Shown = Pixels | str
"""(h, w) or (h, w, 3) uint8, or in a few words why there is no picture (`seen.seen`)."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case found.

    `similarity` is the cosine. `agrees` says whether its label is that of the query; None where
    either is not known. What is not known of the others is "".
    """

    rank: int
    similarity: float
    id: str
    patient: str
    view: str
    laterality: str
    labels: Facts
    picture: Shown
    agrees: bool | None = None

    @property
    def facts(self) -> Facts:
        """All that is known of it, but for rank and id."""
        side_and_view = " ".join(filter(None, (self.laterality, self.view)))
        known = (("view", side_and_view), ("patient", self.patient), *self.labels)
        similarity = ("similarity", f"{self.similarity:.3f}")
        return similarity, *((name, value) for name, value in known if value)


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked, one or more pictures or none for a text, and the cases found, best first."""

    title: str
    pictures: tuple[Shown, ...]
    facts: Facts
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What made the answers: `spec` is the key of the Spec, `command` as it was typed."""

    store: str
    commit: int
    backbone: str
    spec: str
    recipe: str
    command: str

    @property
    def facts(self) -> Facts:
        """Names and values, for people."""
        return (
            ("backbone", self.backbone),
            ("Spec", self.spec),
            ("recipe", self.recipe),
            ("store", f"{self.store}, commit {self.commit}"),
            ("command", self.command),
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Queries with their answers.

    `label` is what `Case.agrees` is about, "" for nothing; `summary` says how often the labels
    agree, against chance.
    """

    origin: Origin
    queries: tuple[Query, ...]
    label: str = ""
    summary: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What the page is, in a line."""
        if len(self.queries) == 1:
            return f"Cases like {self.queries[0].title}"
        return f"Cases like {len(self.queries)} queries"

    def agreement(self, case: Case) -> str:
        """Say in words whether a case agrees, "" where nothing was asked."""
        if not self.label:
            return ""
        if case.agrees is None:
            return f"{self.label}: not known"
        return f"same {self.label}" if case.agrees else f"other {self.label}"
