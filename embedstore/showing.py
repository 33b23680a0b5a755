"""The answers of a search with their pictures, as the data of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedstore.answering import Agreement, Mix, facts
from embedstore.report.answers import Case, Facts, Origin, Page, Query, Shown
from embedstore.search import Hits, Searcher
from embedstore.seen import seen
from embedstore.store import Store
from embedstore.types import Pixels

Answer = tuple[str, list[dict[str, Any]], list[Agreement | Mix]]
"""What a query is called, the cases found as `answering.plain` gives them, and what they say."""


def page(
    store: Store,
    searcher: Searcher,
    hits: Hits,
    answers: Sequence[Answer],
    asked_rows: Sequence[Sequence[int]],
    pictures: Sequence[Pixels | str],
    notes: Sequence[str],
    label: str,
    command: str,
) -> Page:
    """Put pictures to the cases found.

    Parameters
    ----------
    asked_rows
        For each query the raw rows of its own samples, if it is of such.
    pictures
        Of the query that is of no sample in the store.
    label
        What is marked as the same or another, "" for nothing.
    """
    spec = searcher.spec
    rows = [row for several in asked_rows for row in several]
    shown = dict(zip(rows, seen(store, spec, rows), strict=True))
    queries = []
    for number, (title, cases, said) in enumerate(answers):
        own = list(asked_rows[number])
        same = {a.label: a.value for a in said if isinstance(a, Agreement)}.get(label, "")
        found = seen(store, spec, hits.rows[number].tolist())
        known = _facts(store, own)
        mine = (*(shown[row] for row in own), *(() if own else pictures))
        made = tuple(_case(c, p, label, same) for c, p in zip(cases, found, strict=True))
        queries.append(Query(title, mine, known, made))
    origin = Origin(
        store.path.name, store.commit, spec.backbone, spec.key, str(spec.recipe), command
    )
    summary = tuple(
        f"{title}: {line}" if len(answers) > 1 else str(line)
        for title, _, said in answers
        for line in said
    )
    return Page(origin, tuple(queries), label, summary, tuple(notes))


def _facts(store: Store, rows: Sequence[int]) -> Facts:
    """Return what is known of a query's samples where all agree, without paths."""
    known = facts(store, rows) if rows else []
    names = ("laterality", "view", "exam", *store.labels)
    values = {name: {sample[name] for sample in known} - {""} for name in names}
    return tuple((name, v.pop()) for name, v in values.items() if len(v) == 1)


def _case(case: dict[str, Any], picture: Shown, label: str, same: str) -> Case:
    value = case["labels"].get(label, "")
    return Case(
        case["rank"],
        case["cosine"],
        case["id"],
        case["patient"],
        case["view"],
        case["laterality"],
        tuple(case["labels"].items()),
        picture,
        value == same if value and same else None,
    )
