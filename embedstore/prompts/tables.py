"""A CSV table of descriptions, read as the same set would be in YAML.

Columns ``class`` and ``description``; perhaps ``set`` (which descriptions go together), ``aliases``
(label values, ``|`` between them) and ``template`` (in rows of their own, or beside descriptions).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from embedstore.prompts.reading import Item, Source

_NEEDED, _MORE = ("class", "description"), ("set", "aliases", "template")
_SET, _TEMPLATE = "main", "{}"


def read_csv(text: str, source: Source) -> Item:
    """Read a table whose cells are separated by comma, semicolon or tab."""
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)

    def numbered() -> Iterator[tuple[int, list[str]]]:
        line = 1
        for cells in rows:
            yield line, [cell.strip() for cell in cells]
            line = rows.line_num + 1

    try:
        return _table(numbered(), source)
    except csv.Error as error:
        raise source.wrong(rows.line_num, f"is not CSV: {error}") from error


def _table(rows: Iterator[tuple[int, list[str]]], source: Source) -> Item:
    header = _header(next(rows, (1, []))[1], source)
    table = _Table(source)
    for line, cells in rows:
        if len(cells) > len(header):
            raise source.wrong(
                line, f"{len(cells)} cells for {len(header)} columns; quote a text with a comma"
            )
        padded = cells + [""] * (len(header) - len(cells))
        table.add(dict(zip(header, padded, strict=True)), line)
    return table.item()


def _header(cells: list[str], source: Source) -> list[str]:
    header = [name.lower() for name in cells]
    if missing := [name for name in _NEEDED if name not in header]:
        raise source.wrong(
            1,
            f"no column {' and '.join(missing)}; a CSV prompt set has {', '.join(_NEEDED)} and "
            f"perhaps {', '.join(_MORE)}",
        )
    if odd := [n for n in header if n not in _NEEDED + _MORE or header.count(n) > 1]:
        known = ", ".join(_NEEDED + _MORE)
        raise source.wrong(1, f"column {odd[0]!r} is none of {known}, each once")
    return header


class _Table:
    """What the rows add up to."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.aliases: dict[str, list[Item]] = {}
        self.sets: dict[str, dict[str, list[Item]]] = {}
        self.templates: dict[str, Item] = {}

    def add(self, row: dict[str, str], line: int) -> None:
        """Take one row in."""
        name, template = row["class"], row.get("template", "")
        if template:
            self.templates.setdefault(template, Item(template, line))
        if not name and row["description"]:
            raise self.source.wrong(line, "a description without a class")
        if not name:
            return
        values = [v.strip() for v in row.get("aliases", "").split("|")]
        self.aliases.setdefault(name, []).extend(Item(v, line) for v in values if v)
        texts = self.sets.setdefault(row.get("set", "") or _SET, {}).setdefault(name, [])
        texts.append(Item(row["description"], line))

    def item(self) -> Item:
        """Return it as a YAML file would have it."""
        sets = {
            name: Item({c: Item([*texts], texts[0].line) for c, texts in of.items()}, _first(of))
            for name, of in self.sets.items()
        }
        parts = {
            "classes": Item({c: Item([*values], 1) for c, values in self.aliases.items()}, 1),
            "descriptions": Item({**sets}, 1),
            "templates": Item([*self.templates.values()] or [Item(_TEMPLATE, 1)], 1),
        }
        return Item({**parts}, 1)


def _first(texts: dict[str, list[Item]]) -> int:
    return min(of_class[0].line for of_class in texts.values())
