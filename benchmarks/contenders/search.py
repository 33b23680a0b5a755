"""Ten nearest neighbours: built, compared one by one, proposed by an index, and through a filter.

Approximate searches use the least effort that finds 0.95 of the true ten.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contenders.area import Area, Bound, Contender, Work
from benchmarks.contenders.graphs import EFFORTS, GRAPHS, K, Search

RECALL, ONE_BY_ONE, MANY, AT_ONCE = 0.95, 100, 1000, 64
BUILD = "build an index"
EXACT = f"exact, {AT_ONCE} at once"
APPROXIMATE = f"recall {RECALL}, {MANY:,} at once"
SINGLE = f"recall {RECALL}, one by one"
FILTERED = "of a tenth that passes a filter, one by one"


def make(folder: Path, quick: bool) -> str:
    """Write a store of clustered vectors, and queries with their neighbours by numpy."""
    from benchmarks.search import by_numpy, clustered, write
    from embedstore.types import Recipe, Spec

    n = 20_000 if quick else 50_000
    made = clustered(n + MANY)
    vectors, queries = made[:n], made[n:]
    write(folder / "s.zarr", vectors, Spec("benchmark", "0", Recipe(), "pooled", 512))
    truth, _ = by_numpy(queries, vectors)
    passing, _ = by_numpy(queries[:ONE_BY_ONE], vectors, vendor(n) == "v3")
    arrays = {"vectors": vectors, "queries": queries, "truth": truth, "passing": passing}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return f"{n:,} x 512, clustered"


def vendor(n: int) -> Any:
    """Return what each row is filtered by, as in the store."""
    return np.array([f"v{row // 4 % 10}" for row in range(n)])


def missed(task: str, folder: Path, answer: Any, ours: Any) -> float:
    """Share of the true ten that are not among the answers."""
    if task == BUILD:
        return 0.0
    truth = np.load(folder / ("passing.npy" if task == FILTERED else "truth.npy"))
    return 1 - found_share(answer, truth[: len(answer)])


def found_share(answer: Any, truth: Any) -> float:
    """Share of the true ten that was found."""
    pairs = zip(answer.tolist(), truth.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(t)) / K for a, t in pairs]))


class Given(NamedTuple):
    """What is searched, what is asked, and the true answers."""

    vectors: Any
    queries: Any
    truth: Any

    @classmethod
    def of(cls, folder: Path) -> Given:
        """Read it."""
        return cls(*(np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "truth")))


def single(queries: Any, search: Callable[[Any], Any]) -> Any:
    """Ask one by one."""
    return np.concatenate([search(queries[i : i + 1]) for i in range(ONE_BY_ONE)])


def approximate(given: Given, search: Search) -> Mapping[str, Work]:
    """Search by the least effort that finds enough, which is found when first asked."""

    @functools.cache
    def effort() -> int:
        for effort in EFFORTS:
            if found_share(search(given.queries, effort), given.truth) >= RECALL:
                break
        return effort

    return {
        APPROXIMATE: Work(lambda empty: search(given.queries, effort())),
        SINGLE: Work(lambda empty: single(given.queries, lambda q: search(q, effort()))),
    }


def embedstore(folder: Path) -> Mapping[str, Work]:
    """Let it choose, as a user would: of so few rows, to compare them all.

    Its index of larger stores is measured by `benchmarks.search`, among a million.
    """
    from embedstore.indexing import make_index
    from embedstore.search import Asked, Searcher
    from embedstore.store import Store

    queries = np.load(folder / "queries.npy")

    def build(empty: Path) -> Any:
        store = Store.open(folder / "s.zarr")
        make_index(store, next(iter(store.specs.values())))
        return [0]

    @functools.cache
    def searcher() -> Searcher:
        store = Store.open(folder / "s.zarr")
        return store.searcher(next(iter(store.specs.values())))

    def search(queries: Any, **how: Any) -> Any:
        return searcher().search(Asked(queries), K, **how).rows

    def filtered(query: Any) -> Any:
        return search(query, where="vendor == 'v3'")

    return {
        BUILD: Work(build),
        EXACT: Work(lambda empty: search(queries[:AT_ONCE], exact=True)),
        APPROXIMATE: Work(lambda empty: search(queries)),
        SINGLE: Work(lambda empty: single(queries, search)),
        FILTERED: Work(lambda empty: single(queries, filtered)),
    }


def faiss_flat(folder: Path) -> Mapping[str, Work]:
    """FAISS' flat index; of a filter it is told the rows that pass."""
    import faiss

    theirs: Any = faiss  # whose stubs lack some
    given = Given.of(folder)
    index = theirs.IndexFlatIP(given.vectors.shape[1])
    index.add(given.vectors)
    rows = np.flatnonzero(vendor(len(given.vectors)) == "v3")
    passing = theirs.SearchParameters(sel=theirs.IDSelectorBatch(rows))

    def filtered(query: Any) -> Any:
        return index.search(query, K, params=passing)[1]

    return {
        EXACT: Work(lambda empty: index.search(given.queries[:AT_ONCE], K)[1]),
        FILTERED: Work(lambda empty: single(given.queries, filtered)),
    }


def graph(name: str) -> Callable[[Path], Mapping[str, Work]]:
    """Build an index in memory."""

    def start(folder: Path) -> Mapping[str, Work]:
        given, made = Given.of(folder), []

        def build(empty: Path) -> Any:
            made.append(GRAPHS[name](given.vectors)[0])
            return [0]

        return {BUILD: Work(build), **approximate(given, lambda q, effort: made[0](q, effort))}

    return start


def lancedb(folder: Path) -> Mapping[str, Work]:
    """LanceDB: IVF over product-quantised vectors, its default, answers ranked by the vectors."""
    import lancedb
    import pyarrow as pa

    given = Given.of(folder)
    flat = pa.array(given.vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, given.vectors.shape[1])
    n = len(given.vectors)
    rows = pa.table({"row": np.arange(n), "vendor": vendor(n).tolist(), "vector": column})
    table = lancedb.connect(str(folder / "lancedb")).create_table("films", rows)

    def build(empty: Path) -> Any:
        table.create_index(metric="dot", vector_column_name="vector")
        return [0]

    def asked(query: Any) -> Any:
        search: Any = table.search(query[0])  # of which kind, it finds out itself
        return search.distance_type("dot").select(["row"]).limit(K)

    def rows_of(search: Any) -> Any:
        return search.to_arrow()["row"].to_numpy()[None]

    def near(query: Any, effort: int) -> Any:
        return rows_of(asked(query).nprobes(effort).refine_factor(10))

    def search(queries: Any, effort: int) -> Any:
        return np.concatenate([near(queries[i : i + 1], effort) for i in range(len(queries))])

    def filtered(query: Any) -> Any:
        return rows_of(asked(query).where("vendor = 'v3'", prefilter=True).bypass_vector_index())

    found = approximate(
        Given(given.vectors, given.queries[:ONE_BY_ONE], given.truth[:ONE_BY_ONE]), search
    )
    return {
        BUILD: Work(build),
        SINGLE: found[SINGLE],
        FILTERED: Work(lambda empty: single(given.queries, filtered)),
    }


def chromadb(folder: Path) -> Mapping[str, Work]:
    """Chroma, its defaults, on disk."""
    import chromadb

    given = Given.of(folder)
    vendors = vendor(len(given.vectors))
    client = chromadb.PersistentClient(
        str(folder / "chroma"), chromadb.Settings(anonymized_telemetry=False)
    )
    films = client.create_collection("films", configuration={"hnsw": {"space": "ip"}})

    def build(empty: Path) -> Any:
        for start in range(0, len(vendors), 5000):
            block = range(start, min(start + 5000, len(vendors)))
            films.add(
                [str(row) for row in block],
                given.vectors[block.start : block.stop],
                [{"vendor": str(vendors[row])} for row in block],
            )
        return [0]

    def search(queries: Any, **how: Any) -> Any:
        found = films.query(query_embeddings=queries, n_results=K, include=[], **how)
        return np.array(found["ids"]).astype(np.int64)

    def filtered(query: Any) -> Any:
        return search(query, where={"vendor": "v3"})

    return {
        BUILD: Work(build),
        APPROXIMATE: Work(lambda empty: search(given.queries)),
        SINGLE: Work(lambda empty: single(given.queries, search)),
        FILTERED: Work(lambda empty: single(given.queries, filtered)),
    }


MISSED = "share of the true ten that is missed"
AREA = Area(
    "Retrieval",
    {
        BUILD: Bound(0.0, "not compared", once=True),
        EXACT: Bound(1e-4, MISSED),
        APPROXIMATE: Bound(1 - RECALL, MISSED),
        SINGLE: Bound(1 - RECALL, MISSED),
        FILTERED: Bound(1 - RECALL, MISSED),
    },
    {
        "embedstore": Contender("", embedstore),
        "FAISS, flat": Contender("", faiss_flat),
        "FAISS, HNSW32 in float16": Contender("", graph("faiss-hnsw")),
        "hnswlib": Contender("hnswlib", graph("hnswlib")),
        "usearch": Contender("usearch", graph("usearch")),
        "LanceDB": Contender("lancedb", lancedb),
        "Chroma": Contender("chromadb", chromadb),
    },
    make,
    missed,
)
