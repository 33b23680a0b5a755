"""Files read and prepared in processes of their own: one that dies or hangs takes one file down.

A codec in C can crash on a damaged file or never come back, and no ``try`` helps against either.
A reader has one job at a time and a pipe of its own, so that it is known which file ended it. It
is also held to an amount of memory, and ends when the process it reads for does.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from queue import SimpleQueue
from types import ModuleType
from typing import Any, Generic, TypeVar

from embedstore.bucket import Unreachable
from embedstore.errors import EmbedstoreError, ImageError

MEMORY = 1792 * 2**20
"""Bytes of data a reader process may hold; an image that needs more is a failure."""

SECONDS = 60.0
"""How long one file may take."""

_AHEAD = 4  # files read before their turn, for each reader
_START = 120.0  # seconds a reader may take to be there, on a slow disk
_GRACE = 5.0  # seconds after which a reader that is over its time ends itself

T = TypeVar("T")


class Readers(Generic[T]):
    """Processes that call a function for files; a context manager, which ends them.

    Parameters
    ----------
    function
        A function of a module, which reads a file and raises `ImageError` where it cannot.
    workers
        Reader processes; 0 reads in this one, without any of the protection.
    seconds
        After this time a file is given up and its reader replaced.
    niceness
        What they give way to other processes by, 0 to 19 (``nice``).
    """

    def __init__(
        self,
        function: Callable[..., T],
        workers: int,
        seconds: float = SECONDS,
        niceness: int = 0,
    ) -> None:
        self._function = function
        self._readers = [_Reader(function, seconds, niceness) for _ in range(workers)]
        self._idle: SimpleQueue[_Reader] = SimpleQueue()
        for reader in self._readers:
            self._idle.put(reader)
        self._threads = ThreadPoolExecutor(max(1, workers))  # each waits for a reader

    def __enter__(self) -> Readers[T]:
        """Return itself; processes start with their first file."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self.end()

    def each(self, jobs: Iterable[tuple[Any, ...]]) -> Generator[T | ImageError]:
        """Call ``function(*job)`` for every job, some jobs ahead of their turn; yield in order.

        Returns
        -------
        Generator
            What the function returned, or the `ImageError` that says why there is nothing.

        Raises
        ------
        EmbedstoreError
            No reader process starts, `end` was called meanwhile, or what holds the files does not
            answer, which is no failure of theirs.
        """
        if not self._readers:
            yield from (_usable(attempt(self._function, job)) for job in jobs)
            return
        left = (self._threads.submit(self._read, job) for job in jobs)
        waiting = deque(islice(left, _AHEAD * len(self._readers)))
        while waiting:
            yield _usable(waiting.popleft().result())
            waiting.extend(islice(left, 1))

    def _read(self, job: tuple[Any, ...]) -> T | ImageError | Unreachable:
        reader = self._idle.get()
        try:
            result: T | ImageError | Unreachable = reader.read(job)
            return result
        finally:
            self._idle.put(reader)

    def end(self) -> None:
        """End the processes, from any thread, whatever they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for reader in self._readers:
            reader.end()
        self._threads.shutdown()


def read_each(
    function: Callable[..., T],
    jobs: Iterable[tuple[Any, ...]],
    workers: int,
    seconds: float = SECONDS,
) -> Generator[T | ImageError]:
    """Yield `Readers.each` of the jobs, by readers that end with them."""
    with Readers(function, workers, seconds) as readers:
        yield from readers.each(jobs)


def _usable(result: T | ImageError | Unreachable) -> T | ImageError:
    if isinstance(result, Unreachable):
        raise result
    return result


def attempt(function: Callable[..., T], job: tuple[Any, ...]) -> T | ImageError | Unreachable:
    """Call the function; what is wrong with a file is returned, so that it crosses processes."""
    try:
        return function(*job)
    except (ImageError, Unreachable) as error:
        return error
    except MemoryError:
        return ImageError("decode", f"needs more than the {MEMORY >> 20} MiB a reader may take")
    except Exception as error:  # noqa: BLE001 - one odd image must not stop a run of a million
        return ImageError("preprocess", f"{type(error).__name__}: {error}")


class _Reader:
    """A reader process, which is there from the first job on and again after it has died."""

    _one_at_a_time = threading.Lock()  # multiprocessing's own book-keeping is for one thread

    def __init__(self, function: Callable[..., Any], seconds: float, niceness: int) -> None:
        self._function, self._seconds, self._niceness = function, seconds, niceness
        # not a fork of this process, which has threads and perhaps a GPU
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, function.__module__])
        self._process: ForkServerProcess | None = None
        self._pipe: Connection | None = None
        self._ended = threading.Event()

    def read(self, job: tuple[Any, ...]) -> Any:
        """Return what the function gave, or an ImageError that says how its process ended."""
        pipe = self._pipe or self._start()
        try:
            pipe.send(job)
            if pipe.poll(self._seconds):
                return pipe.recv()
            self._stop(patience=0)
            return ImageError("decode", f"not decoded within {self._seconds:g} s")
        except (OSError, EOFError):
            return ImageError("decode", f"the decoder crashed ({_name(self._stop(_GRACE))})")

    def end(self) -> None:
        """End the process, from any thread, whatever it is doing; no other takes its place."""
        self._ended.set()
        with self._one_at_a_time:
            if self._process is not None:
                self._process.kill()
                self._process.join(_GRACE)

    def _start(self) -> Connection:
        pipe, theirs = self._context.Pipe()
        with theirs, self._one_at_a_time:
            if self._ended.is_set():
                raise EmbedstoreError("the readers have been ended")
            arguments = theirs, self._function, self._seconds, self._niceness, dict(os.environ)
            process = self._context.Process(target=_serve, args=arguments, daemon=True)
            with _without_main(), _without_interrupts():
                process.start()
            self._process = process
        try:
            if pipe.poll(_START) and pipe.recv():
                self._pipe = pipe
                return pipe
        except (OSError, EOFError):
            pass
        raise EmbedstoreError("a reader process ended before its first file; give workers=0")

    def _stop(self, patience: float) -> int | None:
        """End the process, if it has not ended by itself within some seconds: its exit code."""
        assert self._process is not None
        assert self._pipe is not None
        self._pipe.close()
        self._pipe = None
        with self._one_at_a_time:
            self._process.join(patience)
            self._process.kill()
            self._process.join(_GRACE)
            return self._process.exitcode


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from running the user's script again in the new process.

    A reader needs nothing of it, and a script without ``if __name__ == "__main__":`` would begin
    once more, or one read from standard input could not be found.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from the fork server too, which starts here and inherits what is blocked."""
    resource_tracker.ensure_running()  # or starting it would unblock it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _name(exitcode: int | None) -> str:
    try:
        return signal.Signals(-(exitcode or 0)).name
    except ValueError:
        return f"exit code {exitcode}"


def _serve(
    pipe: Connection,
    function: Callable[..., Any],
    seconds: float,
    niceness: int,
    environment: dict[str, str],
) -> None:
    """Answer jobs until no more come; what a reader process runs."""
    os.environ.clear()  # which is as it was when the first reader started
    os.environ.update(environment)
    _become_reader()
    os.nice(niceness)
    with suppress(OSError, EOFError):  # the process it reads for has gone
        pipe.send(True)
        while True:
            job = pipe.recv()
            # the kernel ends it, should both this interpreter and its parent be past doing so
            signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
            pipe.send(attempt(function, job))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _become_reader() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process it reads for
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs write what is in the reasons anyway
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform == "linux":  # elsewhere the limit is not kept
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, most))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
