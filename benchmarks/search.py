"""Searching: exact against FAISS' flat index, approximate against graphs, filters, a cold start.

python -m benchmarks.search [--rows 1000000] [--peers | --earlier FILE] [--folder KEPT]

Clustered vectors of 512 dimensions in a store, four a patient, and queries that are not in it. All
true neighbours are found by numpy alone. Each index is used with the least effort that finds the
share asked for of these queries' true ten; hnswlib, usearch and FAISS' own graph run in a process
each. More of them, with fewer rows: peers.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import environments
from embedstore.index import Index
from embedstore.indexing import make_index
from embedstore.search import Asked, Searcher
from embedstore.store import Store
from embedstore.types import Floats, Recipe, Sample, Spec
from embedstore.writer import Writer

RESULT = Path(__file__).parent / "results" / "search.json"
PEERS = {"hnswlib": "hnswlib", "usearch": "usearch", "faiss-hnsw": ""}  # and their environments
DIM, K, QUERIES, ROUNDS = 512, 10, 2000, 5
CLUSTERS, LATENT = 2000, 48
TARGETS = (0.95, 0.99)
FILTERS = {"1 %": "site == 's07'", "10 %": "vendor == 'v3'", "50 %": "view == 'MLO'"}
BLOCK = 65536


def say(what: str) -> None:
    """Say where it is: a million rows take a while."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def clustered(n: int) -> Floats:
    """(n, 512) vectors of length 1: clusters, each spread in 48 common directions and a little."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, DIM), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    basis = rng.standard_normal((LATENT, DIM), dtype=np.float32) / np.sqrt(DIM)
    made = np.empty((n, DIM), dtype=np.float32)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        spread = 0.9 / np.sqrt(LATENT) * rng.standard_normal((m, LATENT), dtype=np.float32) @ basis
        rest = 0.35 / np.sqrt(DIM) * rng.standard_normal((m, DIM), dtype=np.float32)
        made[start : start + m] = centres[rng.integers(0, CLUSTERS, m)] + spread + rest
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def write(path: Path, vectors: Floats, spec: Spec) -> None:
    """Put them into a store, four a patient, with what the filters ask for."""
    with Writer(path) as writer:
        writer.add_spec(spec, {"precision": "float32"})
        for start in range(0, len(vectors), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(vectors)))
            samples = [
                Sample(
                    f"film{row:07d}",
                    Path("x.png"),
                    f"p{row // 4:06d}",
                    view=("CC", "MLO")[row % 2],
                    labels={"site": f"s{row // 4 % 100:02d}", "vendor": f"v{row // 4 % 10}"},
                )
                for row in rows.tolist()
            ]
            writer.add_samples(samples)
            digests = np.zeros((len(rows), 16), dtype=np.uint8)
            digests[:, :8] = rows.astype("<i8")[:, None].view(np.uint8)
            writer.append(spec, rows, vectors[rows], digests)
            writer.commit()


def by_numpy(queries: Floats, vectors: Floats, passing: NDArray[np.bool_] | None = None) -> Any:
    """(m, 10) true neighbours and their cosines, by numpy alone."""
    best = np.full((len(queries), K), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), K), -1)
    for start in range(0, len(vectors), BLOCK // 4):
        found = queries @ vectors[start : start + BLOCK // 4].T
        if passing is not None:
            found[:, ~passing[start : start + BLOCK // 4]] = -np.inf
        top = np.argpartition(-found, K, axis=1)[:, :K]
        values = np.concatenate([best, np.take_along_axis(found, top, 1)], axis=1)
        every = np.concatenate([rows, top + start], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :K]
        best, rows = np.take_along_axis(values, order, 1), np.take_along_axis(every, order, 1)
    return rows, best


def recall(found: NDArray[Any], truth: NDArray[Any]) -> float:
    """Share of the true ten that were found."""
    pairs = zip(found.tolist(), truth.tolist(), strict=True)
    return statistics.mean(len(set(a) & set(b)) / K for a, b in pairs)


def seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Time a call: the median of some, once warm."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def exact(searcher: Searcher, queries: Floats, vectors: Floats, truth: Any) -> dict[str, Any]:
    """Every vector compared: against FAISS' flat search of the same array, in turn."""
    result = {}
    flat: Any = faiss
    for m in (1, 16, 64, 128, 512):
        some = np.ascontiguousarray(queries[:m])
        asked = Asked(some)
        answer = searcher.search(asked, K, exact=True)
        assert recall(answer.rows, truth[0][:m]) > 0.9999
        assert np.abs(answer.cosines - truth[1][:m]).max() < 1e-5
        pairs = []
        for _ in range(3):
            ours = seconds(lambda asked=asked: searcher.search(asked, K, exact=True), 1)  # type: ignore[misc]
            floor = seconds(
                lambda some=some: flat.knn(some, vectors, K, metric=faiss.METRIC_INNER_PRODUCT),  # type: ignore[misc]
                1,
            )
            pairs.append((m / ours, m / floor))
        result[f"{m} at once"] = {
            "queries_a_second": round(statistics.median(a for a, _ in pairs), 1),
            "faiss_flat": round(statistics.median(b for _, b in pairs), 1),
            "ratio": round(statistics.median(a / b for a, b in pairs), 2),
        }
    return result


def least(index: Index, searcher: Searcher, queries: Floats, truth: Any) -> dict[str, Any]:
    """How many queries a second at each share of the true ten, with the least effort for it."""
    asked, result, saved = Asked(queries), {}, index.effort
    measured = []
    for effort in index._efforts():
        index.effort = effort
        share = recall(searcher.search(asked, K).rows, truth)
        if share >= min(TARGETS):
            spent = seconds(lambda: searcher.search(asked, K), 1)
            measured.append((len(queries) / spent, share, effort))
        if share >= max(TARGETS) and effort.widen > 16:
            break
    for target in TARGETS:
        _, share, effort = max(m for m in measured if m[1] >= target)
        index.effort = effort
        spent = seconds(lambda: searcher.search(asked, K))
        result[str(target)] = {
            "queries_a_second": round(len(queries) / spent),
            "recall": round(share, 4),
            "effort": f"probes {effort.probes}, {effort.widen} proposals for each answer",
        }
    index.effort = saved
    return result


def filtered(searcher: Searcher, queries: Floats, vectors: Floats) -> dict[str, Any]:
    """Ask with filters that let few, some and many through; ten are given always."""
    result = {}
    row = np.arange(len(vectors))
    passing = {"1 %": row // 4 % 100 == 7, "10 %": row // 4 % 10 == 3, "50 %": row % 2 == 1}
    some = queries[:500]
    for name, where in FILTERS.items():
        truth, cosines = by_numpy(some, vectors, passing[name])
        hits = searcher.search(Asked(some), K, where)
        assert passing[name][hits.rows].all()
        assert (np.diff(hits.cosines) <= 0).all()
        assert (hits.cosines <= cosines + 1e-5).all()
        spent = seconds(lambda where=where: searcher.search(Asked(some), K, where))  # type: ignore[misc]
        one = seconds(lambda where=where: searcher.search(Asked(some[:1]), K, where), 20)  # type: ignore[misc]
        result[name] = {
            "queries_a_second": round(len(some) / spent),
            "one_query_ms": round(1000 * one, 2),
            "recall": round(recall(hits.rows, truth), 4),
            "given": int((hits.rows >= 0).sum(axis=1).min()),
        }
    return result


COLD = """
import time; began = time.perf_counter()
import sys, embedstore
store = embedstore.open(sys.argv[1])
found = store.search("benchmark", ["film0500000" if len(store) > 500000 else "film0000100"], k=10)
assert found.ids.shape == (1, 10) and found.kind != "exact", found
"""


def cold(path: Path) -> dict[str, float]:
    """Start Python, open the store, search: all of a process, and of the command, s."""
    code = [sys.executable, "-c", COLD, str(path)]
    command = [str(Path(sys.executable).parent / "embedstore"), "search", str(path)]
    command += ["--id", "film0000100", "-k", "10", "--json"]

    def run(words: list[str]) -> None:
        subprocess.run(words, check=True, capture_output=True)

    return {
        "python_s": round(seconds(lambda: run(code)), 2),
        "command_s": round(seconds(lambda: run(command)), 2),
    }


def peer(name: str, folder: Path) -> Any:
    """Let another build its index of the same vectors, and answer the same queries."""
    python = environments.python(PEERS[name]) if PEERS[name] else sys.executable
    words = [str(python), "-m", "benchmarks.contenders.graphs", name, str(folder)]
    run = subprocess.run(
        words + [str(target) for target in TARGETS],
        capture_output=True,
        text=True,
        cwd=environments.ROOT,
    )
    if run.returncode:
        return {"failed": run.stderr.strip().splitlines()[-1]}
    return json.loads(run.stdout.splitlines()[-1])


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build and ask."""
    spec = Spec("benchmark", "0", Recipe(), "pooled", DIM)
    path = folder / "s.zarr"
    made = clustered(given.rows + QUERIES)
    vectors, queries = made[: given.rows], made[given.rows :].copy()
    if not (folder / "queries.npy").exists():
        write(path, vectors, spec)
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "queries.npy", queries)
    say("truth by numpy")
    truth = by_numpy(queries, vectors)
    np.save(folder / "truth.npy", truth[0])
    store = Store.open(path)
    say("index")
    built, _ = make_index(store, spec)
    searcher = Store.open(path).searcher(spec)
    assert searcher.index is not None
    say("searches")
    result: dict[str, Any] = {
        "rows": given.rows,
        "dim": DIM,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "versions": {"faiss": faiss.__version__, "numpy": np.__version__},
        "exact": exact(searcher, queries, vectors, truth),
        "index": {
            "kind": built.kind,
            "build_s": round(built.seconds, 1),
            "memory_mb": round(built.bytes / 1e6, 1),
            "said_recall": round(built.recall, 4),
            **least(searcher.index, searcher, queries, truth[0]),
        },
        "filtered": filtered(searcher, queries, vectors),
        "cold_start": cold(path),
    }
    del made, vectors
    say("peers")
    result["peers"] = {n: peer(n, folder) for n in PEERS} if given.peers else {}
    if given.earlier:
        result["peers"] = json.loads(given.earlier.read_text())["peers"]
        result["peers_measured"] = "in an earlier run on this machine, of the same vectors"
    for target in map(str, TARGETS):
        others = [p[target]["queries_a_second"] for p in result["peers"].values() if target in p]
        if others:
            ours = result["index"][target]["queries_a_second"]
            result["index"][target]["ratio_to_best_peer"] = round(ours / max(others), 2)
    return result


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--earlier", type=Path, help="a result whose peers are taken over")
    parser.add_argument("--folder", type=Path, help="where the store is kept for another run")
    given = parser.parse_args()
    if given.folder:
        given.folder.mkdir(exist_ok=True)
        result = measure(given, given.folder)
    else:
        with tempfile.TemporaryDirectory() as name:
            result = measure(given, Path(name))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
