"""Other indexes in memory; as a script, one of them among a million for search.py.

python -m benchmarks.contenders.graphs NAME FOLDER RECALL...

Builds it, then raises its effort until it finds each share of the true ten neighbours.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

K, ROUNDS = 10, 3
EFFORTS = [10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
Search = Callable[[Any, int], Any]


def hnswlib(vectors: Any) -> tuple[Search, Callable[[Path], None]]:
    """M 16, efConstruction 200: its own example's."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200)
    index.set_num_threads(os.cpu_count())
    index.add_items(vectors)

    def search(queries: Any, effort: int) -> Any:
        index.set_ef(effort)
        return index.knn_query(queries, K)[0]

    return search, lambda file: index.save_index(str(file))


def usearch(vectors: Any) -> tuple[Search, Callable[[Path], None]]:
    """Its defaults, in bfloat16."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="bf16")
    index.add(np.arange(len(vectors)), vectors, threads=os.cpu_count())

    def search(queries: Any, effort: int) -> Any:
        index.expansion_search = effort
        return np.atleast_2d(index.search(queries, K, threads=os.cpu_count()).keys)

    return search, lambda file: index.save(str(file))


def faiss_hnsw(vectors: Any) -> tuple[Search, Callable[[Path], None]]:
    """Its graph of 32 links over float16 vectors."""
    import faiss

    index = faiss.index_factory(vectors.shape[1], "HNSW32,SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:100_000])
    index.add(vectors)

    def search(queries: Any, effort: int) -> Any:
        graph: Any = faiss  # whose stubs lack it
        return index.search(queries, K, params=graph.SearchParametersHNSW(efSearch=effort))[1]

    return search, lambda file: faiss.write_index(index, str(file))


GRAPHS = {"hnswlib": hnswlib, "usearch": usearch, "faiss-hnsw": faiss_hnsw}


def main() -> None:
    """Build, ask, print."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    truth = np.load(folder / "truth.npy")
    began = time.perf_counter()
    search, save = GRAPHS[name](vectors)
    result: dict[str, Any] = {"build_s": round(time.perf_counter() - began, 1)}
    file = folder / "peer.index"
    save(file)
    result["memory_mb"] = round(file.stat().st_size / 1e6, 1)
    file.unlink()
    wanted = list(map(float, sys.argv[3:]))
    for effort in EFFORTS:
        found = search(queries, effort)
        pairs = zip(found.tolist(), truth.tolist(), strict=True)
        share = float(np.mean([len(set(a) & set(b)) / K for a, b in pairs]))
        reached = [w for w in wanted if share >= w]
        for target in reached:
            times = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                search(queries, effort)
                times.append(time.perf_counter() - began)
            wanted.remove(target)
            result[str(target)] = {
                "queries_a_second": round(len(queries) / sorted(times)[ROUNDS // 2]),
                "recall": round(share, 4),
                "effort": effort,
            }
        if not wanted:
            break
    print(json.dumps(result))


if __name__ == "__main__":
    main()
