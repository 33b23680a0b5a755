"""The lock of a store on a disk: who holds it, who is refused, and what is left of it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from embedstore import lock
from embedstore.errors import StoreBusy
from embedstore.lock import is_left, lock_of, write_lock, writer_of

HOST = socket.gethostname()


def here() -> dict[str, object]:
    return {"pid": os.getpid(), "host": HOST}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.zarr.lock"


@pytest.fixture
def dead() -> int:
    """Return the number of a process that was."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("left", [None, "x" * 500])
def test_the_lock_says_who_holds_it_and_goes_with_the_block(path: Path, left: str | None) -> None:
    if left:
        path.write_text(left)
    before = open_files()
    for _ in range(2):
        with suppress(KeyError), write_lock(path):
            assert json.loads(path.read_bytes()) == here()
            assert path.stat().st_mode & 0o777 == 0o644
            assert writer_of(path) == f"process {os.getpid()} on {HOST}"
            assert is_left(path)
            raise KeyError
        assert not path.exists()
        assert not is_left(path)
        assert writer_of(path) is None
    assert open_files() == before


@pytest.mark.parametrize(
    ("text", "holder"),
    [
        (json.dumps({"pid": 7, "host": "there"}).encode(), "process 7 on there"),
        (b"", "another process"),
        (b"\xff", "another process"),
        (b"{}", "another process"),
        (b'{"pid": 7}', "another process"),
        (b"[]", "another process"),
    ],
)
def test_who_finds_it_held_is_told_by_whom(path: Path, text: bytes, holder: str) -> None:
    path.write_bytes(text)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = open_files()
        with pytest.raises(StoreBusy) as refused, write_lock(path):
            pass
        store = path.with_suffix("")  # not the lock, of which a user knows nothing
        assert str(refused.value) == f"{store}: being written by {holder}; wait for it"
        assert open_files() == before
        assert path.read_bytes() == text


def test_what_a_dead_writer_left_is_taken_over(path: Path, dead: int) -> None:
    path.write_text(json.dumps(here() | {"pid": dead}))
    assert is_left(path)
    with write_lock(path):
        assert json.loads(path.read_bytes()) == here()
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"pid": 1}', '{"pid": "x", "host": "h"}'])
def test_a_text_that_names_nobody_is_nobodys(path: Path, text: str) -> None:
    path.write_text(text)
    assert writer_of(path) is None


def test_the_dead_of_this_machine_alone_are_known(path: Path, dead: int) -> None:
    for pid, where, named in (
        (dead, HOST, None),
        (dead, "elsewhere", f"process {dead} on elsewhere"),
        (2**70, HOST, f"process {2**70} on {HOST}"),
    ):
        path.write_text(json.dumps({"pid": pid, "host": where}))
        assert writer_of(path) == named


def test_another_living_process_is_named_and_left_alone(path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        path.write_text(json.dumps({"pid": other.pid, "host": HOST}))
        assert writer_of(path) == f"process {other.pid} on {HOST}"
        assert other.poll() is None
        other.kill()


def test_a_lock_that_its_holder_removes_before_it_is_ours_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = fcntl.flock, []

    def after_the_holder_went(handle: int, how: int) -> None:
        tries.append(handle)
        if len(tries) == 1:
            path.unlink()
        elif len(tries) == 2:  # and another took its place
            path.unlink()
            path.write_text("another's")
        real(handle, how)

    before = open_files()
    monkeypatch.setattr(lock.fcntl, "flock", after_the_holder_went)
    with write_lock(path):
        assert len(tries) == 3
        assert json.loads(path.read_bytes()) == here()
        assert open_files() == before + 1
    assert not path.exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of threads of other tests
def test_a_forked_child_does_not_hold_it(path: Path) -> None:
    with write_lock(path):
        mine = {handle for handle in map(int, os.listdir("/proc/self/fd")) if points(handle, path)}
        assert len(mine) == 1
        if not (child := os.fork()):
            os._exit(sum(points(handle, path) for handle in mine) or 10 * bool(lock._held))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(StoreBusy), write_lock(path):
            pass


def points(handle: int, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{handle}") == str(path)
    except OSError:
        return False


def test_a_link_has_the_lock_of_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert lock_of(tmp_path / "link") == lock_of(tmp_path / "real")
    assert lock_of(tmp_path / "real") == tmp_path.resolve() / "real.lock"
