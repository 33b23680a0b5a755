"""The contact sheet of a search: a picture of the query and of each case, and what is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from embedstore.report.answers import Case, Page, Query, Shown
from embedstore.report.pen import INK, TEXT, TITLE, WARNING, Pen, magnified, wrapped
from embedstore.types import Pixels

SHEET_MARK = "embedstore search"
"""What a sheet's PNG names as its software, so that nothing but a sheet is ever replaced."""

MOST_CASES = 300
"""Cases on one sheet: at 224 pixels some 25,000 of height, which viewers still open."""

_ACROSS = 5  # cases beside the query
_SIDE = 224  # pixels within which a small picture is magnified, and the least width of a column


def sheet(page: Page) -> Image.Image:
    """Draw the sheet: RGB, pictures pixel for pixel or, small ones, magnified whole times."""
    queries = _that_fit(page.queries)
    every = [p for q in queries for p in (*q.pictures, *(c.picture for c in q.cases))]
    drawn = [_drawn(p) for p in every if not isinstance(p, str)]
    width = max([_SIDE, *(p.shape[1] for p in drawn)])
    pen = Pen([width] * (_ACROSS + 1))
    pen.banner([page.title], TITLE, INK)
    pen.banner([f"{name}: {value}" for name, value in page.origin.facts], TEXT, INK)
    pen.banner(page.summary, TEXT, INK)
    pen.banner([f"note: {note}" for note in page.notes], TEXT, WARNING)
    if len(queries) < len(page.queries):
        said = f"the first {len(queries)} of {len(page.queries)} queries; a page has them all"
        pen.banner([f"note: {said}"], TEXT, WARNING)
    for query in queries:
        pen.rule()
        pen.banner([f"Query: {query.title}"], TITLE, INK)
        _draw(pen, page, query, width)
    return pen.finished()


def _that_fit(queries: Sequence[Query]) -> Sequence[Query]:
    """Take the first queries, at least one, of so many cases as a sheet may have."""
    ends = np.cumsum([max(len(q.cases), _ACROSS) for q in queries])
    return queries[: max(1, int((ends <= MOST_CASES).sum()))]


def _draw(pen: Pen, page: Page, query: Query, width: int) -> None:
    """Draw rows of the query's next picture, if there is one, and the next cases."""
    known = [f"{name}: {value}" for name, value in query.facts]
    asked = [(p, known if n == 0 else []) for n, p in enumerate(query.pictures or ("",))]
    found = [(c.picture, _said(page, c)) for c in query.cases]
    rows = max(len(asked), -(-len(found) // _ACROSS))
    for row in range(rows):
        cells = [*asked[row : row + 1]] or [("", [])]
        cells += found[row * _ACROSS : (row + 1) * _ACROSS]
        cells += [("", [])] * (_ACROSS + 1 - len(cells))
        _row(pen, cells, width)


def _row(pen: Pen, cells: Sequence[tuple[Shown, list[str]]], width: int) -> None:
    lines, pictures = [], list[Pixels | None]()
    for picture, said in cells:
        missing = isinstance(picture, str) and picture
        pictures.append(None if isinstance(picture, str) else _drawn(picture))
        lines.append(
            wrapped([*([f"no picture: {picture}"] if missing else []), *said], width, TEXT)
        )
    pen.columns(lines, TEXT, pictures)
    pen.space()


def _drawn(picture: Pixels) -> Pixels:
    return magnified(picture, max(1, _SIDE // max(picture.shape[:2])))


def _said(page: Page, case: Case) -> list[str]:
    lines = [f"{case.rank}. {case.id}"]
    lines += [page.agreement(case)] if page.label else []
    return lines + [f"{name}: {value}" for name, value in case.facts]
