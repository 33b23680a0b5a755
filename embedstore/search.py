"""The vectors of a store most like a query: filters, patients and k held inside the search."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from embedstore.chunks import TEXT_ROWS
from embedstore.errors import DataError, UsageError
from embedstore.exact import Best, Rows, Rules, nearest, products, whole
from embedstore.index import EXACT, Index
from embedstore.search_tables import Stored, tables_of, vectors_of
from embedstore.types import Floats, Spec, unit_rows

if TYPE_CHECKING:
    from embedstore.saved_index import Loaded
    from embedstore.search_tables import Tables

Per = Literal["image", "exam", "patient"]

SMALL = 1 << 24
"""Numbers that are compared in some 5 ms, which no index need propose from."""

_MANY = 4096  # queries at a time
_WIDER = (1, 8)
_FILTERED = 17  # bytes a row of what is remembered of a filter
_NONE_PASSES = "no image passes the filter {!r}; `embedstore info` lists the labels' values"
_SCAN = 64  # ids looked up one by one, before all are read
_KEPT = 1 << 22  # ids of as many samples are kept in memory
_TOGETHER = 1 << 19  # ids read together


@dataclass(frozen=True, slots=True)
class Hits:
    """What was found for m queries, most alike first.

    Attributes
    ----------
    cosines
        (m, k) float32, between -1 and 1.
    rows
        (m, k) raw rows of the samples, as `Store.array` takes them.
    ids
        (m, k) str.
    kind
        "exact", or the kind of index that proposed them.
    notes
        What is to be said beside them.
    """

    cosines: Floats
    rows: Rows
    ids: NDArray[np.str_]
    kind: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries, and what must not be answered.

    Attributes
    ----------
    vectors
        (m, d) of any length.
    own
        For each query the places in the vectors of its own images, and of those it shall not be
        like; none where it is of no image in the store.
    """

    vectors: NDArray[np.floating[Any]]
    own: Sequence[NDArray[np.intp]] = ()


@dataclass(frozen=True, slots=True)
class _Choice:
    """What there is to choose from: (n,) which places, and these places, None for all of them.

    `each` has one place for each thing that is answered, and `sizes` how many of those each set
    has.
    """

    allowed: NDArray[np.bool_]
    among: Rows | None
    each: Rows
    sizes: Rows


@dataclass(slots=True)
class Searcher:
    """One Spec's vectors of a store, to search in; several threads may.

    Attributes
    ----------
    loaded
        The index, if there is one.
    small
        How few numbers, of those a filter lets through, are compared one by one all the same.
    filters
        Bytes that what is remembered of filters may take.
    tables, vectors, sets, rows, there
        Of every place in the vectors, n of them: what `Tables` says; (n, d); (n,) number of its
        set, and raw row of its sample; (n,) whether it is neither deleted nor dropped.
    place_of
        (N,) place of every raw row of a sample, -1 where it has none.
    """

    store: Stored
    spec: Spec
    loaded: Loaded | None = None
    small: int = SMALL
    filters: int = 256 << 20
    tables: Tables = field(init=False)
    vectors: NDArray[np.floating[Any]] = field(init=False)
    sets: Rows = field(init=False)
    rows: Rows = field(init=False)
    there: NDArray[np.bool_] = field(init=False)
    place_of: Rows = field(init=False)
    _groupings: dict[str, Rows] = field(default_factory=dict)
    _choices: dict[tuple[str, Per], _Choice] = field(default_factory=dict)
    _names: NDArray[np.str_] | None = None
    _named: int = 0

    def __post_init__(self) -> None:
        """Read the index, and what of the store every search needs."""
        prefix = f"embeddings/{self.spec.key}"
        self.vectors = vectors_of(self.store, self.spec)
        tables = self.loaded.tables if self.loaded else None
        self.tables = tables or tables_of(self.store, self.spec)
        self.sets = self.tables.sets.astype(np.intp)
        self.sets[self.sets < 0] = self.sets.max(initial=-1) + 1  # deleted ones: a set of no query
        self.rows = self.store.array(f"{prefix}/rows").astype(np.intp)
        self.there = np.zeros(len(self.rows), dtype=bool)
        self.there[self.store.places(prefix)] = True
        self.place_of = np.full(self.store.rows("samples/id"), -1)
        self.place_of[self.rows[self.there]] = np.flatnonzero(self.there)

    @property
    def index(self) -> Index | None:
        """The index, where there is one that may be used."""
        return self.loaded.index if self.loaded else None

    def places_of(self, ids: Sequence[str]) -> NDArray[np.intp]:
        """(len(ids),) places in the vectors of these samples.

        Raises
        ------
        UsageError
            There is no such sample, or no vector of it.
        """
        rows = [self._row_of(i) for i in ids] if len(ids) <= _SCAN else self._scan(ids)
        found = self.place_of[rows]
        if (found < 0).any():
            self._refuse_id(ids[int(np.argmin(found))])
        return found

    def _row_of(self, sample: str) -> int:
        """Look one id up in the order of all, without reading all."""
        order = self.tables.order
        at = bisect_left(order, sample, key=lambda row: self._id(int(row)))
        if at == len(order) or self._id(int(order[at])) != sample:
            self._refuse_id(sample)
        return int(order[at])

    def _scan(self, ids: Sequence[str]) -> list[int]:
        wanted, rows = set(ids), dict[str, int]()
        for start in range(0, total := self.store.rows("samples/id"), _TOGETHER):
            some = np.arange(start, min(total, start + _TOGETHER))
            names = self.store.array("samples/id", some).tolist()
            rows |= {name: row for row, name in enumerate(names, start) if name in wanted}
        for sample in ids:
            if sample not in rows:
                self._refuse_id(sample)
        return [rows[sample] for sample in ids]

    def _ids(self, rows: Rows) -> NDArray[np.str_]:
        """Return the ids of samples; many are looked up in all, which are then kept if they may."""
        self._named += len(rows)
        few = self._named * TEXT_ROWS < len(self.place_of)  # less was read for them than all is
        if self._names is None and (few or len(self.place_of) > _KEPT):
            different, at = np.unique(rows, return_inverse=True)
            return self.store.array("samples/id", different)[at]
        if self._names is None:
            self._names = self.store.array("samples/id")
        return self._names[rows]

    def _id(self, row: int) -> str:
        return str(self.store.array("samples/id", np.array([row]))[0])

    def _refuse_id(self, sample: str) -> NoReturn:
        there = self.rows[self.there]
        example = f"; the ids look like {self._id(int(there[0]))!r}" if len(there) else ""
        raise UsageError(
            f"no image {sample!r} among the {len(there)} embedded by {self.spec.backbone}{example}"
        )

    def search(
        self,
        asked: Asked,
        k: int,
        where: str = "",
        per: Per = "image",
        include_same_patient: bool = False,
        exact: bool = False,
    ) -> Hits:
        """Find the `k` most alike samples of each query; see `Store.search`."""
        cosines, places, kind = self.find(asked, k, where, per, include_same_patient, exact)
        notes = (self.loaded.note,) if self.loaded and self.loaded.note else ()
        return self.hits(cosines, places, kind, notes)

    def hits(self, cosines: Floats, places: Rows, kind: str, notes: tuple[str, ...] = ()) -> Hits:
        """Tell which samples are at (m, k) places in the vectors."""
        rows = self.rows[places]
        ids = self._ids(rows.ravel()).reshape(rows.shape)
        return Hits(cosines, rows, ids, kind, notes)

    def barred(self, own: Rows, include_same_patient: bool) -> Rows:
        """Return the places that have no say for a query of its `own`."""
        if include_same_patient or not len(own):
            return own
        return np.flatnonzero(np.isin(self.sets, self.sets[own]))

    def find(
        self,
        asked: Asked,
        k: int,
        where: str = "",
        per: Per = "image",
        include_same_patient: bool = False,
        exact: bool = False,
    ) -> tuple[Floats, Rows, str]:
        """Search, and return (m, k) cosines and places, and the kind of index that proposed."""
        queries = self.unit(asked.vectors)
        choice = self._choice(where, per)
        allowed = choice.allowed
        rules = self._rules(asked, choice, per, include_same_patient)
        self._refuse_k(k, rules, choice, per, where)
        few = bool(where) and len(choice.each) * self.spec.dim <= self.small
        index = None if exact or few else self.index
        cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
        places = np.full((len(queries), k), -1, dtype=np.intp)
        for start in range(0, len(queries), _MANY):
            some = slice(start, start + _MANY)
            answer = self._answer(index, queries[some], k, rules.of(some), allowed)
            cosines[some], places[some] = answer
        if (places < 0).any():
            raise DataError("vectors hold NaN or infinity; they have no neighbours")
        return (
            cosines,
            places,
            self.loaded.made.kind if index is not None and self.loaded else EXACT,
        )

    def unit(self, vectors: NDArray[np.floating[Any]]) -> Floats:
        """(m, d) unit vectors of queries; `DataError` where one is no direction."""
        if vectors.ndim != 2 or vectors.shape[1] != self.spec.dim:
            name, dim = self.spec.backbone, self.spec.dim
            raise DataError(f"queries are {vectors.shape}; vectors of {name} are (n, {dim})")
        if not np.isfinite(vectors).all():
            raise DataError("a query holds NaN or infinity; it has no neighbours")
        if len(zero := np.flatnonzero(~vectors.any(axis=1))):
            raise DataError(f"query {zero[0] + 1} of {len(vectors)} is all zeros: like nothing")
        return unit_rows(vectors)

    def _answer(
        self, index: Index | None, queries: Floats, k: int, rules: Rules, allowed: NDArray[np.bool_]
    ) -> tuple[Floats, Rows]:
        cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
        places = np.full((len(queries), k), -1, dtype=np.intp)
        left = np.arange(len(queries))
        for wider in _WIDER if index is not None else ():
            assert index is not None
            answer = self._by_index(index, queries[left], k, rules.of(left), allowed, wider)
            cosines[left], places[left] = answer
            left = np.flatnonzero(places[:, -1] < 0)
            if not len(left):
                return cosines, places
        cosines[left], places[left] = nearest(
            queries[left], self.vectors, k, self.tables.inverse, rules.of(left)
        )
        return cosines, places

    def _by_index(
        self,
        index: Index,
        queries: Floats,
        k: int,
        rules: Rules,
        allowed: NDArray[np.bool_],
        wider: int,
    ) -> tuple[Floats, Rows]:
        """Rank what the index proposes, and what came after it, by the vectors themselves."""
        cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
        places = np.full((len(queries), k), -1, dtype=np.intp)
        best = Best(cosines, places, rules)
        within = allowed[: len(index)]
        most = min(len(index), (k * index.effort.widen + self._own_most(rules)) * wider)
        proposed = index.propose(queries, most, None if within.all() else within)
        best.offer(proposed, self.cosines(queries, proposed))
        if len(late := np.flatnonzero(allowed[len(index) :])):
            among = Rules(late + len(index), rules.sets, rules.barred, rules.one_of)
            found, rows = nearest(queries, self.vectors, k, self.tables.inverse, among)
            best.offer(rows, found)
        return np.clip(cosines, -1, 1, out=cosines, where=places >= 0), places

    def _own_most(self, rules: Rules) -> int:
        """How many places at most are barred for a query."""
        if rules.barred is None:
            return 0
        if rules.sets is not self.sets:
            return int(rules.barred.shape[1])
        sizes = self._choice("", "image").sizes
        return int(np.where(rules.barred >= 0, sizes[rules.barred], 0).sum(axis=1).max())

    def cosines(self, queries: Floats, places: NDArray[np.int64]) -> Floats:
        """(m, w) cosines of queries with the vectors at (m, w) places; at -1, anything."""
        if whole(self.vectors):
            found = products(queries, self.vectors, places)
        else:
            found = np.empty(places.shape, dtype=np.float32)
            step = max(1, SMALL // max(1, places.shape[1] * self.spec.dim))
            for at in range(0, len(places), step):
                some = slice(at, at + step)
                vectors = self.vectors[places[some]].astype(np.float32)
                found[some] = np.einsum("md,mwd->mw", queries[some], vectors)
        found *= self.tables.inverse[places]
        return found

    def _choice(self, where: str, per: Per) -> _Choice:
        """Tell what a filter leaves to choose from, and remember: it costs more than a query."""
        if (known := self._choices.get((where, per))) is not None:
            return known
        allowed = self.there
        if where:
            allowed = np.zeros(len(self.rows), dtype=bool)
            places = np.flatnonzero(self.there)
            allowed[places] = _passing(self.store, where, self.rows[places])
        among = np.flatnonzero(allowed)
        one_of = self.grouping(per)
        each = among
        if one_of is not None:
            each = among[np.unique(one_of[among], return_index=True)[1]]
        sizes = np.bincount(self.sets[each], minlength=int(self.sets.max(initial=0)) + 1)
        found = _Choice(allowed, None if len(among) == len(allowed) else among, each, sizes)
        if len(self._choices) >= max(4, self.filters // (_FILTERED * max(1, len(self.rows)))):
            self._choices.clear()
        self._choices[where, per] = found
        return found

    def passing(self, where: str = "") -> Rows:
        """(m,) places of the samples that pass a filter, of all without one.

        Raises
        ------
        UsageError
            The filter is none.
        DataError
            None passes.
        """
        found = np.flatnonzero(self._choice(where, "image").allowed)
        if where and not len(found):
            raise DataError(_NONE_PASSES.format(where))
        return found

    def _rules(self, asked: Asked, choice: _Choice, per: Per, include_same_patient: bool) -> Rules:
        widest = max((len(own) for own in asked.own), default=0)
        one_of = self.grouping(per)
        if not widest:
            return Rules(choice.among, one_of=one_of)
        sets = np.arange(len(self.rows)) if include_same_patient else self.sets
        barred = np.full((len(asked.own), widest), -1, dtype=np.intp)
        for n, own in enumerate(asked.own):
            different = np.unique(sets[own])
            barred[n, : len(different)] = different
        return Rules(choice.among, sets, barred, one_of)

    def grouping(self, per: Per) -> Rows | None:
        """(n,) number of the patient or exam of each place; unknown ones are each their own."""
        if per == "image":
            return None
        if per not in self._groupings:
            name = "group" if per == "patient" else "exam"
            values = self.store.array(f"samples/{name}", self.rows)
            _, number = np.unique(values, return_inverse=True)
            alone = values == ""
            number[alone] = len(values) + np.arange(alone.sum())
            self._groupings[per] = number.astype(np.intp)
        return self._groupings[per]

    def _refuse_k(self, k: int, rules: Rules, choice: _Choice, per: Per, where: str) -> None:
        """Raise an error where some query has fewer than `k` to choose from."""
        if where and not len(choice.each):
            raise DataError(_NONE_PASSES.format(where))
        left = len(choice.each)
        if rules.barred is not None:
            sizes = choice.sizes
            if rules.sets is not self.sets:  # each place is a set of its own
                sizes = np.zeros(len(self.rows), dtype=np.int8)
                sizes[choice.each] = 1
            left -= int(np.where(rules.barred >= 0, sizes[rules.barred], 0).sum(axis=1).max())
        if not 1 <= k <= left:
            passing = " that pass the filter" if where else ""
            raise UsageError(f"k is {k}; there are {left} {nouns(per)}{passing} to choose from")


def nouns(per: Per) -> str:
    """Return what is answered, in the plural."""
    return {"image": "images", "exam": "exams", "patient": "patients"}[per]


def _passing(store: Stored, where: str, rows: Rows) -> NDArray[np.bool_]:
    """(len(rows),): which samples pass a filter; only the columns that it names are read."""
    from embedstore.privacy import alias_of
    from embedstore.table import frame
    from embedstore.where import parse

    test = parse(where)
    known = store.column_names
    if not set(test.columns) <= set(known):
        return test.keep(frame({name: [] for name in known}, ()))  # which refuses it
    columns = {n: store.array(store.column_array(n), rows).tolist() for n in test.columns}
    people = [v for n in ("group", "exam") if n in columns for v in columns[n]]
    return test.keep(frame(columns, store.labels), alias_of(store.path, people))
