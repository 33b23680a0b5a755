"""Verification on reading: every flipped bit is found where it is read, and once is enough."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from toy_stores import ONE, TWO, toys, verify, write

from embedstore import chunks
from embedstore.cli import _run
from embedstore.delete import delete
from embedstore.errors import StoreError
from embedstore.store import Store
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer

ALL = toys(200)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with chunks of a page, and so mapped side by side: 128 vectors in each."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 8192)
    monkeypatch.setattr(chunks, "TEXT_ROWS", 64)
    write(tmp_path / "s.zarr", ALL)
    return tmp_path / "s.zarr"


def chunk_files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("c/**/*") if f.is_file())


def flip(file: Path, at: int) -> None:
    """Change one bit where it is: the file stays the same to whoever has it open."""
    with file.open("r+b") as handle:
        handle.seek(at)
        byte = handle.read(1)[0]
        handle.seek(at)
        handle.write(bytes([byte ^ 4]))


@contextmanager
def flipped(file: Path, at: int) -> Iterator[None]:
    flip(file, at)
    yield
    flip(file, at)


def test_a_whole_store_reads_the_same(path: Path) -> None:
    verify(Store.open(path, verify=True), ALL)
    delete(path, [ALL[3].id])
    verify(Store.open(path, verify=True), ALL[:3] + ALL[4:])


def test_every_kind_of_array_is_verified_when_it_is_read(path: Path) -> None:
    delete(path, [ALL[3].id])
    rng, seen = np.random.default_rng(0), set()
    for file in chunk_files(path):
        array = file.relative_to(path).as_posix().partition("/c/")[0]
        size = file.stat().st_size
        for at in (0, size - 1, int(rng.integers(size))):
            with flipped(file, at):
                with pytest.raises(StoreError, match=f"{file}: checksum differs"):
                    Store.open(path, verify=True).array(array)
                with pytest.raises(StoreError, match=f"{file}: checksum differs"):
                    list(Store.open(path).blocks(array))
        Store.open(path, verify=True).array(array)
        seen.add(array.rpartition("/")[2])
    assert seen >= {
        "vectors",
        "rows",
        "digests",
        "cut",
        "stat",
        "values",
        "deleted",
        "id",
        "reason",
    }


READERS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read(ONE),
    "vectors": lambda store: store.vectors(ONE),
    "by id": lambda store: store.vectors(ONE, store.read(TWO).ids),
    "kept": lambda store: store.kept(ONE.recipe).read(store.kept(ONE.recipe).rows.tolist()),
}


@pytest.mark.parametrize("how", READERS)
def test_whatever_way_it_is_read(path: Path, how: str) -> None:
    member = f"pixels/{ONE.recipe.pixel_key}" if how == "kept" else f"embeddings/{ONE.key}/vectors"
    file = next(f for f in chunk_files(path) if member in str(f))
    with flipped(file, 40):
        with pytest.raises(StoreError, match=f"{file}: checksum differs"):
            READERS[how](Store.open(path, verify=True))
        with pytest.raises(StoreError, match=f"{file}: checksum differs"):
            READERS[how](pickle.loads(pickle.dumps(Store.open(path, verify=True))))
        READERS[how](Store.open(path))  # unless asked to, it is not looked at
    READERS[how](Store.open(path, verify=True))


@pytest.mark.parametrize("dim", [8, 37_969])  # the second: chunks that are no whole pages
def test_rows_of_other_chunks_still_read(tmp_path: Path, dim: int) -> None:
    spec, path = Spec("toy", "00", Recipe(), "pooled", dim), tmp_path / "s.zarr"
    step = chunks.Layout("x", "float32", (dim,)).chunk_rows
    n = 2 * step + 5
    vectors = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    with Writer(path) as writer:
        writer.add_samples([Sample(str(i), Path("x")) for i in range(n)])
        writer.add_spec(spec, {})
        writer.append(spec, np.arange(n), vectors, np.ones((n, 16), np.uint8))
        writer.commit()
    array = f"embeddings/{spec.key}/vectors"
    flip(path / array / "c/1/0", 77)
    store = Store.open(path, verify=True)
    good = np.concatenate([np.arange(step), np.arange(2 * step, n)])
    np.testing.assert_array_equal(store.array(array, good), vectors[good])
    for wanted in (np.array([0, step]), np.array([2 * step - 1])):
        with pytest.raises(StoreError, match="c/1/0: checksum differs"):
            store.array(array, wanted)
    np.testing.assert_array_equal(store.array(array, good[::-1]), vectors[good[::-1]])


def test_a_chunk_is_verified_once_an_opened_store(path: Path) -> None:
    array = f"embeddings/{ONE.key}/vectors"
    store = Store.open(path, verify=True)
    before = store.array(array)
    with flipped(path / array / "c/0/0", 0):
        again = store.array(array)  # shows the change, so it is the file, not a copy of it
        assert (again != before).any()
        with pytest.raises(StoreError, match="checksum differs"):
            Store.open(path, verify=True).array(array)


def test_cut_and_missing_chunks_are_named(path: Path) -> None:
    array = f"embeddings/{ONE.key}/vectors"
    file = path / array / "c/0/0"
    whole = file.read_bytes()
    for size in (0, 3, 100, len(whole) - 4, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(StoreError, match=f"{file}: the chunk is cut short"):
            Store.open(path, verify=True).array(array)
    file.unlink()
    with pytest.raises(StoreError, match=f"{file}: a chunk of the store is missing"):
        Store.open(path, verify=True).array(array)


@pytest.mark.parametrize(
    "command",
    [
        ["search", "--id", ALL[0].id, "--backbone", "one"],
        ["probe", "--label", "density", "--backbone", "one", "--head", "knn", "--folds", "2"],
    ],
)
def test_the_commands_verify_where_asked(
    path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    first, *rest = command
    assert _run([first, str(path), *rest, "--verify"], debug=False) == 0
    file = path / f"embeddings/{ONE.key}/vectors/c/0/0"
    flip(file, 3)
    capsys.readouterr()
    assert _run([first, str(path), *rest, "--verify"], debug=False) == 1
    complaint = capsys.readouterr().err
    assert (
        complaint == f"error: {file}: checksum differs; the file was damaged after it was written\n"
    )
