"""Kills, full disks and readers, against a run that nobody disturbed.

The work is done in a process of its own that has everything imported and forks: a child is
there in milliseconds, and it is a real process that a real SIGKILL ends wherever it is.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.check import check, repair
from embedstore.errors import StoreBusy, StoreError
from embedstore.kept import Kept
from embedstore.store import Failure, Store
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer

ROWS, STEP, DIM, GROWTH = 240, 3, 8, 60
SPEC = Spec("toy", "00", Recipe(), "pooled", DIM)
VECTORS = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
DIGESTS = np.random.default_rng(1).integers(0, 256, (ROWS, 16), dtype=np.uint8)
CUT = np.random.default_rng(2).random(ROWS).astype(np.float32)
PICTURES = np.random.default_rng(3).integers(0, 256, (ROWS, 4, 6), dtype=np.uint8)


def is_deep(row: int) -> bool:
    return row % 5 == 0


def sample(row: int) -> Sample:
    return Sample(
        f"i{row}", Path(f"{row}.png"), group=f"p{row // 4}", labels={"d": "ABCD"[row % 4]}
    )


def kept(row: int) -> Kept:
    picture = PICTURES[row].astype(np.uint16) * 257 if is_deep(row) else PICTURES[row]
    return Kept(DIGESTS[row].tobytes(), picture, float(CUT[row]))


def extraction(path: Path, rows: int = ROWS) -> None:
    """Do what is missing in small commits: vectors, pictures, failures, samples, a late label."""
    with Writer(path) as writer:
        writer.add_spec(SPEC, {"device": "none"})
        writer.commit()
        done = writer.store().rows(f"embeddings/{SPEC.key}/rows")
        there = len(writer.store())
        for start in range(done, rows, STEP):
            batch = np.arange(start, min(start + STEP, rows))
            while there <= batch[-1]:
                writer.add_samples([sample(i) for i in range(there, there + GROWTH)])
                there += GROWTH
            if start >= rows // 2 and "late" not in writer.store().labels:
                writer.add_label("late", [f"l{i}" for i in range(there)])
            writer.append(SPEC, batch, VECTORS[batch], DIGESTS[batch], CUT[batch])
            writer.keep(SPEC.recipe, batch, [kept(i) for i in batch.tolist()])
            if start % 30 == 0:
                writer.add_failures([Failure(f"i{start}", "", "read", "gone", "other")])
            writer.commit()


def verify(path: Path, rows: int = ROWS) -> int:
    """Compare every array of one commit with the undisturbed run; return how many rows it has."""
    store = Store.open(path)
    prefix = f"embeddings/{SPEC.key}"
    done = store.rows(f"{prefix}/rows")
    assert done == rows or done % STEP == 0
    verify_tables(store, done)
    if prefix not in store.arrays:  # the commit that makes a store
        return done
    batch = np.arange(done)
    np.testing.assert_array_equal(store.array(f"{prefix}/rows"), batch)
    np.testing.assert_array_equal(store.array(f"{prefix}/vectors"), VECTORS[:done])
    np.testing.assert_array_equal(store.array(f"{prefix}/digests"), DIGESTS[:done])
    np.testing.assert_array_equal(store.array(f"{prefix}/cut"), CUT[:done])
    deep = np.array([is_deep(i) for i in range(done)], dtype=bool)
    for kind, chosen in (("uint8", batch[~deep]), ("uint16", batch[deep])):
        place = f"pixels/{SPEC.recipe.pixel_key}/{kind}"
        assert store.rows(f"{place}/rows") == len(chosen)
        if len(chosen):
            pictures = np.stack([kept(i).picture for i in chosen.tolist()])
            np.testing.assert_array_equal(store.array(f"{place}/values"), pictures)
            np.testing.assert_array_equal(store.array(f"{place}/rows"), chosen)
            np.testing.assert_array_equal(store.array(f"{place}/digests"), DIGESTS[chosen])
            np.testing.assert_array_equal(store.array(f"{place}/cut"), CUT[chosen])
    return done


def verify_tables(store: Store, done: int) -> None:
    """The tables of the same commit: no sample too few, no failure twice."""
    known = len(store)
    assert known == -(-done // GROWTH) * GROWTH
    assert store.column("id").tolist() == [f"i{i}" for i in range(known)]
    assert store.column("group").tolist() == [f"p{i // 4}" for i in range(known)]
    if known:
        assert store.column("d").tolist() == ["ABCD"[i % 4] for i in range(known)]
    if "late" in store.labels:
        late = [i for i, text in enumerate(store.column("late").tolist()) if text == f"l{i}"]
        assert late == list(range(len(late)))
    failed = [f.id for f in store.failures()]
    assert failed == [f"i{i}" for i in range(0, done, 30)]


def forked(work: Callable[[], object]) -> tuple[int, int]:
    """Start `work` in a child; return its pid, and a pipe that holds a byte when it has begun."""
    there, here = os.pipe()
    pid = os.fork()
    if pid:
        os.close(here)
        return pid, there
    code = 1
    try:
        os.write(here, b".")
        work()
        code = 0
    except StoreError as error:
        print(error, file=sys.stderr, flush=True)
        code = 3
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child; return its exit code, -9 where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(path: Path, seconds: float) -> bool:
    """Run an extraction and kill it so long after it began; False where it had finished."""
    pid, pipe = forked(lambda: extraction(path))
    os.read(pipe, 1)
    os.close(pipe)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    code = ended(pid)
    assert code in {0, -signal.SIGKILL}
    return code != 0


def undisturbed_seconds(folder: Path) -> float:
    """How long a run takes here: the moments of the kills are chosen by it."""
    began = time.monotonic()
    pid, pipe = forked(lambda: extraction(folder / "undisturbed.zarr"))
    os.close(pipe)
    assert ended(pid) == 0
    assert verify(folder / "undisturbed.zarr") == ROWS
    return time.monotonic() - began


def survive(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill and start again, store after store; after each kill all that is there must be right."""
    chance = random.Random(seed)
    longest = undisturbed_seconds(folder) / 25
    count = {"kills": 0, "stores": 0, "in_a_commit": 0}
    while count["kills"] < kills:
        path = folder / f"{count['stores']}.zarr"
        before = stuck = 0
        # longer where a start alone takes all the time there is
        while count["kills"] < kills and killed(path, chance.uniform(0, longest * (1 + stuck / 4))):
            count["kills"] += 1
            stuck += 1
            if not (path / "zarr.json").exists():
                continue
            done = verify(path)
            assert done >= before
            before, stuck = done, stuck * (done == before)
            found = check(path)
            assert not found.damage
            count["in_a_commit"] += bool({f.kind for f in found.findings} & {"leftover", "behind"})
            if chance.random() < 0.2:  # it must be all the same to the next run
                assert not repair(path).damage
        extraction(path)
        assert verify(path) == ROWS
        assert not check(path).findings
        count["stores"] += 1
    return count


@contextmanager
def meanwhile(work: Callable[[], object], folder: Path) -> Iterator[list[int]]:
    """Repeat `work` in a process of its own; its exit code and how often it was done come last."""
    stop, tally, result = folder / "stop", folder / "tally", []

    def repeat() -> None:
        times = 0
        while not stop.exists():
            work()
            times += 1
            tally.write_text(str(times))

    pid, pipe = forked(repeat)
    os.close(pipe)
    try:
        yield result
    finally:
        stop.touch()
        result += [ended(pid), int(tally.read_text())]
        stop.unlink()
        tally.unlink()


def read_meanwhile(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill writers while a reader and a checker go on: no exception, nothing by halves."""
    chance, path = random.Random(seed), folder / "s.zarr"
    longest = undisturbed_seconds(folder) / 6
    extraction(path, STEP)
    seen: set[int] = set()

    def read() -> None:
        done = verify(path)
        assert done >= max(seen, default=0)
        seen.add(done)
        if chance.random() < 0.1:
            assert not check(path).damage

    count = 0
    with meanwhile(read, folder) as result:
        while count < kills and killed(path, chance.uniform(0, longest)):
            count += 1
    assert verify(path) > STEP
    return {"kills": count, "code": result[0], "reads": result[1]}


def limited(path: Path, size: int, rows: int) -> str:
    """Run an extraction that may write no file beyond `size` bytes; return all that it said."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        os.dup2(said, 2)
        extraction(path, rows)

    there, said = os.pipe()
    pid, pipe = forked(work)
    os.close(pipe)
    os.close(said)
    with os.fdopen(there) as complaint:
        text = complaint.read()
    code = ended(pid)
    assert code == (3 if text else 0), text
    return text


def fill_disks(folder: Path, sizes: list[int]) -> dict[str, int]:
    """Stop runs by a limit on file sizes, begun anew and gone on with; then finish them."""
    refused, few = 0, GROWTH
    for size in sizes:
        path = folder / f"{size}.zarr"
        if size % 2:
            extraction(path, few // 2)
        if text := limited(path, size, few):
            refused += 1
            assert text.count("\n") == 1
            assert "the disk is full" in text
            assert "run the same command again" in text
        if (path / "zarr.json").exists():
            verify(path, few)
            assert not check(path).damage
            assert not [f for f in check(path).findings if ".writing-" in f.where]
        extraction(path, few)
        assert verify(path, few) == few
        assert not check(path).findings
    return {"refused": refused}


def apart(work: str, folder: Path, *arguments: object) -> Any:
    """Call a function of this file in a process that has no threads, with chunks of few rows.

    Nothing is flushed to the disk: what is written outlives a process, and waiting would only
    make the seconds those of the disk.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import json, os, pathlib, numcodecs.vlen, test_kills as t\nfrom embedstore import chunks\n"
        "os.fsync = lambda handle: None\n"
        "chunks.CHUNK_BYTES, chunks.TEXT_ROWS = 4096, 16\n"
        f"print(json.dumps(t.{work}(pathlib.Path({str(folder)!r}), *{arguments!r})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_two_hundred_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    count = apart("survive", tmp_path, 200, 0)
    assert count["kills"] >= 200
    assert count["stores"] >= 2
    assert count["in_a_commit"] >= 20  # the kills meet what they are to meet


def test_a_reader_meanwhile_sees_whole_commits_only(tmp_path: Path) -> None:
    count = apart("read_meanwhile", tmp_path, 30, 1)
    assert count["code"] == 0
    assert count["kills"] >= 3
    assert count["reads"] >= 20


def test_a_disk_full_at_any_size_is_one_line_and_the_next_run_does_the_rest(
    tmp_path: Path,
) -> None:
    sizes = [int(2**x) for x in np.random.default_rng(0).uniform(6, 15, 16)]
    count = apart("fill_disks", tmp_path, sizes)
    assert count["refused"] >= 10


def test_a_disk_without_room_for_the_lock_is_one_line(tmp_path: Path) -> None:
    assert apart("fill_disks", tmp_path, [0]) == {"refused": 1}


def test_a_second_writer_is_refused_and_a_dead_ones_lock_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    code = (
        "import pathlib, sys; from embedstore.writer import Writer\n"
        f"with Writer(pathlib.Path({str(path)!r})): print('in', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None
    first.stdout.readline()
    named = f"process {first.pid} on {socket.gethostname()};"
    for second in (lambda: Writer(path).__enter__(), lambda: repair(path)):
        with pytest.raises(StoreBusy, match=named):
            second()
    assert [f.kind for f in check(path).findings] == ["writing"]
    first.kill()
    first.communicate()
    assert [f.kind for f in check(path).findings] == ["lock"]
    with Writer(path) as writer:
        writer.add_samples([sample(0)])
        writer.commit()
    assert len(Store.open(path)) == 1
    assert not check(path).findings


def test_a_second_writer_by_way_of_a_link_is_refused_too(tmp_path: Path) -> None:
    with Writer(tmp_path / "s.zarr"):
        (tmp_path / "link.zarr").symlink_to(tmp_path / "s.zarr")
        with (
            pytest.raises(StoreBusy, match=f"process {os.getpid()}"),
            Writer(tmp_path / "link.zarr"),
        ):
            raise AssertionError("both are in")
