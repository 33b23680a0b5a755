"""Writers, readers and kills over object storage, against the run of `test_kills`.

What is here runs in a process that has everything imported and only forks: obstore's threads are
those of the process that first asked it for something.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS, STEP = 48, 6


def apart(work: str, where: dict[str, str], *arguments: object, **more: str) -> Any:
    """Call a function of this file in such a process, with chunks of few rows."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import json, numcodecs.vlen, obstore, test_kills as t, object_work as o\n"
        "from embedstore import chunks\n"
        "chunks.CHUNK_BYTES, chunks.TEXT_ROWS, t.STEP = 4096, 16, o.STEP\n"
        f"print(json.dumps(o.{work}(*{arguments!r})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **where, "OPENBLAS_NUM_THREADS": "1", **more},
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def extraction(path: str) -> None:
    import test_kills

    from embedstore.places import place

    test_kills.extraction(place(path), ROWS)


def verified(path: str) -> int:
    """Verify a store against the undisturbed run, checksums and all; return its rows."""
    import test_kills

    from embedstore.check import check
    from embedstore.places import place

    done = test_kills.verify(place(path), ROWS)
    damage = check(place(path)).damage
    assert not damage, damage
    return done


class Child:
    """A forked process; `said` is what it wrote to its standard error."""

    def __init__(self, work: Callable[[], object]) -> None:
        from test_kills import forked

        there, here = os.pipe()

        def heard() -> None:
            os.dup2(here, 2)
            result = work()
            if result is not None:
                os.write(here, str(result).encode())

        self.pid, begun = forked(heard)
        os.close(here)
        os.read(begun, 1)
        os.close(begun)
        self._there = there

    def ended(self) -> int:
        with os.fdopen(self._there) as pipe:
            self.said = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def gave(self) -> int:
        """Return the number that the work came to."""
        code = self.ended()
        assert code == 0, self.said
        return int(self.said)


def raced(rounds: int, writers: int) -> dict[str, int]:
    """Let several processes write one store at once, again and again."""
    finished = refused = 0
    for n in range(rounds):
        path = f"s3://films/raced/{n}.zarr"
        children = [Child(lambda path=path: extraction(path)) for _ in range(writers)]
        codes = [child.ended() for child in children]
        assert set(codes) <= {0, 3}, [child.said for child in children]
        assert 0 in codes, [child.said for child in children]
        for child, code in zip(children, codes, strict=True):
            assert (child.said.count("\n") == 1) == (code == 3), child.said
        finished, refused = finished + codes.count(0), refused + codes.count(3)
        assert Child(lambda path=path: verified(path)).gave() == ROWS
    return {"finished": finished, "refused": refused}


def survived(kills: int, seed: int) -> dict[str, int]:
    """Kill a writer and start the next at once, until so many are killed."""
    chance, count, stores, kept = random.Random(seed), 0, 0, 0
    while count < kills:
        path, before = f"s3://films/killed/{stores}.zarr", 0
        while count < kills:
            child = Child(lambda path=path: extraction(path))
            time.sleep(chance.uniform(0, 0.5))
            os.kill(child.pid, signal.SIGKILL)
            if child.ended() == 0:
                break
            count += 1
            done = Child(lambda path=path: verified(path) if _there(path) else 0).gave()
            assert done >= before
            kept += done > before
            before = done
        last = Child(lambda path=path: extraction(path))
        assert last.ended() == 0, last.said
        assert Child(lambda path=path: verified(path)).gave() == ROWS
        stores += 1
    return {"kills": count, "stores": stores, "kept": kept}


def _there(path: str) -> bool:
    from embedstore.places import place

    return (place(path) / "zarr.json").exists()


def awoken(rounds: int, seed: int) -> dict[str, int]:
    """Stop a writer for so long that the next takes over, and let it go on amid the other's work.

    Run it with a short lease.
    """
    chance, refused = random.Random(seed), 0
    for n in range(rounds):
        path = f"s3://films/awoken/{n}.zarr"
        sleeper = Child(lambda path=path: extraction(path))
        time.sleep(chance.uniform(0.1, 0.5))
        os.kill(sleeper.pid, signal.SIGSTOP)
        last, awake = 3, False
        until = time.monotonic() + 30
        while last == 3 and time.monotonic() < until:
            other = Child(lambda path=path: extraction(path))
            if not awake and _taken_over(other.pid):
                time.sleep(chance.uniform(0, 0.3))
                os.kill(sleeper.pid, signal.SIGCONT)
                awake = True
            last = other.ended()
        assert last == 0, other.said
        os.kill(sleeper.pid, signal.SIGCONT)
        code = sleeper.ended()
        assert code in {0, 3}, sleeper.said
        refused += code == 3
        assert Child(lambda path=path: verified(path)).gave() == ROWS
    return {"refused": refused}


def _taken_over(pid: int) -> bool:
    """Wait a while; say whether the process is still at work, as one that was refused is not."""
    time.sleep(1.2)
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def read_meanwhile(seed: int) -> dict[str, int]:
    """Read again and again while a store is written."""
    path = "s3://films/read.zarr"
    first = Child(lambda: _started(path))
    assert first.ended() == 0, first.said
    writer = Child(lambda: extraction(path))
    reader = Child(lambda: _read(path))
    assert writer.ended() == 0, writer.said
    return {"commits": reader.gave()}


def _started(path: str) -> None:
    import test_kills

    from embedstore.places import place

    test_kills.extraction(place(path), STEP)


def _read(path: str) -> int:
    """Read until all rows are there; return how many different commits were seen."""
    from test_kills import verify

    from embedstore.places import place

    seen: list[int] = []
    while not seen or seen[-1] < ROWS:
        seen.append(verify(place(path), ROWS))
        assert seen == sorted(seen)
    return len(set(seen))


def fenced() -> dict[str, int]:
    """Stop a writer between its chunks and its commit, and its successor too; wake the first.

    Run it with a short lease.
    """
    path = "s3://films/fenced.zarr"
    assert Child(lambda: _started(path)).ended() == 0
    first = _stopped_before_commit(path, 2)  # the first that has rows
    second = _stopped_before_commit(path, 1)
    os.kill(first.pid, signal.SIGCONT)
    codes = {"first": first.ended()}
    os.kill(second.pid, signal.SIGCONT)
    codes["second"] = second.ended()
    assert Child(lambda: verified(path)).gave() == ROWS
    return codes


def _stopped_before_commit(path: str, number: int) -> Child:
    """Start an extraction that stops itself when all but the root of that commit is there."""

    def work() -> None:
        from embedstore import writer

        whole, stopped = writer.write_whole, []

        def stop_once(file: Path, data: bytes) -> None:
            if file.parent.name == "fenced.zarr":
                stopped.append(file)
                if len(stopped) == number:
                    os.kill(os.getpid(), signal.SIGSTOP)
            whole(file, data)

        writer.write_whole = stop_once
        extraction(path)

    until = time.monotonic() + 30
    while time.monotonic() < until:
        child = Child(work)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        if Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return child
        child.ended()  # the lock of the one before is still believed
    raise AssertionError("nobody took over")
