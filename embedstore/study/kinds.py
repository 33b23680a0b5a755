"""Kinds of values in a study: as TOML gives them, to what they are to be.

Each raises `ValueError` with what to give instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from embedstore.errors import UsageError, did_you_mean
from embedstore.subgroups import By

Kind = Callable[[Any], Any]


def table(values: Any, kinds: Mapping[str, Kind], said: str) -> dict[str, Any]:
    """Check a table's keys and values."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{said} {values!r} is no table of keys and values")
    found = {}
    for name, value in values.items():
        if name not in kinds:
            hint = did_you_mean(name, kinds)
            raise UsageError(f"{said} unknown key {name!r}; known are {', '.join(kinds)}{hint}")
        try:
            found[name] = kinds[name](value)
        except ValueError as error:
            raise UsageError(f"{said} {name} is {value!r}; give {error}") from error
    return found


def text(value: Any) -> str:
    """Take a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """Take a text, or a list of them; each once."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Sequence) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError("a list of texts")
    return tuple(dict.fromkeys(value))


def groupings(value: Any) -> tuple[tuple[str, ...], ...]:
    """Take lists of classes, or one of them."""
    if isinstance(value, Sequence) and value and all(isinstance(v, str) for v in value):
        value = [value]
    try:
        return tuple(texts(v) for v in value)
    except (TypeError, ValueError) as error:
        raise ValueError('lists of classes, such as [["C", "D"]]') from error


def flag(value: Any) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def whole(least: int) -> Kind:
    """Return what takes whole numbers from `least` up."""

    def kind(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number from {least} up")
        return value

    return kind


def share(most: float) -> Kind:
    """Return what takes numbers above 0, up to `most`."""

    def kind(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
            raise ValueError(f"a number above 0 and up to {most:g}")
        return float(value)

    return kind


def shares(value: Any) -> tuple[float, ...]:
    """Take shares; sorted, each once."""
    try:
        return tuple(sorted({share(1.0)(v) for v in value}))
    except (TypeError, ValueError) as error:
        raise ValueError("shares, such as [0.1, 0.3, 1.0]") from error


def settings(value: Any) -> Mapping[str, Any]:
    """Take a table."""
    if not isinstance(value, Mapping):
        raise ValueError("a table of names and values")
    return dict(value)


def grid(value: Any) -> Mapping[str, tuple[Any, ...]]:
    """Take a table of lists of values."""
    if not isinstance(value, Mapping) or not all(isinstance(v, list) and v for v in value.values()):
        raise ValueError("a table of names and lists of values, such as {C = [0.01, 0.1, 1.0]}")
    return {name: tuple(own) for name, own in value.items()}


def names(value: Any) -> Mapping[str, str]:
    """Take a table of texts."""
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError('roles and columns, such as {patient = "MRN"}')
    return dict(value)


def sentences(value: Any) -> Mapping[str, tuple[str, ...]]:
    """Take a table of a text or texts for each class."""
    if not isinstance(value, Mapping):
        raise ValueError("a table of classes with their sentences")
    return {name: texts(own) for name, own in value.items()}


def bys(value: Any) -> tuple[str, ...]:
    """Take columns of subgroups, as --by does."""
    found = texts(value)
    for text in found:
        By.parse(text)
    return found


def tables(value: Any) -> tuple[Any, ...]:
    """Take tables, or one of them."""
    if isinstance(value, Mapping):
        return (value,)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError("tables of their own")
    return tuple(value)


def heads(value: Any) -> tuple[Any, ...]:
    """Take heads by name, or as tables."""
    every = [value] if isinstance(value, str) else list(tables(value))
    if not every:
        raise ValueError("one head or more")
    return tuple({"head": v} if isinstance(v, str) else v for v in every)
