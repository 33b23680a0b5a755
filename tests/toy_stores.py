"""Small stores whose every value is known: what each sample says, and what was made of it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.kept import Kept
from embedstore.store import Failure, Store
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer

ONE = Spec("one", "00", Recipe(), "pooled", 8)
TWO = Spec("two", "01", Recipe(size=(32, 32)), "pooled", 5, "float16")
MADE = {"precision": "float32", "device": "cpu", "versions": {"embedstore": "0"}, "started": ""}


@dataclass
class Toy:
    """One sample: what the table says of it, and what is made of its file, which `content` is."""

    id: str
    content: str
    columns: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    specs: tuple[Spec, ...] = (ONE, TWO)
    failed: bool = False

    def with_content(self, content: str) -> Toy:
        return replace(self, content=content)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.content.encode()).digest()[:16]

    def vector(self, spec: Spec) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(f"{self.content}{spec.key}".encode()).digest()[:8])
        return np.random.default_rng(seed).standard_normal(spec.dim).astype(spec.dtype)

    @property
    def picture(self) -> np.ndarray:
        seed = int.from_bytes(self.digest[:8])
        dtype = np.uint16 if self.digest[0] % 2 else np.uint8
        return np.random.default_rng(seed).integers(1, 256, (6, 8)).astype(dtype)

    @property
    def stat(self) -> tuple[int, int]:
        return len(self.content) + 1, int.from_bytes(self.digest[:7])

    def sample(self) -> Sample:
        return Sample(self.id, Path(f"films/{self.id}.png"), **self.columns, labels=self.labels)


def toys(n: int, start: int = 0, **changes: object) -> list[Toy]:
    """Make samples of four a patient; every seventh failed."""
    return [
        replace(
            Toy(
                f"image-{i:04d}",
                f"content {i}",
                {
                    "group": f"patient-{i // 4}",
                    "exam": f"exam-{i // 2}",
                    "view": ("CC", "MLO")[i % 2],
                },
                {"density": "ABCD"[i % 4]},
                failed=i % 7 == 3,
            ),
            **changes,
        )
        for i in range(start, start + n)
    ]


def write(path: Path, samples: Iterable[Toy], register: bool = True) -> None:
    """Commit samples, and what was made of them, in an order that is not theirs."""
    samples = list(samples)
    with Writer(path) as writer:
        if register:
            writer.add_samples([toy.sample() for toy in samples])
        writer.commit()
        rows = {i: n for n, i in enumerate(writer.store().array("samples/id").tolist())}
        shuffled = [samples[n] for n in np.random.default_rng(0).permutation(len(samples))]
        for spec in dict.fromkeys(s for toy in samples for s in toy.specs):
            writer.add_spec(spec, MADE)
            good = [t for t in shuffled if spec in t.specs and not t.failed]
            if not good:
                continue
            at = np.array([rows[t.id] for t in good])
            digests = np.frombuffer(b"".join(t.digest for t in good), np.uint8).reshape(-1, 16)
            vectors = np.stack([t.vector(spec) for t in good])
            stat = np.array([t.stat for t in good])
            cut = np.full(len(good), 0.25, np.float32)
            writer.append(spec, at, vectors, digests, cut, stat)
            kept = [Kept(t.digest, t.picture, 0.25, t.stat) for t in good]
            writer.keep(spec.recipe, at, kept)
        bad = [t for t in samples if t.failed]
        writer.add_failures(
            [Failure(t.id, "", "read", f"{t.id} is bad", s.key) for t in bad for s in t.specs]
        )
        writer.commit()


def verify(store: Store, expected: Iterable[Toy]) -> None:
    """Compare all that a reader sees with what it must be, in this order of the samples."""
    expected = list(expected)
    assert len(store) == len(expected)
    assert store.column("id").tolist() == [t.id for t in expected]
    for name in ("group", "exam", "view"):
        assert store.column(name).tolist() == [t.columns.get(name, "") for t in expected]
    for label in store.labels:
        assert store.column(label).tolist() == [t.labels.get(label, "") for t in expected]
    for spec in dict.fromkeys(s for t in expected for s in t.specs):
        good = [t for t in expected if spec in t.specs and not t.failed]
        read = store.read(spec)
        assert read.ids.tolist() == [t.id for t in good]
        assert store.count(spec) == len(good)
        np.testing.assert_array_equal(read.vectors, [t.vector(spec) for t in good])
        assert [d.tobytes() for d in read.digests] == [t.digest for t in good]
        assert read.groups.tolist() == [t.columns.get("group", "") for t in good]
        _verify_pictures(store, spec, good)
    failed = sorted((t.id, s.key) for t in expected if t.failed for s in t.specs)
    assert sorted((f.id, f.spec) for f in store.failures()) == failed


def _verify_pictures(store: Store, spec: Spec, good: list[Toy]) -> None:
    kept = store.kept(spec.recipe)
    ids = store.array("samples/id")
    assert sorted(ids[kept.rows].tolist()) == sorted(t.id for t in good)
    toys = {t.id: t for t in good}
    rows = kept.rows.tolist()
    for row, found in zip(rows, kept.read(rows), strict=True):
        toy = toys[str(ids[row])]
        np.testing.assert_array_equal(found.picture, toy.picture)
        assert found.picture.dtype == toy.picture.dtype
        assert (found.digest, found.cut, found.stat) == (toy.digest, 0.25, toy.stat)


def killed_at(flush: int, work: Callable[[], object]) -> bool:
    """Do some work in a child that a SIGKILL ends at its n-th flush; False where it got through."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    done = 0

    def fsync(handle: int) -> None:
        nonlocal done
        done += 1
        if done == flush:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync  # type: ignore[assignment]
    try:
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def apart(module: str, work: str, folder: Path) -> Any:
    """Call a function of a test file in a process without threads, so that it may fork.

    Chunks hold few rows, and nothing is flushed: what is written outlives a process.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import json, os, pathlib, {module} as t\nfrom embedstore import chunks\n"
        "os.fsync = lambda handle: None\n"
        "chunks.CHUNK_BYTES, chunks.TEXT_ROWS = 1024, 16\n"
        f"print(json.dumps(t.{work}(pathlib.Path({str(folder)!r}))))"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
