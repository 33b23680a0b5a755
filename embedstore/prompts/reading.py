"""Files to plain text, lists and mappings that know their line, and nothing else.

YAML is read by its events: nothing is constructed, so that no tag can make an object, no alias can
multiply, and ``no``, ``1`` or ``a`` stay the words that are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from embedstore.errors import UsageError

MAX_BYTES = 1_000_000
_MAX_DEPTH = 16
_SHOWN = 400  # characters of a message


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
        """Make the error that names file and line, in one line of a readable length."""
        words = " ".join(text.split())
        short = words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"
        return UsageError(f"{self.where}:{line}: {short}")

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
        before = text[: getattr(error, "position", 0)]  # a character YAML does not take
        line = mark.line + 1 if mark else before.count("\n") + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", str(error))
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
