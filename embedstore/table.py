"""The samples of a store as a polars DataFrame."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import polars as pl

# no more digits than the types keep
_WHOLE = r"^-?(0|[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"


def frame(columns: Mapping[str, Sequence[str]], labels: Collection[str]) -> pl.DataFrame:
    """Make a table of text columns; what is unknown ("") is null.

    A label whose every known value is a number becomes one, Int64 or Float64, so that an age can
    be compared and averaged. Ids stay text, and so does a label with values such as "007", which
    a number would not give back. All other columns stay text, whatever they hold: they name
    things, and "1" must go on joining with "1".
    """
    made = {name: pl.Series(name, values, dtype=pl.String) for name, values in columns.items()}
    known = {name: _nulled(values) for name, values in made.items()}
    return pl.DataFrame([_number(v) if n in labels else v for n, v in known.items()])


def _nulled(values: pl.Series) -> pl.Series:
    return values.set(values == "", None)


def _number(values: pl.Series) -> pl.Series:
    if values.null_count() == len(values):
        return values
    for pattern, dtype in ((_WHOLE, pl.Int64), (_DECIMAL, pl.Float64)):
        if values.str.contains(pattern).all():
            return values.cast(dtype)
    return values
