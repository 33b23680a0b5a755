"""Files to plain text, lists and mappings that know their line, and nothing else.

YAML is read by its events: nothing is constructed, so that no tag can make an object, no alias can
multiply, and ``no``, ``1`` or ``a`` stay the words that are written.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from embedstore.errors import UsageError

MAX_BYTES = 1_000_000
_MAX_DEPTH = 16
_CSV_NEEDED, _CSV_KNOWN = ("class", "description"), ("set", "aliases", "template")


@dataclass(frozen=True, slots=True)
class Item:
    """A value and the line it stands in, counted from 1."""

    value: str | list[Item] | dict[str, Item]
    line: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file as the user knows it, for saying where something is wrong."""

    where: str

    def wrong(self, line: int, text: str) -> UsageError:
        """Make the error that names file and line."""
        return UsageError(f"{self.where}:{line}: {text}")

    def mapping(self, item: Item, what: str) -> dict[str, Item]:
        """Return the mapping an item must be."""
        if not isinstance(item.value, dict):
            raise self.wrong(item.line, f"{what} must be a mapping, `key: value` lines")
        return item.value

    def text(self, item: Item, what: str) -> str:
        """Return the text an item must be, not empty."""
        if not isinstance(item.value, str):
            raise self.wrong(item.line, f"{what} must be a text; one that begins with {{ in quotes")
        if not item.value.strip():
            raise self.wrong(item.line, f"{what} is empty")
        return item.value.strip()

    def items(self, item: Item) -> list[Item]:
        """Return a list's items; one text is a list of one, nothing one of none."""
        if isinstance(item.value, list):
            return item.value
        return [] if item.value == "" else [item]


def read_text(path: Path) -> str:
    """Read a UTF-8 file of at most `MAX_BYTES`, with or without a byte order mark."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: is over 1 MB; a prompt set is a small file, use slots {{a|b}}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def read_yaml(text: str, source: Source) -> Item:
    """Read one YAML document without tags, anchors or repeated keys."""
    try:
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return _document(_plain(events, source), source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error)
        raise source.wrong(
            line, f"is not YAML: {problem}; a text that begins with {{ or holds ': ' needs quotes"
        ) from error


def _plain(events: Iterator[yaml.Event], source: Source) -> Iterator[yaml.Event]:
    """Pass events on, but for what a prompt set has no use for."""
    depth = documents = 0
    for event in events:
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None and event.tag != "!":
            raise source.wrong(line, f"YAML tag {event.tag!r}; write plain text and lists")
        if getattr(event, "anchor", None) is not None:
            raise source.wrong(line, f"YAML anchor or alias {event.anchor!r}; write the text out")
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise source.wrong(line, "a second YAML document; one file is one prompt set")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise source.wrong(line, f"nested more than {_MAX_DEPTH} deep")
        yield event


def _document(events: Iterator[yaml.Event], source: Source) -> Item:
    around = (yaml.StreamStartEvent, yaml.DocumentStartEvent)
    first = next(e for e in events if not isinstance(e, around))
    if isinstance(first, yaml.StreamEndEvent):
        raise source.wrong(1, "is empty; `embedstore prompts show birads-density` is an example")
    item = _item(first, events, source)
    for _ in events:  # what follows may still be wrong
        pass
    return item


def _item(event: yaml.Event, events: Iterator[yaml.Event], source: Source) -> Item:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.ScalarEvent):
        return Item(event.value, line)
    if isinstance(event, yaml.SequenceStartEvent):
        return Item([_item(e, events, source) for e in _until_end(events)], line)
    found: dict[str, Item] = {}
    for key in _until_end(events):
        if not isinstance(key, yaml.ScalarEvent):
            raise source.wrong(line, "a key must be one word or text")
        if key.value in found:
            raise source.wrong(key.start_mark.line + 1, f"the key {key.value!r} stands here twice")
        found[key.value] = _item(next(events), events, source)
    return Item(found, line)


def _until_end(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            return
        yield event


def read_csv(text: str, source: Source) -> Item:
    """Read a table of descriptions as what the same set in YAML would give.

    Columns ``class`` and ``description``; perhaps ``set`` (which descriptions go together),
    ``aliases`` (label values, ``|`` between them) and ``template`` (rows of their own, or beside).
    """
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


class _Table:
    """What the rows of a CSV file add up to."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.classes: dict[str, Item] = {}
        self.sets: dict[str, Item] = {}
        self.templates: list[Item] = []

    def add(self, row: dict[str, str], line: int) -> None:
        """Take one row in."""
        template, name = row.get("template", ""), row["class"]
        if template and template not in {t.value for t in self.templates}:
            self.templates.append(Item(template, line))
        if not name and not row["description"]:
            return
        if not name:
            raise self.source.wrong(line, "a description without a class")
        aliases = self.classes.setdefault(name, Item([], line)).value
        texts = self._of(row.get("set", "") or "main", name, line)
        assert isinstance(aliases, list)
        aliases += [Item(a, line) for a in row.get("aliases", "").split("|") if a.strip()]
        texts.append(Item(row["description"], line))

    def _of(self, group: str, name: str, line: int) -> list[Item]:
        of_set = self.sets.setdefault(group, Item({}, line)).value
        assert isinstance(of_set, dict)
        texts = of_set.setdefault(name, Item([], line)).value
        assert isinstance(texts, list)
        return texts

    def item(self) -> Item:
        """Return it as a YAML file would have it."""
        found = {
            "classes": Item(dict(self.classes), 1),
            "descriptions": Item(dict(self.sets), 1),
            "templates": Item(self.templates or [Item("{}", 1)], 1),
        }
        return Item(dict(found), 1)


def _table(rows: Iterator[tuple[int, list[str]]], source: Source) -> Item:
    header = [name.lower() for name in next(rows, (1, []))[1]]
    if missing := [name for name in _CSV_NEEDED if name not in header]:
        raise source.wrong(
            1,
            f"no column {' and '.join(missing)}; a CSV prompt set has "
            f"{', '.join(_CSV_NEEDED)} and perhaps {', '.join(_CSV_KNOWN)}",
        )
    if odd := [n for n in header if n not in _CSV_NEEDED + _CSV_KNOWN or header.count(n) > 1]:
        known = ", ".join(_CSV_NEEDED + _CSV_KNOWN)
        raise source.wrong(1, f"column {odd[0]!r} is none of {known}, each once")
    table = _Table(source)
    for line, cells in rows:
        if len(cells) > len(header):
            raise source.wrong(
                line, f"{len(cells)} cells for {len(header)} columns; quote a text with a comma"
            )
        padded = cells + [""] * (len(header) - len(cells))
        table.add(dict(zip(header, padded, strict=True)), line)
    return table.item()
