"""What a row costs from ten thousand rows to ten million, in time and in memory.

python benchmarks/scale.py [--rows 10000,100000] [--only write,read,index,search,probe]
    [--head logistic] [--dir FOLDER] [--keep]

Each part runs in a process of its own, whose anonymous memory (RssAnon of /proc/PID/status, what
cannot be given back to a file) is looked at fifty times a second; pages of memory-mapped files are
not in it. Ten million rows want 12 GB of disk. Results go into results/scale.json by part and
number of rows; parts that were not run keep theirs. A part is a function of a store's path and the
number of rows, listed in `PARTS`: it prints what it wants kept, as JSON. Beside writing and reading
stands a floor, the same bytes to and from a plain file: a disk is slower once it is asked for more
than memory holds back.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESULT = Path(__file__).parent / "results" / "scale.json"
ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
DIM, PER_PATIENT, CLUSTERS = 512, 4, 64
CLASSES = ("A", "B", "C")
BLOCK = 1 << 16


class Made:
    """Patients of four images (CC and MLO of both breasts), one label each; vectors in clusters.

    A cluster favours a class, patients and images are spread around it: about three quarters of
    the labels can be told from the vectors.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.centres = rng.standard_normal((CLUSTERS, DIM), dtype=np.float32)
        self.shares = rng.dirichlet((0.35, 0.35, 0.35), CLUSTERS).cumsum(axis=1)
        # noise is drawn once and put together anew: drawing five thousand million takes minutes
        self.noise = rng.standard_normal((1 << 14, DIM), dtype=np.float32)

    def block(self, start: int, n: int) -> tuple[NDArray[np.float16], NDArray[np.intp]]:
        """(n, d) vectors of rows `start`, …, and their (n,) classes; the same in any order."""
        rng = np.random.default_rng((1, start))
        patients = -(-n // PER_PATIENT)
        cluster = rng.integers(0, CLUSTERS, patients)
        label = (rng.random(patients)[:, None] > self.shares[cluster]).sum(axis=1)
        own = rng.integers(0, len(self.noise), patients)
        of = np.arange(n) // PER_PATIENT
        vectors = self.centres[cluster[of]]
        vectors += self.noise[own[of]]
        vectors += self.noise[rng.integers(0, len(self.noise), n)]
        return vectors.astype(np.float16), np.minimum(label, len(CLASSES) - 1)[of]


def samples(start: int, labels: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the samples of rows from `start` on."""
    from embedstore.types import Sample

    for row, label in enumerate(labels.tolist(), start):
        patient, image = divmod(row, PER_PATIENT)
        yield Sample(
            id=f"i{row:08d}",
            path=Path(f"films/{patient // 1000:05d}/{row:08d}.dcm"),
            group=f"p{patient:07d}",
            exam=f"e{patient:07d}",
            view=("CC", "MLO")[image % 2],
            laterality="LR"[image // 2],
            labels={"density": CLASSES[label]},
        )


def write(path: Path, rows: int) -> dict[str, Any]:
    """Write a store by blocks, each with a commit of its own; generating is not counted."""
    from embedstore.types import Recipe, Spec
    from embedstore.writer import Writer

    spec = Spec("made", "00", Recipe(), "pooled", DIM, "float16")
    plain = path.with_suffix(".plain")
    provenance = {"precision": "float16", "device": "cpu", "versions": {}, "started": ""}
    made, seconds, floor = Made(), 0.0, 0.0
    with Writer(path) as writer, plain.open("wb") as file:
        writer.add_spec(spec, provenance)
        for start in range(0, rows, BLOCK):
            n = min(BLOCK, rows - start)
            vectors, labels = made.block(start, n)
            digests = np.zeros((n, 16), dtype=np.uint8)
            digests[:, :8] = np.arange(start, start + n, dtype=">u8").view(np.uint8).reshape(n, 8)
            block = list(samples(start, labels))
            began = time.perf_counter()
            writer.add_samples(block)
            writer.append(spec, np.arange(start, start + n), vectors, digests)
            writer.commit()
            seconds += time.perf_counter() - began
            began = time.perf_counter()
            file.write(vectors.data)
            file.flush()
            os.fsync(file.fileno())
            floor += time.perf_counter() - began
    files = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    told = {"bytes": sum(files), "files": len(files)}
    return {"seconds": seconds, "floor_seconds": floor, **told}


def read(path: Path, rows: int) -> dict[str, Any]:
    """Open a store and go through all its vectors once."""
    from embedstore.store import Store

    plain = np.memmap(path.with_suffix(".plain"), np.float16, "r", shape=(rows, DIM))
    began = time.perf_counter()
    wanted = _sum(plain)
    floor = time.perf_counter() - began
    began = time.perf_counter()
    total = _sum(Store.open(path).vectors("made"))
    seconds = time.perf_counter() - began
    assert total == wanted
    return {"seconds": seconds, "floor_seconds": floor}


def _sum(vectors: NDArray[Any]) -> float:
    return sum(
        float(vectors[start : start + BLOCK].astype(np.float32).sum())
        for start in range(0, len(vectors), BLOCK)
    )


def index(path: Path, rows: int) -> dict[str, Any]:
    """Make an index with its lists on the disk, of the kind that a large store is given.

    Small stores need none, and are given one here so that a row's cost can be compared.
    """
    from embedstore.index import choose

    kind, _ = choose(max(rows, 1 << 18), DIM, 1 << 40, on_disk=True)
    lists = 1 << round(np.log2(4 * np.sqrt(rows)))
    kind = re.sub(r"IVF\d+", lambda whole: f"IVF{min(int(whole[0][3:]), lists)}", kind)
    began = time.perf_counter()
    told = json.loads(_printed(["index", str(path), "--kind", kind, "--on-disk", "--json"]))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "kind": kind, "recall": told["recall"], "bytes": told["bytes"]}


def search(path: Path, rows: int) -> dict[str, Any]:
    """Ask for ten neighbours of one image after another; a tenth are compared with all vectors."""
    from embedstore.store import Store

    began = time.perf_counter()
    store = Store.open(path)
    some = np.random.default_rng(2).choice(rows, 200, replace=False)
    seconds, found = [], []
    for n in some.tolist():
        found.append(store.search("made", ids=[f"i{n:08d}"], k=10).rows[0])
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    few = [f"i{n:08d}" for n in some[:20].tolist()]
    truth = store.search("made", ids=few, k=10, exact=True).rows
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=False)]
    return {
        "seconds": sum(seconds),
        "first_seconds": seconds[0],
        "median_ms": float(np.median(seconds[1:]) * 1e3),
        "recall": sum(hits) / (10 * len(few)),
    }


def probe(path: Path, rows: int, *more: str) -> dict[str, Any]:
    """Score a head by five folds, as ``embedstore probe`` does, with its intervals and floors."""
    command = ["probe", str(path), "--label", "density", "--json", *more]
    began = time.perf_counter()
    told = json.loads(_printed(command))[0]
    seconds = time.perf_counter() - began
    metrics = {name: told["metrics"][name] for name in ("balanced_accuracy", "auroc", "log_loss")}
    assert told["n_test"] == rows
    return {"seconds": seconds, "metrics": metrics}


def _printed(command: list[str]) -> str:
    import contextlib
    import io

    from embedstore import cli

    text = io.StringIO()
    sys.argv = ["embedstore", *command]
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        cli.main()
    return text.getvalue()


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "write": write,
    "read": read,
    "index": index,
    "search": search,
    "probe": probe,
}


def anonymous(pid: int) -> int:
    """Return the bytes of anonymous memory a process has."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
    return int(found[0]) << 10 if found else 0


def measured(part: str, path: Path, rows: int, more: list[str]) -> dict[str, Any]:
    """Run a part in a process of its own; adds the most anonymous memory it had."""
    command = [sys.executable, __file__, "--part", part, "--store", str(path), "--rows", str(rows)]
    with subprocess.Popen([*command, "--", *more], stdout=subprocess.PIPE, text=True) as child:
        most = 0
        while child.poll() is None:
            most = max(most, anonymous(child.pid))
            time.sleep(0.02)
        assert child.stdout is not None
        told = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"{part} of {rows} rows ended with {child.returncode}")
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    found["microseconds_a_row"] = found["seconds"] / rows * 1e6
    found["peak_anonymous_gb"] = most / 1e9
    return found


def slopes(by_rows: dict[str, Any], which: str = "seconds") -> str:
    """Tell slopes of log seconds over log rows: 1 where a row costs the same at any size."""
    points = sorted((int(rows), found[which]) for rows, found in by_rows.items())
    x, y = np.log(np.array(points)).T
    steps = [f"{s:.2f}" for s in np.diff(y) / np.diff(x)]
    return f"{np.polyfit(x, y, 1)[0]:.3f} ({' then '.join(steps)})"


def main() -> None:
    """Measure what was asked for, and write it down."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", default=",".join(map(str, ROWS)))
    options.add_argument("--only", default=",".join(PARTS))
    options.add_argument("--head", default="logistic")
    options.add_argument("--dir", type=Path)
    options.add_argument("--keep", action="store_true", help="leave the stores there")
    options.add_argument("--result", type=Path, default=RESULT)
    options.add_argument("--part", help=argparse.SUPPRESS)
    options.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options.add_argument("more", nargs="*")
    given = options.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.store, int(given.rows), *given.more)))
        return
    folder = given.dir or Path(tempfile.mkdtemp(prefix="scale-"))
    folder.mkdir(parents=True, exist_ok=True)
    every = json.loads(given.result.read_text()) if given.result.exists() else {}
    for rows in map(int, given.rows.split(",")):
        path = folder / f"{rows}.zarr"
        for part in given.only.split(","):
            if part == "write" and path.exists():
                shutil.rmtree(path)
            more = ["--head", given.head, *given.more] if part == "probe" else given.more
            found = measured(part, path, rows, more)
            name = f"{part} {given.head}" if part == "probe" else part
            every.setdefault(name, {})[str(rows)] = found
            print(f"{rows:>10,} {name:<14} {json.dumps(found)}", flush=True)
            given.result.write_text(json.dumps(every, indent=1) + "\n")
        if not given.keep:
            shutil.rmtree(path)
            path.with_suffix(".plain").unlink(missing_ok=True)
    for name, by_rows in every.items():
        for which in ("seconds", "floor_seconds"):
            if len(by_rows) > 1 and all(which in found for found in by_rows.values()):
                print(f"{name}: slope of log {which} over log rows {slopes(by_rows, which)}")


if __name__ == "__main__":
    main()
