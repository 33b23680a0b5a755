"""What the reader processes of `test_readers` do: jobs that go well, crash, hang or take memory.

A module of its own, because a reader process imports the function it runs by its module's name.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from embedstore.bucket import Unreachable
from embedstore.errors import ImageError


def work(what: str, value: int = 0) -> int:
    """Do what the name says and return the value."""
    _DEEDS[what](value)
    return value


def note(what: str, path: Path) -> int:
    """Write this process's number to a file, and return it or never come back."""
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    if what != "number":
        _DEEDS[what.removeprefix("note and ")](0)
    return os.getpid()


def variable(name: str) -> str:
    """Return what the environment says."""
    return os.environ.get(name, "")


def fill() -> dict[str, int]:
    """Take memory and touch it until no more is given; bytes held, and most ever held."""
    held: list[bytes] = []
    with suppress(MemoryError):
        while len(held) < 1000:
            held.append(b"x" * 2**24)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"held": len(held) << 24, "peak": peak}


def _nothing(_: int) -> None:
    pass


def _busy(milliseconds: int) -> None:
    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        pass


def _segfault(_: int) -> None:
    ctypes.string_at(0)


def _abort(_: int) -> None:
    os.abort()


def _leave(code: int) -> None:
    os._exit(code)


def _kill(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(_: int) -> None:
    threading.Event().wait()


def _hang_deaf(_: int) -> None:
    """As a codec in C does that holds the interpreter: no Python code runs here any more."""
    ctypes.PyDLL(None).sleep(1000)


def _take(gibibytes: int) -> None:
    bytearray(gibibytes * 2**30)


def _refuse(_: int) -> None:
    raise ImageError("decode", "no image")


def _raise(number: int) -> None:
    kinds = (ValueError, KeyError, RecursionError, AssertionError, TimeoutError, EOFError, OSError)
    raise kinds[number]("of its own")


class _Odd(Exception):
    """Cannot be pickled, nor made again from its text."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"odd: {first}, {second}")
        self.lock = threading.Lock()


def _raise_odd(_: int) -> None:
    raise _Odd(1, 2)


def _away(_: int) -> None:
    raise Unreachable("nobody answers")


_DEEDS: dict[str, Callable[[int], None]] = {
    "away": _away,
    "nothing": _nothing,
    "busy": _busy,
    "segfault": _segfault,
    "abort": _abort,
    "leave": _leave,
    "kill": _kill,
    "hang": _hang,
    "hang deaf": _hang_deaf,
    "take": _take,
    "refuse": _refuse,
    "raise": _raise,
    "raise odd": _raise_odd,
}
