"""Filters on a table of samples, in the syntax of Python and of pandas' ``query``.

``view == 'MLO' and vendor != 'Hologic'``, ``50 <= age < 70``, ``density in ['C', 'D']``, and
names that are no identifiers in backticks: ```BI-RADS` == '4'``. A filter is read by Python's
parser, and only what is listed here is taken of it; nothing is ever run as code.

What is unknown passes no comparison, ``!=`` and ``not in`` neither, and ``not`` makes an unknown
answer no other (the logic of SQL, and of pandas where its types have NA; pandas lets a NaN pass
``!=``). So ``vendor != 'Hologic'`` leaves out the films of unknown vendor: they may be Hologic's.
``vendor != 'Hologic' or vendor is None`` has them.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from embedstore.conditions import (
    Alias,
    Column,
    Compared,
    In,
    Joined,
    Not,
    Rows,
    Test,
    Unknown,
    Value,
)
from embedstore.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

MOST_TEXT = 100_000
"""Characters of a filter: a list of some thousand ids."""

MOST_DEPTH = 40
"""How deep parts may lie in one another."""

_HELP = (
    "a filter compares columns with values (==, !=, <, <=, >, >=, in, not in, is None), "
    "joined by and, or, not"
)
_MOST_SHOWN = 240  # bytes looked at of a place that is shown
_PATIENT = {"patient": "group"}
_QUOTED = re.compile(r"""('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|`([^`]+)`""")
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}
_FOREIGN: dict[type[ast.AST], str] = {
    ast.Attribute: "a dot is",
    ast.BinOp: "arithmetic is",
    ast.Call: "a call is",
    ast.JoinedStr: "an f-string is",
    ast.Lambda: "a lambda is",
    ast.NamedExpr: "an assignment is",
    ast.Subscript: "a subscript is",
}


@dataclass(frozen=True, slots=True)
class Where:
    """A filter; `columns` are the names of the columns it reads, in order of appearance."""

    text: str
    columns: tuple[str, ...]
    test: Test

    def keep(self, table: pl.DataFrame, alias: Alias | None = None) -> NDArray[np.bool_]:
        """Tell which rows pass: (n,).

        Parameters
        ----------
        table
            As `Store.table` gives it: text, or numbers where every known value of a label is one.
        alias
            Makes a patient's or exam's id what the table has for it (`privacy.alias_of`).

        Raises
        ------
        UsageError
            There is no such column, or text meets numbers.
        """
        refuse_unknown(self.columns, table.columns)
        passed = self.test.of(Rows(table, alias)).fill_null(False)
        mask: NDArray[np.bool_] = passed.to_numpy()
        return mask


def refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise `UsageError` where a filter reads a column that there is none of."""
    for name in names:
        if name not in known:
            _refuse_column(name, known)


def _refuse_column(name: str, known: Sequence[str]) -> NoReturn:
    hint = did_you_mean(name, known)
    raise UsageError(f"filter: no column {name!r}; there are {', '.join(known)}{hint}")


def parse(text: str) -> Where:
    """Read a filter.

    ``patient`` is the column the store calls ``group``; in backticks it is itself.

    Raises
    ------
    UsageError
        It is none; the message shows the place.
    """
    if len(text) > MOST_TEXT:
        raise UsageError(f"filter: {len(text)} characters; at most {MOST_TEXT} are taken")
    if not _is_text(text):
        raise UsageError(f"filter: {_short(text)} is no text; {_HELP}")
    if not (text := text.strip()):
        raise UsageError(f"filter: is empty; {_HELP}")
    source, quoted = _without_backticks(text)
    reader = _Reader(source, quoted)
    test = reader.test(_tree(source, reader), 0)
    return Where(text, tuple(dict.fromkeys(reader.columns)), test)


def _without_backticks(text: str) -> tuple[str, dict[str, str]]:
    """Put identifiers for the names in backticks; return which stands for which."""
    start, quoted = "_column", dict[str, str]()
    while start in text:
        start += "_"

    def replaced(found: re.Match[str]) -> str:
        if found[1]:
            return found[1]
        name = f"{start}{len(quoted)}"
        quoted[name] = found[2]
        return name

    return _QUOTED.sub(replaced, text), quoted


def _tree(source: str, reader: _Reader) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes
            return ast.parse(source, mode="eval").body
    except (RecursionError, MemoryError) as error:
        raise UsageError("filter: is nested too deep; write it flatter") from error
    except SyntaxError as error:
        place = reader.rest(error.lineno or 1, error.offset or 0)
        raise UsageError(f"filter: cannot be read from {place} on; {_HELP}") from error


class _Reader:
    """Turns the parser's tree into tests, and knows what each part of it was written as."""

    def __init__(self, source: str, quoted: dict[str, str]) -> None:
        self.columns: list[str] = []
        self._lines = [line.encode() for line in re.split("\r\n|\r|\n", source)]
        self._quoted = quoted

    def restored(self, part: str) -> str:
        """Put the names in backticks back into a part of the source."""
        return re.sub(r"\w+", lambda m: self._written(m[0]), part) if self._quoted else part

    def rest(self, line: int, character: int) -> str:
        """Show what comes from a place on, both counted from 1; character 0 is the end."""
        whole = self._lines[min(line, len(self._lines)) - 1].decode()
        rest = whole[character - 1 :] if character > 0 else ""
        return _short(self.restored(rest[:_MOST_SHOWN])) if rest else "its end"

    def _written(self, word: str) -> str:
        return f"`{self._quoted[word]}`" if word in self._quoted else word

    def test(self, node: ast.expr, depth: int) -> Test:
        """Read what is true or false of a row."""
        if depth > MOST_DEPTH:
            raise UsageError(f"filter: is nested more than {MOST_DEPTH} deep; write it flatter")
        if isinstance(node, ast.BoolOp):
            parts = tuple(self.test(value, depth + 1) for value in node.values)
            return Joined(parts, operator.and_ if isinstance(node.op, ast.And) else operator.or_)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Not(self.test(node.operand, depth + 1))
        if isinstance(node, ast.Compare):
            return self._comparisons(node)
        if isinstance(node, ast.Name | ast.Constant):
            raise self._refused(node, "neither true nor false", "compare it with something")
        self._refuse_foreign(node)
        raise self._refused(node, "neither true nor false", "compare a column with it")

    def _comparisons(self, node: ast.Compare) -> Test:
        sides = [node.left, *node.comparators]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        tests = tuple(self._comparison(node, *pair) for pair in pairs)
        return tests[0] if len(tests) == 1 else Joined(tests, operator.and_)

    def _comparison(
        self, node: ast.Compare, left: ast.expr, op: ast.cmpop, right: ast.expr
    ) -> Test:
        place = self._place(node)
        if isinstance(op, ast.In | ast.NotIn):
            test: Test = In(self._column(left), self._values(right), place)
            return Not(test) if isinstance(op, ast.NotIn) else test
        if not isinstance(left, ast.Name):
            left, right = right, left
            op = _TURNED.get(type(op), type(op))()
        if not isinstance(left, ast.Name):
            self._refuse_foreign(left, right)
            raise self._refused(node, "compares no column", "columns stand without quotes")
        column = self._column(left)
        if isinstance(right, ast.Constant) and right.value is None:
            return self._unknown(node, column, op)
        if type(op) not in _COMPARE:
            raise self._refused(node, "`is` is for None", "write ==")
        other = self._column(right) if isinstance(right, ast.Name) else self._value(right)
        return Compared(column, _COMPARE[type(op)], other, place)

    def _unknown(self, node: ast.expr, column: Column, op: ast.cmpop) -> Test:
        if isinstance(op, ast.Is | ast.Eq):
            return Unknown(column)
        if isinstance(op, ast.IsNot | ast.NotEq):
            return Not(Unknown(column))
        raise self._refused(node, "asks whether None is more or less", "write `is None`")

    def _column(self, node: ast.expr) -> Column:
        if not isinstance(node, ast.Name):
            self._refuse_foreign(node)
            raise self._refused(node, "no column", "write `column in ['a', 'b']`")
        name = self._quoted.get(node.id) or _PATIENT.get(node.id, node.id)
        self.columns.append(name)
        return Column(name)

    def _values(self, node: ast.expr) -> tuple[Value | None, ...]:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set):
            self._refuse_foreign(node)
            raise self._refused(node, "no list", "write `in ['a', 'b']`")
        nones = [isinstance(n, ast.Constant) and n.value is None for n in node.elts]
        pairs = zip(node.elts, nones, strict=True)
        return tuple(None if is_none else self._value(n) for n, is_none in pairs)

    def _value(self, node: ast.expr) -> Value:
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            raise self._refused(node, "a list", "write `in`, not `==`")
        inner, sign = node, 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            inner, sign = node.operand, -1 if isinstance(node.op, ast.USub) else 1
        if not isinstance(inner, ast.Constant):
            self._refuse_foreign(inner)
            raise self._refused(node, "no value", "values are 'text' and numbers")
        value = inner.value
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:
            return sign * value
        if isinstance(value, str) and inner is node and _is_text(value):
            return value
        raise self._refused(node, "neither text nor a number", "values are 'text' and numbers")

    def _refuse_foreign(self, *nodes: ast.expr) -> None:
        for node in nodes:
            if not isinstance(node, ast.Name | ast.Constant | ast.List | ast.Tuple | ast.Set):
                what = _FOREIGN.get(type(node), "this is")
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
                    raise self._refused(node, "& and | are not taken", "write `and`, `or`")
                raise self._refused(node, f"{what} not taken", _HELP)

    def _refused(self, node: ast.expr, why: str, remedy: str) -> UsageError:
        return UsageError(f"filter: {self._place(node)}: {why}; {remedy}")

    def _place(self, node: ast.expr) -> str:
        start, end = node.col_offset, node.end_col_offset
        line = self._lines[node.lineno - 1]
        inside = line[start : end if node.end_lineno == node.lineno else None][:_MOST_SHOWN]
        return _short(self.restored(inside.decode(errors="ignore")))


def _is_text(value: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in value)


def _short(part: str) -> str:
    return repr(part if len(part) <= 60 else f"{part[:59]}…")
