"""Arrays that are written anew: what every reader sees before, during and after."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from toy_stores import apart, killed_at

from embedstore import chunks
from embedstore.appender import Appender
from embedstore.check import check, repair
from embedstore.chunks import Layout
from embedstore.errors import StoreError
from embedstore.store import Store
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer

SPEC = Spec("toy", "00", Recipe(), "pooled", 8)
VECTORS = f"embeddings/{SPEC.key}/vectors"
LABEL = "samples/labels/d"
N = 50


@pytest.fixture(autouse=True)
def _few_rows_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 512)  # 16 rows of numbers
    monkeypatch.setattr(chunks, "TEXT_ROWS", 16)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def vectors(version: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(version).standard_normal((n, 8)).astype(np.float32)


def words(version: int, n: int = N) -> list[str]:
    return [f"v{version} {i}" for i in range(n)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return first(tmp_path)


def first(folder: Path) -> Path:
    path = folder / "s.zarr"
    with Writer(path) as writer:
        writer.add_samples(
            [Sample(f"i{i}", Path("x"), labels={"d": w}) for i, w in enumerate(words(0))]
        )
        writer.add_spec(SPEC, {})
        writer.append(SPEC, np.arange(N), vectors(0), np.ones((N, 16), np.uint8))
        writer.commit()
    return path


def rewrite(path: Path, version: int) -> None:
    with Writer(path) as writer:
        writer.rewrite(VECTORS, [vectors(version)[:7], vectors(version)[7:]])
        writer.rewrite(LABEL, [words(version)])
        writer.commit()


@pytest.mark.parametrize("times", range(5))
def test_zarr_and_tensorstore_read_what_was_written_last(path: Path, times: int) -> None:
    for version in range(1, times + 1):
        rewrite(path, version)
    for consolidated in (None, False):
        group = zarr.open_group(path, mode="r", use_consolidated=consolidated)
        np.testing.assert_array_equal(group[VECTORS][:], vectors(times))
        assert group[LABEL][:].tolist() == words(times)
    kvstore = {"driver": "file", "path": str(path / VECTORS)}
    read = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
    np.testing.assert_array_equal(read, vectors(times))
    assert not check(path).damage
    found = {(f.kind, f.what) for f in check(path).findings}
    old = ("leftover", "of an earlier commit, or left by a stopped run")
    assert found == ({old} if times else set())
    repair(path)
    assert check(path).findings == []
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")[VECTORS][:], vectors(times))


def read(store: Store) -> tuple[list[Any], list[str]]:
    return store.array(VECTORS).tolist(), store.array(LABEL).tolist()


@pytest.mark.parametrize("version", range(5))
def test_a_reader_sees_its_own_commit_or_is_told_to_open_the_store_again(
    path: Path, version: int
) -> None:
    for done in range(1, version + 1):
        rewrite(path, done)
    expected = vectors(version).tolist(), words(version)
    readers = [Store.open(path) for _ in range(5)]
    for later in range(5):
        if later < 2:  # one time leaves it everything
            assert read(readers[later]) == expected
        else:
            for name in (VECTORS, LABEL):
                with pytest.raises(StoreError, match=f"{name} was written anew .* open it again"):
                    readers[later].array(name)
        rewrite(path, version + later + 1)
    np.testing.assert_array_equal(readers[0].array(VECTORS), expected[0])  # it is mapped


def test_while_an_array_is_written_anew_its_readers_read_on(path: Path) -> None:
    rewrite(path, 1)
    earlier = Store.open(path)
    rewrite(path, 2)
    now, refused = Store.open(path), 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal refused
        for start in range(0, N, 10):
            yield vectors(3)[start : start + 10]
            np.testing.assert_array_equal(Store.open(path).array(VECTORS), vectors(2))
            with pytest.raises(StoreError, match="open it again"):
                earlier.array(VECTORS)
            refused += 1

    with Writer(path) as writer:
        writer.rewrite(VECTORS, blocks())
        np.testing.assert_array_equal(now.array(VECTORS), vectors(2))
        writer.commit()
    assert refused == 5
    np.testing.assert_array_equal(Store.open(path).array(VECTORS), vectors(3))


def test_rows_are_appended_to_a_shorter_array_as_to_any(path: Path) -> None:
    with Writer(path) as writer:
        writer.rewrite(VECTORS, [vectors(1)[:20]])
        for name in ("rows", "digests", "cut", "stat"):
            array = f"embeddings/{SPEC.key}/{name}"
            writer.rewrite(array, [writer.store().array(array)[:20]])
        writer.append(SPEC, np.arange(20, 30), vectors(5, 10), np.ones((10, 16), np.uint8))
        writer.commit()
    with Writer(path) as writer:
        writer.append(SPEC, np.arange(30, 50), vectors(6, 20), np.ones((20, 16), np.uint8))
        writer.commit()
    expected = np.concatenate([vectors(1)[:20], vectors(5, 10), vectors(6, 20)])
    for group in (zarr.open_group(path, mode="r"), zarr.open_group(path, use_consolidated=False)):
        np.testing.assert_array_equal(group[VECTORS][:], expected)
    assert not check(path).damage


def test_what_was_not_committed_leaves_the_array(path: Path) -> None:
    with Writer(path) as writer:
        writer.rewrite(VECTORS, [vectors(1)])
        with pytest.raises(StoreError, match="is to be committed before"):
            writer.rewrite(VECTORS, [vectors(2)])
    np.testing.assert_array_equal(Store.open(path).array(VECTORS), vectors(0))
    assert not check(path).damage
    rewrite(path, 3)
    np.testing.assert_array_equal(Store.open(path).array(VECTORS), vectors(3))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "the disk is full"),
        (errno.EROFS, "cannot be written: Read-only file system"),
    ],
)
def test_a_disk_that_refuses_leaves_the_array(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with Writer(path) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises(StoreError, match=f"^{path}: {said}"):
                writer.rewrite(VECTORS, [vectors(1)])
        writer.commit()
    np.testing.assert_array_equal(Store.open(path).array(VECTORS), vectors(0))


def test_a_disk_that_refuses_is_said_whatever_was_to_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def said(place: Path) -> AbstractContextManager[object]:
        return pytest.raises(StoreError, match=f"^{place}: cannot be written: Input/output error")

    fresh, label = path.with_name("new.zarr"), Layout("samples/labels/e", "string")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with said(fresh):
            Writer(fresh).__enter__()
        with Writer(path) as writer, said(path):
            writer.extend(label, [np.array(words(5), object)])
        with Writer(path) as writer:
            writer.delete(np.array([3]))
            with said(path):
                writer.commit()
    np.testing.assert_array_equal(Store.open(path).visible, np.arange(N))
    with Writer(fresh) as writer:  # the lock was given back
        writer.commit()


def test_each_commit_is_the_next_number(path: Path) -> None:
    numbers = []
    for _ in range(3):
        rewrite(path, 1)
        root = json.loads((path / "zarr.json").read_text())
        numbers.append(root["attributes"]["embedstore"]["commit"])
    assert numbers == [3, 4, 5]  # the first made the store, the second filled it


def test_what_a_stopped_run_left_half_written_is_gone_with_the_next_writer(path: Path) -> None:
    # 50 rows are four chunks; the run got on to a fifth, and to a sixth
    folders = ("", VECTORS, f"{VECTORS}/c/3", f"{VECTORS}/c/4", f"{VECTORS}/c/5")
    left = [path / folder / f"{chunks.TEMPORARY}0" for folder in (*folders, LABEL, f"{LABEL}/c")]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    mine = path / VECTORS / "c" / "4" / "note"
    mine.write_bytes(b"")
    with Writer(path):
        assert [f for f in left if f.exists()] == []
    assert mine.exists()
    np.testing.assert_array_equal(Store.open(path).array(VECTORS), vectors(0))


def survive(folder: Path) -> list[int]:
    """Rewrite and be killed, flush by flush; return the versions that kills left, and how many."""
    path = first(folder)
    rewrite(path, 1)
    flush, versions = 0, set()
    while killed_at(flush := flush + 1, lambda: rewrite(path, 2)):
        with_root = Store.open(path).array(VECTORS)
        (version,) = (v for v in (1, 2) if np.array_equal(with_root, vectors(v)))
        assert Store.open(path).array(LABEL).tolist() == words(version)
        assert not check(path).damage
        for mended in (False, True):
            alone = zarr.open_group(path, mode="r", use_consolidated=False)
            (behind,) = (v for v in (1, 2) if np.array_equal(alone[VECTORS][:], vectors(v)))
            assert alone[LABEL][:].tolist() in [words(v) for v in (1, 2)]
            assert behind == version if mended else behind <= version
            if not mended:
                repair(path)
        assert check(path).findings == []
        versions.add(version)
        rewrite(path, 1)
    return [*sorted(versions), flush]


def test_killed_at_any_flush_every_client_reads_one_version_whole(tmp_path: Path) -> None:
    one, two, kills = apart("test_rewrite", "survive", tmp_path)
    assert (one, two) == (1, 2)
    assert kills > 12


def test_an_array_larger_than_memory_may_be_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 20)
    n, spec = 40_000, Spec("big", "00", Recipe(), "pooled", 512)
    array = f"embeddings/{spec.key}/vectors"
    block = np.random.default_rng(0).standard_normal((1000, 512)).astype(np.float32)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_spec(spec, {})
        for start in range(0, n, 1000):
            writer.append(spec, np.arange(start, start + 1000), block + start, np.ones((1000, 16)))
            writer.commit()
        store = writer.store()
        tracemalloc.start()
        writer.rewrite(array, (-part for part in store.blocks(array)))
        writer.commit()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 12e6  # of 82 MB
    expected = np.concatenate([-(block + start) for start in range(0, n, 1000)])
    np.testing.assert_array_equal(Store.open(tmp_path / "s.zarr").array(array), expected)


@pytest.mark.parametrize("dtype", ["int64", "string"])
def test_the_growing_end_shows_what_was_given_written_or_not(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    made = Appender(tmp_path, Layout("x", dtype), 0)
    given = np.empty(0, dtype=object)
    for turn in range(30):
        fresh = rng.integers(0, 10**9, rng.integers(0, 40)).astype(object)
        fresh = np.array([str(v) for v in fresh], dtype=object) if dtype == "string" else fresh
        made.append(fresh)
        given = np.concatenate([given, fresh])
        if turn % 3:
            made.flush(last=turn % 3 == 1)
        rows = rng.integers(0, max(len(given), 1), 25 if len(given) else 0)
        assert made.values().tolist() == given.tolist()
        assert made.take(rows).tolist() == given[rows].tolist()
        if turn % 5 == 4:  # and so does one that goes on with what is on the disk
            made.flush()
            made = Appender(tmp_path, made.layout, made.rows)
    assert len(given) > 300
