"""A LanceDB database as another place to search in: on the disk, or in object storage.

::

    <URI>/
      <Spec.key>-<state>      a table: place (int64), vector (d float32 or float16, unit), c0, c1, …

The columns c0, c1, … are those of `Store.column_names`, in order, with NULL where unknown; of a
column of which nothing is known only NULL, as Boolean. The state is a fingerprint of what the store
held, so that a table is of the store as it is, or is not used. A copy that was stopped goes on
where it was; the tables of earlier states go when one is whole.

An engine proposes, as an index does: what is answered are the store's own vectors' cosines.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.conditions import Kind, kind_of
from embedstore.engine_filter import column, expression, literal
from embedstore.errors import DataError, StoreError, UsageError
from embedstore.exact import Best, Rows, Rules
from embedstore.privacy import alias_of
from embedstore.saved_index import Progress
from embedstore.search import Asked, Hits, Per, Searcher, nouns
from embedstore.search_tables import Stored, vectors_of
from embedstore.types import Floats, Spec, fingerprint, unit_rows
from embedstore.where import parse

NAME = "lancedb"

_FORMAT = 1
_INDICES = {"IVF_FLAT": "IvfFlat", "IVF_SQ": "IvfSq", "IVF_PQ": "IvfPq", "IVF_RQ": "IvfRq"}
_BLOCK = 65536
_LOOKED_AT = 64  # vectors whose ids and files are in a fingerprint
_WIDER = 4  # times as many are asked for, until no other can be among the answers
_LEAST, _MOST = 32, 1 << 16  # asked for at first, and in one answer
_SAID = 200  # characters of an error of the engine's
_PROPOSALS = 16  # for each k, where the engine has an index of its own
_ROUNDED = {"float32": 2.0**-17, "float16": 2.0**-10}  # error of a cosine of such unit vectors


def state_of(store: Stored, spec: Spec) -> str:
    """Return a fingerprint of the vectors of a Spec and of the table of samples."""
    prefix = f"embeddings/{spec.key}"
    said = [
        [name, about["shape"], about["attributes"].get("rewrites", 0)]
        for name, about in sorted(store.arrays.items())
        if name.startswith(("samples/", f"{prefix}/")) and about["node_type"] == "array"
    ]
    every = store.rows(f"{prefix}/rows")
    some = np.unique(np.linspace(0, every, _LOOKED_AT, endpoint=False).astype(np.intp))
    some = some[some < every]
    rows = store.array(f"{prefix}/rows", some).astype(np.intp)
    ids = store.array("samples/id", rows).tolist()
    files = store.array(f"{prefix}/digests", some).tobytes().hex()
    return fingerprint([_FORMAT, said, ids, files])


def fill(
    store: Stored,
    spec: Spec,
    uri: str,
    kind: str = "",
    on_progress: Progress = lambda done, total: None,
) -> tuple[int, str]:
    """Copy the vectors of a Spec and the table into an engine, or what is missing there of them.

    Parameters
    ----------
    kind
        An index the engine shall make, such as ``IVF_PQ``; by default it compares all.

    Returns
    -------
    tuple
        How many vectors it holds, and "built", "went on" or "as it was".

    Raises
    ------
    DataError
        There are no vectors.
    StoreError
        The engine refuses.
    UsageError
        LanceDB is not installed, or has no such index.
    """
    places = store.places(f"embeddings/{spec.key}")
    if kind and kind not in _INDICES:
        raise UsageError(f"the engine has no index {kind!r}; there are {', '.join(_INDICES)}")
    if not len(places):
        raise DataError(f"{store.path}: holds no vectors of {spec.backbone} yet")
    kinds = _kinds_of(store, spec, places)
    name = _name(store, spec)
    with _Told(uri):
        database = _connected(uri)
        names = _tables(database)
        if name in names:
            table = database.open_table(name)
        else:
            table = database.create_table(name, schema=_schema(spec, kinds))
        before = done = table.count_rows()
        on_progress(done, len(places))
        while done < len(places):
            some = places[done : done + _BLOCK]
            table.add(_block(store, spec, kinds, some))
            done += len(some)
            on_progress(done, len(places))
        if table.count_rows() != len(places):
            database.drop_table(name)
            raise StoreError(f"{uri}: was filled by two at once; fill it again")
        there = _index_of(table)
        if kind and kind != there:
            _make_index(table, kind)
        for other in names:
            if other.startswith(f"{spec.key}-") and other != name:
                database.drop_table(other)
    if before == len(places) and kind in ("", there):
        return len(places), "as it was"
    return len(places), "went on" if before else "built"


def drop(spec: Spec, uri: str) -> bool:
    """Remove what an engine holds of a Spec; say whether it held something."""
    with _Told(uri):
        database = _connected(uri)
        names = [name for name in _tables(database) if name.startswith(f"{spec.key}-")]
        for name in names:
            database.drop_table(name)
    return bool(names)


@dataclass(frozen=True, slots=True)
class Engine:
    """A table of an engine that is of a store as it is now."""

    table: Any
    uri: str
    kinds: Mapping[str, Kind]
    index: str

    @classmethod
    def open(cls, store: Stored, spec: Spec, uri: str) -> Engine:
        """Open what `fill` made.

        Raises
        ------
        StoreError
            There is none, it is of another state of the store, or only begun.
        UsageError
            LanceDB is not installed.
        """
        words = ["embedstore", "index", str(store.path), "--backbone", spec.backbone]
        again = f"fill it: {shlex.join([*words, '--engine', str(uri)])}"
        with _Told(uri):
            database, name = _connected(uri), _name(store, spec)
            names = _tables(database)
            if name not in names:
                old = any(other.startswith(f"{spec.key}-") for other in names)
                what = "holds another state of the store" if old else "holds no such vectors"
                raise StoreError(f"{uri}: {what}; {again}")
            table = database.open_table(name)
            if table.count_rows() != len(store.places(f"embeddings/{spec.key}")):
                raise StoreError(f"{uri}: is not filled to its end; {again}")
            kinds = dict(zip(store.column_names, _kinds_in(table.schema), strict=True))
            return cls(table, uri, kinds, _index_of(table))

    def search(
        self,
        searcher: Searcher,
        asked: Asked,
        k: int,
        where: str = "",
        per: Per = "image",
        include_same_patient: bool = False,
        exact: bool = False,
    ) -> Hits:
        """Find the `k` most alike samples of each query, as `Searcher.search` does."""
        queries = searcher.unit(asked.vectors)
        condition = self._condition(searcher, where)
        one_of = searcher.grouping(per)
        cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
        places = np.full((len(queries), k), -1, dtype=np.intp)
        index = "" if exact else self.index
        for n in range(len(queries)):
            own = asked.own[n] if asked.own else places[:0, 0]
            barred = searcher.barred(own, include_same_patient)
            few = f"place NOT IN ({', '.join(map(str, barred.tolist()))})" if len(barred) else ""
            parts = " AND ".join(part for part in (condition, few) if part)
            some = slice(n, n + 1)
            best = Best(cosines[some], places[some], Rules(one_of=one_of))
            found = self._propose(searcher, queries[some], k, parts, best, index)
            if places[n, -1] < 0:
                left = int((places[n] >= 0).sum()) if found else 0
                passing = " that pass the filter" if where else ""
                raise DataError(f"k is {k}; there are {left} {nouns(per)}{passing} to choose from")
        kind = f"{NAME} {index}" if index else NAME
        return searcher.hits(np.clip(cosines, -1, 1), places, kind)

    def _propose(
        self, searcher: Searcher, query: Floats, k: int, condition: str, best: Best, index: str
    ) -> int:
        """Ask for more until no vector that was not proposed can be among the answers."""
        wide, total = max(_LEAST, k * (_PROPOSALS if index else 2)), len(searcher.rows)
        while True:
            near, places = self._ask(searcher.spec, query[0], wide, condition, bool(index))
            best.cosines[:], best.rows[:] = -np.inf, -1
            best.offer(places[None], searcher.cosines(query, places[None]))
            whole = len(places) < wide or wide >= total
            # the engine's own cosines are of rounded vectors
            sure = len(near) and near.min() + _ROUNDED[searcher.spec.dtype] < best.cosines[0, -1]
            if whole or (best.rows[0, -1] >= 0 and (sure or index)):
                return len(places)
            wide *= _WIDER

    def _ask(
        self, spec: Spec, query: Floats, wide: int, condition: str, by_index: bool
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Return cosines as the engine has them, and places."""
        with _Told(self.uri):
            asked = self.table.search(query.astype(spec.dtype)).distance_type("dot").limit(wide)
            if condition:
                asked = asked.where(condition, prefilter=True)
            if not by_index and self.index:
                asked = asked.bypass_vector_index()
            found = asked.select(["place", "_distance"]).to_arrow()
        near = 1 - found["_distance"].to_numpy().astype(np.float32)
        return near, found["place"].to_numpy().astype(np.int64)

    def _condition(self, searcher: Searcher, where: str) -> str:
        if not where:
            return ""
        return f"({expression(parse(where), self.kinds, self._alias(searcher))})"

    def _alias(self, searcher: Searcher) -> Any:
        """Return what makes a patient's or exam's id the store's, without reading all ids."""
        names = [column(self.kinds, name) for name in ("group", "exam") if self.kinds[name]]
        with _Told(self.uri):
            some = self.table.search().select(names).limit(_LOOKED_AT).to_arrow() if names else {}
        looks = [v for name in names for v in some[name].to_pylist() if v]
        alias = alias_of(searcher.store.path, looks)

        def of(value: str) -> str:
            is_known = " OR ".join(f"{name} = {literal(value)}" for name in names)
            with _Told(self.uri):
                known = bool(names) and self.table.count_rows(is_known) > 0
            return value if known else alias(value)

        return of


class _Told:
    """Say in one line what an engine's error is."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError | RuntimeError | ValueError):
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            said = re.sub(r"\w+://\S+", "…", said)[:_SAID]
            raise StoreError(f"{self.uri}: the engine refuses: {said}") from error


def _connected(uri: str) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise UsageError("--engine needs LanceDB: pip install 'embedstore[lancedb]'") from error
    if "://" not in uri:
        uri = str(Path(uri).expanduser())
    return lancedb.connect(uri)


def _tables(database: Any) -> list[str]:
    names: list[str] = []
    token = None
    while True:
        found = database.list_tables(page_token=token, limit=1000)
        names += found.tables
        if not (token := found.page_token) or not found.tables:
            return names


def _name(store: Stored, spec: Spec) -> str:
    return f"{spec.key}-{state_of(store, spec)}"


def _kinds_of(store: Stored, spec: Spec, places: Rows) -> dict[str, Kind]:
    """Tell what each column holds, by all its values."""
    from embedstore.table import frame

    rows = store.array(f"embeddings/{spec.key}/rows", places).astype(np.intp)
    found: dict[str, Kind] = {}
    for name in store.column_names:
        values = store.array(store.column_array(name), rows).tolist()
        found[name] = kind_of(frame({name: values}, store.labels)[name])
    return found


def _schema(spec: Spec, kinds: Mapping[str, Kind]) -> Any:
    import pyarrow as pa

    types = {"text": pa.string(), "whole": pa.int64(), "decimal": pa.float64(), "": pa.bool_()}
    number = pa.float16() if spec.dtype == "float16" else pa.float32()
    fields = [pa.field("place", pa.int64()), pa.field("vector", pa.list_(number, spec.dim))]
    return pa.schema(
        [*fields, *(pa.field(f"c{n}", types[k]) for n, k in enumerate(kinds.values()))]
    )


def _kinds_in(schema: Any) -> Iterator[Kind]:
    names: dict[str, Kind] = {"string": "text", "int64": "whole", "double": "decimal", "bool": ""}
    for n in range(len(schema.names) - 2):
        yield names[str(schema.field(f"c{n}").type)]


def _block(store: Stored, spec: Spec, kinds: Mapping[str, Kind], places: Rows) -> Any:
    """Make rows of the table."""
    import polars as pl
    import pyarrow as pa

    rows = store.array(f"embeddings/{spec.key}/rows", places).astype(np.intp)
    schema = _schema(spec, kinds)
    unit = unit_rows(vectors_of(store, spec)[places]).astype(spec.dtype)
    values = pa.array(unit.ravel())
    columns = [pa.array(places), pa.FixedSizeListArray.from_arrays(values, spec.dim)]
    types = {"text": pl.String, "whole": pl.Int64, "decimal": pl.Float64, "": pl.Boolean}
    for name, kind in kinds.items():
        texts = pl.Series(store.array(store.column_array(name), rows).tolist(), dtype=pl.String)
        texts = texts.set(texts == "", None)
        made = texts.cast(types[kind]) if kind else pl.Series([None] * len(texts), dtype=pl.Boolean)
        columns.append(pa.array(made.to_list(), schema.field(f"c{len(columns) - 2}").type))
    return pa.table(columns, schema=schema)


def _index_of(table: Any) -> str:
    """Return the kind of the index an engine has of the vectors, "" for none."""
    found: Iterable[Any] = table.list_indices()
    names = {theirs: kind for kind, theirs in _INDICES.items()}
    made = (str(one.index_type) for one in found if one.columns == ["vector"])
    return next((names.get(theirs, theirs) for theirs in made), "")


def _make_index(table: Any, kind: str) -> None:
    from lancedb import index

    table.create_index("vector", config=getattr(index, _INDICES[kind])(distance_type="dot"))
