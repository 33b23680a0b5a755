"""Stores of given vectors, patients, exams and labels, for searching in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from embedstore.store import Store
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer

MADE = {"precision": "float32", "device": "cpu", "versions": {"embedstore": "0"}, "started": ""}


def spec_of(d: int, dtype: str = "float32", name: str = "texture") -> Spec:
    return Spec(name, "00", Recipe(), "pooled", d, dtype)


def unit(seed: int, n: int, d: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.sqrt((x**2).sum(axis=1, keepdims=True))).astype(np.float32)


def clustered(seed: int, n: int, d: int, clusters: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, d))
    return (centres[rng.integers(0, clusters, n)] + 0.4 * rng.normal(size=(n, d))).astype(
        np.float32
    )


def write(
    path: Path,
    vectors: np.ndarray,
    groups: Sequence[str] | None = None,
    exams: Sequence[str] | None = None,
    files: Sequence[object] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    start: int = 0,
    spec: Spec | None = None,
    order: np.ndarray | None = None,
) -> Store:
    """Commit samples i<start>, i<start+1>, … with these vectors, written in this `order`."""
    n = len(vectors)
    spec = spec or spec_of(vectors.shape[1])
    groups = groups if groups is not None else [f"p{start + i}" for i in range(n)]
    exams = exams if exams is not None else [""] * n
    files = files if files is not None else [f"file {start + i}" for i in range(n)]
    samples = [
        Sample(
            f"i{start + i}",
            Path(f"films/{start + i}.png"),
            groups[i],
            exams[i],
            ("CC", "MLO")[i % 2],
            labels={name: values[i] for name, values in (labels or {}).items()},
        )
        for i in range(n)
    ]
    order = np.arange(n) if order is None else order
    digests = [hashlib.sha256(str(f).encode()).digest()[:16] for f in files]
    with Writer(path) as writer:
        first = writer.store().rows("samples/id")
        writer.add_samples(samples)
        writer.add_spec(spec, MADE)
        kept = np.frombuffer(b"".join(digests[i] for i in order), np.uint8).reshape(-1, 16)
        writer.append(spec, first + order, vectors[order].astype(spec.dtype), kept)
        writer.commit()
    return Store.open(path)
