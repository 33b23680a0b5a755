"""Writing, reading, gathering and appending vectors: the store against a numpy memmap, in one run.

python benchmarks/store.py [--rows 1000000] [--dim 512]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.store import Store
from embedstore.types import Floats, Recipe, Sample, Spec
from embedstore.writer import Writer

RESULT = Path(__file__).parent / "results" / "store.json"
GATHERED, APPENDED = 10_000, 1_000
ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(ours: Callable[[], object], floor: Callable[[], object]) -> float:
    """Return the median of the ratio of two, timed in turn once both are warm."""
    pairs = [(seconds(ours), seconds(floor)) for _ in range(ROUNDS + 1)][1:]
    return round(statistics.median(a / b for a, b in pairs), 2)


def append(path: Path, spec: Spec, vectors: Floats) -> None:
    """Add samples with vectors to a store, perhaps a new one, in commits of 16,384 rows."""
    with Writer(path) as writer:
        start = writer.store().rows("samples/id")
        rows = np.arange(start, start + len(vectors))
        writer.add_samples([Sample(f"film{row:07d}", Path("x.png")) for row in rows])
        writer.add_spec(spec, {})
        for done in range(0, len(vectors), 16384):
            part = slice(done, min(done + 16384, len(vectors)))
            digests = np.zeros((part.stop - part.start, 16), np.uint8)
            writer.append(spec, rows[part], vectors[part], digests)
            writer.commit()


def write_memmap(path: Path, vectors: Floats) -> None:
    """Write the same to one flat file, flushed."""
    mapped = np.memmap(path, dtype=vectors.dtype, mode="w+", shape=vectors.shape)
    mapped[:] = vectors
    mapped.flush()


def appending(folder: Path, full: Path, spec: Spec, vectors: Floats) -> dict[str, float]:
    """Append some rows to the full store and to an empty one, in turn."""
    pairs = []
    for turn in range(ROUNDS + 1):
        empty = folder / f"{turn}.zarr"
        append(empty, spec, vectors[:0])
        pairs.append(
            (
                seconds(lambda: append(full, spec, vectors)),
                seconds(lambda empty=empty: append(empty, spec, vectors)),  # type: ignore[misc]
            )
        )
    return {
        "to_full_ms": round(1000 * statistics.median(a for a, _ in pairs[1:]), 1),
        "to_empty_ms": round(1000 * statistics.median(b for _, b in pairs[1:]), 1),
        "ratio": round(statistics.median(a / b for a, b in pairs[1:]), 2),
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((given.rows, given.dim), dtype=np.float32)
    wanted = rng.integers(0, given.rows, GATHERED)
    spec = Spec("benchmark", "0", Recipe(), "pooled", given.dim)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flat, path = folder / "flat.bin", folder / "s.zarr"
        written = seconds(lambda: append(path, spec, vectors))
        floor = seconds(lambda: write_memmap(flat, vectors))
        some = vectors[:APPENDED].copy()
        mapped = np.memmap(flat, dtype=np.float32, mode="r", shape=(given.rows, given.dim))
        store = Store.open(path)
        result = {
            "rows": given.rows,
            "dim": given.dim,
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
            "ratio_to_memmap": {
                "write": round(written / floor, 2),
                "read all": compare(
                    lambda: np.array(store.vectors(spec)), lambda: np.array(mapped)
                ),
                f"gather {GATHERED:,} rows": compare(
                    lambda: store.vectors(spec)[wanted], lambda: mapped[wanted]
                ),
            },
            f"gather_{GATHERED}_by_id_ms": by_id(store, spec, wanted),
            "open_ms": round(1000 * statistics.median(opening(path)), 2),
            f"append_{APPENDED}": appending(folder, path, spec, some),
        }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def by_id(store: Store, spec: Spec, wanted: NDArray[np.int64]) -> float:
    """Return what it takes to look up rows by the ids of their samples, ms."""
    ids = [f"film{row:07d}" for row in wanted]
    return round(1000 * statistics.median(seconds(lambda: store.vectors(spec, ids)) for _ in "123"))


def opening(path: Path) -> list[float]:
    """Open a store some times."""
    return [seconds(lambda: Store.open(path)) for _ in range(ROUNDS)]


if __name__ == "__main__":
    main()
