"""The harnesses of `fuzz/` on their seeds and near them, and what fuzzing has found.

Bytes are read, or refused by an error of embedstore's own; no other comes out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harnesses import HARNESSES, mutated
from safetensors.numpy import load, save

from embedstore import chunks

pytestmark = pytest.mark.filterwarnings("ignore")  # of damaged files, by the libraries


@pytest.fixture(autouse=True)
def _few_rows_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 512)
    monkeypatch.setattr(chunks, "TEXT_ROWS", 16)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.parametrize("name", HARNESSES)
def test_seeds_are_read_and_what_is_near_them_is_read_or_refused(name: str, tmp_path: Path) -> None:
    harness = HARNESSES[name]
    harness.prepare(tmp_path)
    for seed in harness.seeds():
        assert harness.run(seed, tmp_path)
    results = [harness.run(data, tmp_path) for data in mutated(name, 12)]
    assert harness.run(harness.seeds()[0], tmp_path), results


def edited(name: str, *path: Any, value: Any) -> bytes:
    """Return a seed of JSON with one value changed; the path may hold functions of the keys."""
    root = json.loads(HARNESSES[name].seeds()[0])
    holder = root
    for key in path[:-1]:
        holder = holder[key(holder) if callable(key) else key]
    last = path[-1](holder) if callable(path[-1]) else path[-1]
    holder[last] = value
    return json.dumps(root).encode()


def _first(holder: dict[str, Any]) -> str:
    return next(iter(holder))


def _deepest(arrays: dict[str, Any]) -> str:
    return max(arrays, key=lambda name: len(arrays[name].get("shape", ())))


ARRAYS = ("consolidated_metadata", "metadata")
STATE = ("attributes", "embedstore")


def _root(*path: Any, value: Any) -> bytes:
    return edited("store-root", *path, value=value)


def _arrays(**values: np.ndarray) -> bytes:
    """Return a seed of arrays with some of them changed."""
    arrays = load(HARNESSES["probe-arrays"].seeds()[0])
    return save(arrays | {name: value.astype(np.float32) for name, value in values.items()})


FOUND = [
    ("update-table", lambda: b"id,a\0b\nimage-0001,C\n"),
    ("store-root", lambda: _root(*ARRAYS, value=[])),
    ("store-root", lambda: _root(*ARRAYS, "samples/id", value="x")),
    ("store-root", lambda: _root(*ARRAYS, "samples/id", "shape", value=[])),
    ("store-root", lambda: _root(*ARRAYS, "samples/id", "shape", value=[[20]])),
    ("store-root", lambda: _root(*ARRAYS, "samples/id", "shape", value=[20, 1])),
    ("store-root", lambda: _root(*ARRAYS, _deepest, "shape", value=[9])),
    ("store-root", lambda: _root(*ARRAYS, "samples/id", "attributes", value=0)),
    ("store-root", lambda: _root(*ARRAYS, "samples/id", "data_type", value="object")),
    ("store-root", lambda: _root(*STATE, "commit", value={})),
    ("store-root", lambda: _root(*STATE, "embeddings", value=[])),
    ("store-root", lambda: _root(*STATE, "embeddings", _first, "spec", value={})),
    ("store-root", lambda: _root(*STATE, "embeddings", _first, "spec", "dim", value=9)),
    ("store-root", lambda: _root(*STATE, "embeddings", _first, "spec", "backbone", value={})),
    ("store-root", lambda: _root(*ARRAYS, "samples/id", "node_type", value="arraY")),
    ("store-chunk", lambda: b"\0"),
    ("store-chunk", lambda: b"\3" + b"2\xff\xff" + bytes(5) + b"B\1\0\0\0C\1" + bytes(113)),
    ("store-chunk", lambda: b"\0" + (16).to_bytes(4, "little")),
    ("store-chunk", lambda: b"\0" + (16).to_bytes(4, "little") + b"\1\0\0\0\xff" * 16),
    ("store-chunk", lambda: b"\0" + bytes([255] * 8)),  # sixteen gigabytes of texts
    ("store-chunk", lambda: b"\4" + b"xyz"),
    ("probe-json", lambda: edited("probe-json", "spec", "recipe", value=0)),
    ("probe-json", lambda: edited("probe-json", "spec", "recipe", "colour", value={})),
    ("probe-json", lambda: edited("probe-json", "report", "metrics", value=0)),
    ("probe-json", lambda: edited("probe-json", "state", value=[])),
    ("probe-json", lambda: edited("probe-json", "classes", value=["a"])),
    ("probe-json", lambda: edited("probe-json", "state", "n_features_in_", "value", value=24)),
    ("probe-json", lambda: edited("probe-json", "temperature", value=0)),
    ("probe-arrays", lambda: _arrays(mean=np.full(12, 1e30), scale=np.full(12, 1e-30))),
    ("probe-arrays", lambda: _arrays(scale=np.full(12, 1e-38))),
    ("index", lambda: edited("index", "on_disk", value=True)),
    ("index", lambda: edited("index", "rewrites", value=0)),
    ("index", lambda: edited("index", "sha256", value=0)),
    ("index", lambda: edited("index", "rows", value="60")),
]


@pytest.mark.parametrize(("name", "made"), FOUND, ids=[f"{n}{i}" for i, (n, _) in enumerate(FOUND)])
def test_what_was_found_is_refused(name: str, made: Any, tmp_path: Path) -> None:
    HARNESSES[name].prepare(tmp_path)
    assert not HARNESSES[name].run(made(), tmp_path)
