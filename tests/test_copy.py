"""Copies of stores, to and from object storage, stopped, damaged, and of other stores."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_stores
import vector_stores
from s3_server import BUCKET, served

from embedstore import chunks
from embedstore.check import check
from embedstore.cli import _run
from embedstore.copying import copy
from embedstore.delete import compact, delete
from embedstore.errors import StoreError, UsageError
from embedstore.places import files_below, place
from embedstore.privacy import key_file, linkage_file, pseudonymise
from embedstore.store import Store


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with served() as users:
        yield users["all"]


@pytest.fixture
def bucket(
    server: dict[str, str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    for name, value in {**server, "EMBEDSTORE_KEYS": str(tmp_path / "keys")}.items():
        monkeypatch.setenv(name, value)
    return place(f"s3://{BUCKET}/{request.node.name}")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)


def write(path: Path, n: int, start: int = 0) -> None:
    """Commit n samples of a store that has few arrays."""
    vectors = np.random.default_rng(start).standard_normal((n, 8)).astype(np.float32)
    vector_stores.write(path, vectors, start=start)


def contents(store: Path) -> dict[str, bytes]:
    return {f.as_posix(): (store / f).read_bytes() for f in files_below(store)}


def test_there_and_back_every_file_is_the_same(bucket: Path, tmp_path: Path, small: None) -> None:
    toy_stores.write(tmp_path / "s.zarr", toy_stores.toys(20))
    there = copy(tmp_path / "s.zarr", bucket / "s.zarr", verify=True)
    back = copy(bucket / "s.zarr", tmp_path / "back" / "b.zarr", verify=True)
    across = copy(tmp_path / "s.zarr", tmp_path / "c.zarr", verify=True)
    expected = contents(tmp_path / "s.zarr")
    for target in (bucket / "s.zarr", tmp_path / "back" / "b.zarr", tmp_path / "c.zarr"):
        assert contents(target) == expected
    assert there == back == across
    assert (there.there, there.chunks > 20) == (0, True)
    again = copy(tmp_path / "s.zarr", bucket / "s.zarr")
    assert (again.chunks, again.bytes, again.there) == (0, 0, there.chunks)


def test_what_came_since_is_all_that_is_copied(bucket: Path, tmp_path: Path, small: None) -> None:
    vectors = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    vector_stores.write(tmp_path / "s.zarr", vectors[:700])
    first = copy(tmp_path / "s.zarr", bucket / "s.zarr")
    vector_stores.write(tmp_path / "s.zarr", vectors[700:], start=700)
    second = copy(tmp_path / "s.zarr", bucket / "s.zarr", verify=True)
    name = f"embeddings/{vector_stores.spec_of(8).key}/vectors"
    np.testing.assert_array_equal(Store.open(bucket / "s.zarr").array(name), vectors)
    full = 700 // chunks.Layout(name, "float32", (8,)).chunk_rows
    assert second.there >= full > 5
    assert second.chunks < first.chunks + second.there


def test_a_compacted_store_leaves_nothing_deleted_in_its_copy(bucket: Path, tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", 9)
    copy(tmp_path / "s.zarr", bucket / "s.zarr")
    delete(tmp_path / "s.zarr", ids=["i1"])
    compact(tmp_path / "s.zarr")
    copy(tmp_path / "s.zarr", bucket / "s.zarr", verify=True)
    assert contents(bucket / "s.zarr") == contents(tmp_path / "s.zarr")
    assert Store.open(bucket / "s.zarr").column("id").tolist() == [
        f"i{i}" for i in range(9) if i != 1
    ]


def test_another_store_is_not_overwritten_unless_asked(bucket: Path, tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", 9)
    for other in (bucket / "o.zarr", tmp_path / "o.zarr"):
        write(other, 5, 50)
        before = contents(other)
        with pytest.raises(UsageError, match="is another store; --overwrite"):
            copy(tmp_path / "s.zarr", other)
        assert contents(other) == before
        copy(tmp_path / "s.zarr", other, overwrite=True, verify=True)
        assert contents(other) == contents(tmp_path / "s.zarr")


def test_a_copy_that_went_on_is_not_taken_back(bucket: Path, tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", 6)
    copy(tmp_path / "s.zarr", bucket / "s.zarr")
    write(bucket / "s.zarr", 6, 6)
    before = contents(bucket / "s.zarr")
    with pytest.raises(UsageError, match="has what"):
        copy(tmp_path / "s.zarr", bucket / "s.zarr")
    assert contents(bucket / "s.zarr") == before
    copy(bucket / "s.zarr", tmp_path / "s.zarr", verify=True)
    assert len(Store.open(tmp_path / "s.zarr")) == 12


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path, bucket: Path) -> None:
    write(tmp_path / "s.zarr", 3)
    for folder in (tmp_path / "photos", bucket / "photos"):
        folder.mkdir()
        (folder / "holiday.txt").write_bytes(b"sun")
        with pytest.raises(StoreError, match="not a store"):
            copy(tmp_path / "s.zarr", folder)
        assert contents(folder) == {"holiday.txt": b"sun"}


def test_damage_is_not_copied_and_a_damaged_copy_is_told(bucket: Path, tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", 9)
    copy(tmp_path / "s.zarr", bucket / "s.zarr")
    name = f"embeddings/{vector_stores.spec_of(8).key}/vectors/c/0/0"
    data = bytearray((bucket / "s.zarr" / name).read_bytes())
    data[5] ^= 1
    (bucket / "s.zarr" / name).write_bytes(bytes(data))
    with pytest.raises(StoreError, match="the copy is damaged"):
        copy(tmp_path / "s.zarr", bucket / "s.zarr", verify=True)
    with pytest.raises(StoreError, match=r"vectors/c/0/0: the file is damaged"):
        copy(bucket / "s.zarr", tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr" / "zarr.json").exists()


def test_the_key_is_copied_when_asked_alone(bucket: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    pseudonymise([], store)
    write(store, 3)
    linkage_file(store).write_text("id,file,image,patient,exam\ni1,f,i,Mrs X,e\nother,f,i,Y,e\n")
    assert "--with-key" in copy(store, bucket / "s.zarr").notes[0]
    assert not key_file(bucket / "s.zarr").exists()
    copy(store, bucket / "s.zarr", with_key=True)
    assert key_file(bucket / "s.zarr").read_bytes() == key_file(store).read_bytes()
    linked = linkage_file(bucket / "s.zarr").read_text()
    assert "Mrs X" in linked
    assert "other" not in linked
    assert not any(b"Mrs X" in data for data in contents(bucket).values())


def test_a_copy_killed_anywhere_is_gone_on_with(
    server: dict[str, str], bucket: Path, tmp_path: Path, small: None
) -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
    vector_stores.write(tmp_path / "s.zarr", vectors)
    for source, target in (
        (tmp_path / "s.zarr", bucket / "s.zarr"),
        (bucket / "s.zarr", tmp_path / "b.zarr"),
    ):
        kills = _killed(source, target, random.Random(1))
        done = copy(source, target, verify=True)
        assert contents(target) == contents(tmp_path / "s.zarr")
        assert kills >= 2
        assert done.there > 0
        assert not check(target).damage


def _killed(source: Path, target: Path, chance: random.Random) -> int:
    """Kill copies at work, soon after they have begun; return how many."""
    code = (
        "import sys; from embedstore.copying import copy\n"
        "from embedstore import chunks; chunks.CHUNK_BYTES = 4096\n"
        "show = lambda done, total: print(done, flush=True)\n"
        "copy(*sys.argv[1:], on_progress=show)"
    )
    kills = 0
    for number in (3, 20, 50):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(source), str(target)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        for line in process.stdout:
            if int(line) == number:
                time.sleep(chance.uniform(0, 0.02))
                os.kill(process.pid, signal.SIGKILL)
                break
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    return kills


def test_the_command_tells_what_it_did(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "s.zarr", 6)
    command = ["copy", str(tmp_path / "s.zarr"), str(bucket / "s.zarr"), "--verify"]
    assert _run(command, False) == 0
    assert f"{bucket}/s.zarr: " in capsys.readouterr().out
    assert _run(command, False) == 0
    assert "0 chunks copied, 0 bytes" in capsys.readouterr().out
    assert _run(["copy", str(tmp_path / "s.zarr"), str(tmp_path / "s.zarr")], False) == 2
    assert "is the store itself" in capsys.readouterr().err


def test_a_chunk_of_the_same_size_but_other_bytes_is_copied(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", 9)
    write(tmp_path / "other.zarr", 9, 100)
    copy(tmp_path / "s.zarr", tmp_path / "c.zarr")
    name = f"embeddings/{vector_stores.spec_of(8).key}/vectors/c/0/0"
    shutil.copy(tmp_path / "other.zarr" / name, tmp_path / "c.zarr" / name)
    assert copy(tmp_path / "s.zarr", tmp_path / "c.zarr").chunks == 1
    assert contents(tmp_path / "c.zarr") == contents(tmp_path / "s.zarr")
