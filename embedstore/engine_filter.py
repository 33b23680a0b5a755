"""A filter as the SQL of an engine that knows NULL: the same rows pass as of `Where.keep`.

Columns are called by their place among the store's, so that no name of theirs is ever in a
statement; text stands in single quotes, doubled inside, which is all that SQL text needs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from embedstore.conditions import (
    Column,
    Compared,
    In,
    Joined,
    Kind,
    Not,
    Test,
    Unknown,
    Value,
    check,
    hidden,
)
from embedstore.errors import UsageError
from embedstore.where import Where, refuse_unknown

Kinds = Mapping[str, Kind]

MOST_DEPTH = 20
"""Brackets in one another; LanceDB's parser ends with 23."""

_NOTHING = "CAST(NULL AS BOOLEAN)"
_SIGNS: dict[Callable[[Any, Any], Any], str] = {
    operator.eq: "=",
    operator.ne: "<>",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}

_CONTRARY = {"=": "<>", "<>": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def expression(where: Where, kinds: Kinds, alias: Callable[[str], str]) -> str:
    """Return the SQL of a filter.

    Parameters
    ----------
    kinds
        What the columns hold, by name, in the order of their places.
    alias
        Makes a patient's or exam's id what the store has for it.

    Raises
    ------
    UsageError
        There is no such column, or text meets numbers.
    """
    refuse_unknown(where.columns, tuple(kinds))
    return _Writer(kinds, alias).sql(where.test)


def column(kinds: Kinds, name: str) -> str:
    """Return what a column is called in the engine."""
    return f"c{list(kinds).index(name)}"


def literal(value: Value) -> str:
    """Return a value as SQL writes it."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


class _Writer:
    def __init__(self, kinds: Kinds, alias: Callable[[str], str]) -> None:
        self.kinds, self.alias = kinds, alias

    def sql(self, test: Test, wanted: bool = True, depth: int = 0) -> str:
        """Write a test, or its contrary, which goes into the parts: engines nest few NOTs."""
        if isinstance(test, Not):
            return self.sql(test.part, not wanted, depth)
        if isinstance(test, Joined):
            if depth == MOST_DEPTH:
                raise UsageError(f"filter: an engine takes {MOST_DEPTH} brackets; write it flatter")
            is_and = (test.by is operator.and_) == wanted
            parts = (self.sql(*part, depth + 1) for part in _parts(test, wanted, is_and))
            return "(" + (" AND " if is_and else " OR ").join(parts) + ")"
        if isinstance(test, Unknown):
            return self._is_null(test.column, wanted)
        if isinstance(test, In):
            return self._in(test, wanted)
        assert isinstance(test, Compared)
        return self._compared(test, wanted)

    def _kind(self, of: Column) -> Kind:
        return self.kinds[of.name]

    def _is_null(self, of: Column, wanted: bool) -> str:
        if not self._kind(of):
            return "TRUE" if wanted else "FALSE"
        return f"{column(self.kinds, of.name)} IS {'' if wanted else 'NOT '}NULL"

    def _spelt(self, of: Column, value: Value) -> Value:
        return self.alias(value) if hidden(of.name) and isinstance(value, str) else value

    def _in(self, test: In, wanted: bool) -> str:
        kind, values = self._kind(test.column), [v for v in test.values if v is not None]
        for value in values:
            check(test.column.name, kind, value, test.place)
        if kind == "whole":  # no whole number is 0.5
            values = [int(v) for v in values if not isinstance(v, str) and v == int(v)]
        found, name = _NOTHING, column(self.kinds, test.column.name)
        if kind and values:
            listed = (self._value(kind, self._spelt(test.column, v)) for v in values)
            found = f"{name} {'' if wanted else 'NOT '}IN ({', '.join(listed)})"
        elif kind:
            found = f"{name} {'<>' if wanted else '='} {name}"  # or unknown
        if None not in test.values:
            return found
        return f"({found} {'OR' if wanted else 'AND'} {self._is_null(test.column, wanted)})"

    def _compared(self, test: Compared, wanted: bool) -> str:
        one, name = self._kind(test.column), column(self.kinds, test.column.name)
        if isinstance(test.other, Column):
            two = self._kind(test.other)
            check(test.column.name, one, test.other, test.place, two)
            right = column(self.kinds, test.other.name)
        else:
            value = self._spelt(test.column, test.other)
            check(test.column.name, one, value, test.place)
            two = "text" if isinstance(value, str) else _number(value)
            right = literal(value)
        if not one or not two:
            return _NOTHING
        sides = [(name, one), (right, two)]
        if "decimal" in (one, two):
            sides = [(f"CAST({s} AS DOUBLE)" if k == "whole" else s, k) for s, k in sides]
        sign = _SIGNS[test.compare]
        return f"{sides[0][0]} {sign if wanted else _CONTRARY[sign]} {sides[1][0]}"

    @staticmethod
    def _value(kind: Kind, value: Value) -> str:
        return literal(float(value) if kind == "decimal" else value)


def _parts(test: Test, wanted: bool, is_and: bool) -> Iterator[tuple[Test, bool]]:
    """Yield what is joined in the same way, without brackets of its own."""
    while isinstance(test, Not):
        test, wanted = test.part, not wanted
    if isinstance(test, Joined) and ((test.by is operator.and_) == wanted) == is_and:
        for part in test.parts:
            yield from _parts(part, wanted, is_and)
    else:
        yield test, wanted


def _number(value: int | float) -> Kind:
    return "decimal" if isinstance(value, float) else "whole"
