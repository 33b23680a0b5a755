"""Writing, reading and gathering vectors: the store against a numpy memmap, in one run.

python benchmarks/store.py [--rows 200000] [--dim 512]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from embedstore.store import Store
from embedstore.types import Floats, Recipe, Sample, Spec
from embedstore.writer import Writer

RESULT = Path(__file__).parent / "results" / "store.json"


def best(work: Callable[[], object], times: int = 5) -> float:
    """Return the shortest of some runs, in seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def write_store(path: Path, spec: Spec, vectors: Floats) -> None:
    """Write all vectors in commits of 16,384 rows."""
    n, step = len(vectors), 16384
    with Writer(path) as writer:
        writer.add_samples([Sample(str(i), Path("x")) for i in range(n)])
        writer.add_spec(spec, {})
        for start in range(0, n, step):
            block = vectors[start : start + step]
            digests = np.zeros((len(block), 16), np.uint8)
            writer.append(spec, np.arange(start, start + len(block)), block, digests)
            writer.commit()


def write_memmap(path: Path, vectors: Floats) -> None:
    """Write the same to one flat file, flushed."""
    mapped = np.memmap(path, dtype=vectors.dtype, mode="w+", shape=vectors.shape)
    mapped[:] = vectors
    mapped.flush()


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((given.rows, given.dim), dtype=np.float32)
    wanted = rng.integers(0, given.rows, 10_000)
    spec = Spec("benchmark", "0", Recipe(), "pooled", given.dim)
    with tempfile.TemporaryDirectory() as folder:
        flat, path = Path(folder, "flat.bin"), Path(folder, "s.zarr")
        mapped = np.memmap(flat, dtype=np.float32, mode="w+", shape=vectors.shape)
        floor = {"write": best(lambda: write_memmap(flat, vectors), 1)}
        ours = {"write": best(lambda: write_store(path, spec, vectors), 1)}
        mapped = np.memmap(flat, dtype=np.float32, mode="r", shape=vectors.shape)
        store, name = Store.open(path), f"embeddings/{spec.key}/vectors"
        floor["read all"] = best(lambda: np.array(mapped))
        ours["read all"] = best(lambda: store.array(name))
        floor["gather 10,000 rows"] = best(lambda: mapped[wanted])
        ours["gather 10,000 rows"] = best(lambda: store.array(name, wanted))
        opening = best(lambda: Store.open(path))
    result = {
        "rows": given.rows,
        "dim": given.dim,
        "machine": platform.processor() or platform.machine(),
        "ratio_to_memmap": {k: round(ours[k] / floor[k], 2) for k in floor},
        "open_ms": round(opening * 1000, 2),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
