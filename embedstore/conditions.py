"""What a filter asks of the rows of a table: true, false or unknown, after Kleene's logic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from embedstore.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

Value = str | int | float
Alias = Callable[[str], str]
Kind = Literal["text", "whole", "decimal", ""]
"""What a column holds: text or numbers; "" where nothing is known."""


def hidden(column: str) -> bool:
    """Say whether a store may keep the ids of a column as keyed hashes."""
    return column in {"group", "exam"}


@dataclass(frozen=True, slots=True)
class Rows:
    """The table that is asked, and how its patients and exams are spelt."""

    table: pl.DataFrame
    alias: Alias | None

    def spelt(self, column: Column, value: Value) -> Value:
        """Return what stands in the table for an id."""
        if self.alias is None or not hidden(column.name) or not isinstance(value, str):
            return value
        return self.alias(value)


class Test(Protocol):
    """Something that is true, false or unknown of a row."""

    def of(self, rows: Rows) -> pl.Series:
        """(n,) Boolean, null where unknown."""


@dataclass(frozen=True, slots=True)
class Column:
    """The values of a column."""

    name: str

    def of(self, rows: Rows) -> pl.Series:
        """(n,) of the column's own type."""
        return rows.table[self.name]


@dataclass(frozen=True, slots=True)
class Joined:
    """Tests joined by ``operator.and_`` or ``operator.or_``."""

    parts: Sequence[Test]
    by: Callable[[Any, Any], Any]

    def of(self, rows: Rows) -> pl.Series:
        """(n,) Boolean, null where unknown."""
        found = self.parts[0].of(rows)
        for part in self.parts[1:]:
            found = self.by(found, part.of(rows))
        return found


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary; of what is unknown, unknown."""

    part: Test

    def of(self, rows: Rows) -> pl.Series:
        """(n,) Boolean, null where unknown."""
        return ~self.part.of(rows)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Whether a value is not known."""

    column: Column

    def of(self, rows: Rows) -> pl.Series:
        """(n,) Boolean."""
        return self.column.of(rows).is_null()


@dataclass(frozen=True, slots=True)
class In:
    """Whether a value is one of a list, in which None is for unknown; `place` is for errors."""

    column: Column
    values: tuple[Value | None, ...]
    place: str

    def of(self, rows: Rows) -> pl.Series:
        """(n,) Boolean, null where unknown."""
        import polars as pl

        wanted = [rows.spelt(self.column, v) for v in self.values if v is not None]
        series = self.column.of(rows)
        for value in wanted:
            check(self.column.name, kind_of(series), value, self.place)
        found = _nothing(series)
        if kind_of(series):
            if series.dtype.is_integer():  # no whole number is 0.5
                wanted = [int(v) for v in wanted if v == int(v)]
            listed = pl.Series(wanted, dtype=series.dtype, strict=False).implode()
            found = series.is_in(listed)
        return found | series.is_null() if None in self.values else found


@dataclass(frozen=True, slots=True)
class Compared:
    """A column against a value or another column; `place` is for errors."""

    column: Column
    compare: Callable[[Any, Any], Any]
    other: Column | Value
    place: str

    def of(self, rows: Rows) -> pl.Series:
        """(n,) Boolean, null where unknown."""
        import polars as pl

        series = self.column.of(rows)
        kind, second = kind_of(series), None
        if isinstance(self.other, Column):
            other: Any = self.other.of(rows)
            second = kind_of(other)
            is_float = series.dtype.is_float() or other.dtype.is_float()
        else:
            other = rows.spelt(self.column, self.other)
            is_float = isinstance(other, float)
        check(self.column.name, kind, self.other, self.place, second)
        if not kind or second == "":
            return _nothing(series)
        if isinstance(other, pl.Series):
            other = _wide(other, is_float)
        found: pl.Series = self.compare(_wide(series, is_float), other)
        return found


def kind_of(series: pl.Series) -> Kind:
    """Say what a column holds."""
    if series.null_count() == len(series):
        return ""
    if not series.dtype.is_numeric():
        return "text"
    return "decimal" if series.dtype.is_float() else "whole"


def check(
    column: str, kind: Kind, other: Column | Value, place: str, second: Kind | None = None
) -> None:
    """Refuse what compares text with numbers: it is never equal, which nobody asks for.

    `second` is what the `other` holds where it is a column; `UsageError` says how to write it.
    """
    one = "text" if kind == "text" else "numbers"
    two = "text" if isinstance(other, str) or second == "text" else "numbers"
    if not kind or second == "" or one == two:
        return
    if isinstance(other, str | int | float):
        written = "without quotes" if one == "numbers" else f"in quotes, {str(other)!r}"
        raise UsageError(
            f"filter: {place}: column {column!r} holds {one}, {other!r} is "
            f"{'text' if two == 'text' else 'a number'}; write it {written}"
        )
    raise UsageError(f"filter: {place}: compares a column of {one} with one of {two}")


def _wide(series: pl.Series, is_float: bool) -> pl.Series:
    """Bring numbers to the one type that they are compared in."""
    import polars as pl

    if not series.dtype.is_numeric():
        return series
    return series.cast(pl.Float64 if is_float or series.dtype.is_float() else pl.Int64)


def _nothing(series: pl.Series) -> pl.Series:
    import polars as pl

    return pl.Series([None] * len(series), dtype=pl.Boolean)
