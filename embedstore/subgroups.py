"""Subgroups: the images of a vendor, a site, a view, an age band, to take scores of each alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError, UsageError

FEW_PATIENTS = 20
_MOST = 30


@dataclass(frozen=True, slots=True)
class By:
    """A column to take scores by; with `edges`, its numbers by bands between them."""

    column: str
    edges: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> By:
        """Read ``vendor`` or ``age:40,50,60``.

        Raises
        ------
        UsageError
            The edges are no ascending numbers.
        """
        column, _, rest = text.partition(":")
        try:
            edges = tuple(float(e) for e in rest.split(",")) if rest else ()
        except ValueError:
            edges = (1.0, 0.0)
        if any(a >= b for a, b in zip(edges, edges[1:], strict=False)):
            raise UsageError(f"--by {text}: edges are ascending numbers, such as age:40,50,60")
        return cls(column, edges)

    def parts(
        self, columns: Mapping[str, NDArray[np.str_]]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield each value or band, and which of the (n,) images it is of; "" is left out.

        Raises
        ------
        UsageError
            There is no such column.
        DataError
            It has one value, too many, or words where bands want numbers.
        """
        if self.column not in columns:
            raise UsageError(f"no column {self.column!r} for --by; there are {', '.join(columns)}")
        values = columns[self.column]
        named = _banded(self.column, values, self.edges) if self.edges else values
        found = sorted(set(named.tolist()) - {""}, key=_place(self.edges))
        if len(found) < 2:
            said = f"it has one value, {found[0]}" if found else "it is empty for all"
            raise DataError(f"--by {self.column}: {said}")
        if len(found) > _MOST:
            raise DataError(
                f"--by {self.column}: {len(found)} values; give bands, such as {self.column}:40,60"
            )
        for value in found:
            yield value, named == value


def _banded(column: str, values: NDArray[np.str_], edges: Sequence[float]) -> NDArray[np.str_]:
    names = _bands(edges)
    out = np.full(len(values), "", dtype=f"<U{max(map(len, names))}")
    for i, value in enumerate(values.tolist()):
        if not value:
            continue
        try:
            number = float(value)
        except ValueError as error:
            raise DataError(f"--by {column}: bands want numbers, not {value!r}") from error
        if not np.isnan(number):
            out[i] = names[int(np.searchsorted(edges, number, side="right"))]
    return out


def _bands(edges: Sequence[float]) -> list[str]:
    between = [f"{a:g} to {b:g}" for a, b in zip(edges, edges[1:], strict=False)]
    return [f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over"]


def _place(edges: Sequence[float]) -> Callable[[str], str]:
    names = {name: f"{i:03d}" for i, name in enumerate(_bands(edges))} if edges else {}
    return lambda value: names.get(value, value)
