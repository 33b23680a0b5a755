"""Readers at work, with real processes that really die, hang and take memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import reader_jobs

from embedstore.bucket import Unreachable
from embedstore.errors import ImageError
from embedstore.readers import MEMORY, read_each

TESTS = Path(__file__).parent
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and its limits")


def outcomes(*jobs: tuple[str, int], workers: int = 2, seconds: float = 60) -> list[int | str]:
    """Give each job's value, or the reason why there is none."""
    read = read_each(reader_jobs.work, jobs, workers, seconds)
    return [found.reason if isinstance(found, ImageError) else found for found in read]


def eventually(happens: Callable[[], object], seconds: float) -> bool:
    """Tell whether something becomes so within some seconds."""
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def is_there(number: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be noticed does not."""
    with suppress(OSError):
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


@contextmanager
def busy_interpreter(threads: int = 2) -> Iterator[None]:
    """Keep this process's interpreter at work, as a model or a training run beside would."""
    ended = threading.Event()

    def turn() -> None:
        while not ended.is_set():
            sum(range(1000))

    turning = [threading.Thread(target=turn) for _ in range(threads)]
    for thread in turning:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in turning:
            thread.join()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_jobs_whatever_each_takes(workers: int) -> None:
    jobs = [("busy", 40 * (number % 3 == 0) + number) for number in range(30)]
    assert outcomes(*jobs, workers=workers) == [value for _, value in jobs]


def test_no_jobs_give_no_results() -> None:
    assert outcomes() == []


@pytest.mark.parametrize(
    ("what", "value", "reason"),
    [
        ("segfault", 0, "the decoder crashed (SIGSEGV)"),
        ("abort", 0, "the decoder crashed (SIGABRT)"),
        ("kill", 0, "the decoder crashed (SIGKILL)"),
        ("leave", 3, "the decoder crashed (exit code 3)"),
        ("leave", 0, "the decoder crashed (exit code 0)"),
        ("refuse", 0, "no image"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_death_takes_its_own_file_down(what: str, value: int, reason: str, workers: int) -> None:
    jobs = [("nothing", number) for number in range(12)]
    jobs[5] = what, value
    expected: list[int | str] = list(range(12))
    expected[5] = reason
    assert outcomes(*jobs, workers=workers, seconds=10) == expected


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_of_many_deaths_each_is_told_of_once(workers: int) -> None:
    jobs = [("segfault" if number % 2 else "nothing", number) for number in range(40)]
    expected = ["the decoder crashed (SIGSEGV)" if n % 2 else n for n in range(40)]
    assert outcomes(*jobs, workers=workers, seconds=10) == expected


def test_where_every_file_is_deadly_the_run_still_ends_by_itself() -> None:
    assert outcomes(*[("abort", 0)] * 20) == ["the decoder crashed (SIGABRT)"] * 20


@pytest.mark.parametrize("round_", range(3))
def test_deaths_are_told_apart_when_this_process_has_no_time(round_: int) -> None:
    jobs = [("segfault" if number % 2 else "nothing", number) for number in range(40)]
    expected = ["the decoder crashed (SIGSEGV)" if n % 2 else n for n in range(40)]
    with busy_interpreter():
        began = time.monotonic()
        assert outcomes(*jobs, seconds=30) == expected
    assert time.monotonic() - began < 30, "a dead reader was waited for"


@pytest.mark.parametrize("what", ["hang", "hang deaf"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_takes_for_ever_is_given_up(what: str, workers: int) -> None:
    jobs = [("nothing", number) for number in range(12)]
    jobs[2], jobs[6] = (what, 0), (what, 0)
    began = time.monotonic()
    found = outcomes(*jobs, workers=workers, seconds=1)
    assert time.monotonic() - began < 12
    assert found[2] == found[6] == "not decoded within 1 s"
    assert [found[n] for n in range(12) if n not in {2, 6}] == [0, 1, 3, 4, 5, 7, 8, 9, 10, 11]


def test_the_time_is_for_one_file_not_for_those_before_it() -> None:
    jobs = [("busy", 400)] * 6
    assert outcomes(*jobs, workers=1, seconds=2) == [400] * 6


@linux_only
def test_memory_beyond_the_limit_is_refused_and_the_rest_goes_on() -> None:
    found = outcomes(("nothing", 1), ("take", 3), ("nothing", 2), ("take", 100), ("take", 1))
    refused = f"needs more than the {MEMORY >> 20} MiB a reader may take"
    assert found == [1, refused, 2, refused, 1]


@linux_only
def test_a_reader_never_holds_more_than_its_limit() -> None:
    (taken,) = read_each(reader_jobs.fill, [()], 1)
    assert 0.5 * MEMORY < taken["held"] < taken["peak"] < MEMORY + 2**28


@pytest.mark.parametrize("number", range(7))
def test_an_exception_of_any_kind_becomes_an_image_error(number: int) -> None:
    (found,) = read_each(reader_jobs.work, [("raise", number)], 1)
    assert isinstance(found, ImageError)
    assert found.stage == "preprocess"
    assert re.fullmatch(r"\w+: '?of its own'?", found.reason)


def test_a_reader_has_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as credentials that a notebook sets after its first extraction."""
    assert list(read_each(reader_jobs.variable, [("EMBEDSTORE_TRIED",)], 1)) == [""]
    monkeypatch.setenv("EMBEDSTORE_TRIED", "yes")
    assert list(read_each(reader_jobs.variable, [("EMBEDSTORE_TRIED",)], 1)) == ["yes"]
    monkeypatch.delenv("HOME")  # which it was started with
    assert list(read_each(reader_jobs.variable, [("HOME",)], 1)) == [""]


@pytest.mark.parametrize("workers", [0, 1])
def test_where_files_cannot_be_reached_at_all_none_of_them_is_to_blame(workers: int) -> None:
    found = read_each(reader_jobs.work, [("nothing", 7), ("away", 0), ("nothing", 8)], workers)
    assert next(found) == 7
    with pytest.raises(Unreachable, match="^nobody answers$"):
        next(found)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_that_cannot_cross_processes_is_told_of_too(workers: int) -> None:
    jobs = ("raise odd", 0), ("nothing", 7)
    assert outcomes(*jobs, workers=workers) == ["_Odd: odd: 1, 2", 7]


@linux_only
def test_readers_end_when_the_reading_is_broken_off(tmp_path: Path) -> None:
    notes = [tmp_path / f"{number}" for number in range(2)]
    jobs = [("number", tmp_path / "first"), *[("note and hang", note) for note in notes]]
    with closing(read_each(reader_jobs.note, jobs, 2)) as read:
        first = next(read)
        assert eventually(lambda: all(note.exists() for note in notes), 20)
    numbers = {first, *(int(note.read_text()) for note in notes)}
    assert len(numbers) >= 2
    assert eventually(lambda: not any(map(is_there, numbers)), 5)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import reader_jobs
from embedstore.readers import read_each
if __name__ == "__main__":
    list(read_each(reader_jobs.note, [({what!r}, Path(name)) for name in sys.argv[1:]], 2, 3))
"""


@linux_only
@pytest.mark.parametrize(("what", "within"), [("note and hang", 5), ("note and hang deaf", 30)])
def test_readers_end_when_what_they_read_for_is_killed(
    tmp_path: Path, what: str, within: float
) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED.format(tests=str(TESTS), what=what))
    notes = [tmp_path / "a", tmp_path / "b"]
    child = subprocess.Popen(
        [sys.executable, script, *notes], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        assert eventually(lambda: all(note.exists() for note in notes), 30)
        child.kill()
        child.wait(5)
        numbers = [int(note.read_text()) for note in notes]
        assert eventually(lambda: not any(map(is_there, numbers)), within)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


UNGUARDED = """
import sys
sys.path.insert(0, {tests!r})
import reader_jobs
from embedstore.readers import read_each
print("begun")
print(list(read_each(reader_jobs.work, [("nothing", n) for n in range(10)], 2)))
"""


@pytest.mark.parametrize("how", ["file", "standard input"])
def test_a_script_without_a_guard_is_not_run_again_by_its_readers(tmp_path: Path, how: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(tests=str(TESTS)))
    command = [sys.executable, *([script] if how == "file" else [])]
    given = {} if how == "file" else {"input": script.read_text()}
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, **given)
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines() == ["begun", str(list(range(10)))]
