"""Files read and prepared in processes of their own: one that dies or hangs takes one file down.

A codec in C can crash on a damaged file or never come back, and no ``try`` helps against either.
Each reader is also held to an amount of memory, and ends when the process it reads for does.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import TimeoutError as NoAnswer
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

from embedstore.errors import EmbedstoreError, ImageError

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

MEMORY = 2 * 2**30
"""Bytes of data a reader process may hold; an image that needs more is a failure."""

SECONDS = 60.0
"""How long one file may take."""

_AHEAD = 4  # files handed to each reader before their turn
_GRACE = 30.0  # seconds; the pool itself ends a reader that is over its time

T = TypeVar("T")


def read_each(
    function: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    seconds: float = SECONDS,
) -> Generator[T | ImageError]:
    """Call ``function(*job)`` for every job, some jobs ahead of their turn, and yield in order.

    Parameters
    ----------
    function
        A function of a module, which reads a file and raises `ImageError` where it cannot.
    workers
        Reader processes; 0 reads in this one, without any of the protection.
    seconds
        After this time a file is given up and its reader replaced.

    Returns
    -------
    Generator
        What the function returned, or the `ImageError` that says why there is nothing.

    Raises
    ------
    EmbedstoreError
        No reader process stays alive.
    """
    if not workers:
        yield from (attempt(function, job) for job in jobs)
        return
    done = 0
    while done < len(jobs):
        before = done
        try:
            with _pool(min(workers, len(jobs) - done), function.__module__) as pool:
                for result in _ahead(pool, function, jobs[done:], workers, seconds):
                    done += 1
                    yield result
        except BrokenProcessPool as error:
            if done == before:
                raise EmbedstoreError(
                    "the reader processes end as soon as they start; a script must call this "
                    'under `if __name__ == "__main__":`, or give workers=0'
                ) from error


def attempt(function: Callable[..., T], job: tuple[Any, ...]) -> T | ImageError:
    """Call the function; what is wrong with a file is returned, so that it crosses processes."""
    try:
        return function(*job)
    except ImageError as error:
        return error
    except MemoryError:
        return ImageError("decode", f"needs more than the {MEMORY >> 20} MiB a reader may take")
    except Exception as error:  # noqa: BLE001 - one odd image must not stop a run of a million
        return ImageError("preprocess", f"{type(error).__name__}: {error}")


def _ahead(
    pool: ProcessPool,
    function: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    seconds: float,
) -> Iterator[T | ImageError]:
    left = (_schedule(pool, function, job, seconds) for job in jobs)
    waiting = deque(islice(left, _AHEAD * workers))
    while waiting:
        yield _result(waiting.popleft(), seconds)
        waiting.extend(islice(left, 1))


def _schedule(
    pool: ProcessPool, function: Callable[..., T], job: tuple[Any, ...], seconds: float
) -> ProcessFuture[T | ImageError]:
    try:
        return pool.schedule(attempt, args=(function, job), timeout=seconds)
    except RuntimeError as error:
        raise BrokenProcessPool("the pool takes no more") from error


def _result(future: ProcessFuture[T | ImageError], seconds: float) -> T | ImageError:
    from pebble import ProcessExpired

    try:
        return future.result(timeout=seconds + _GRACE)
    except ProcessExpired as error:
        return ImageError("decode", f"the decoder crashed ({_name(error.exitcode)})")
    except NoAnswer as error:
        if not future.done():  # the pool itself is stuck
            raise BrokenProcessPool("no answer") from error
        return ImageError("decode", f"not decoded within {seconds:g} s")


def _name(exitcode: int | None) -> str:
    try:
        return signal.Signals(-(exitcode or 0)).name
    except ValueError:
        return f"exit code {exitcode}"


@contextmanager
def _pool(workers: int, module: str) -> Iterator[ProcessPool]:
    from pebble import ProcessPool

    # not a fork of this process, which has threads and perhaps a GPU
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, module])
    pool = ProcessPool(workers, initializer=_become_reader, context=context)
    try:
        yield pool
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _become_reader() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform == "linux":  # elsewhere the limit is not kept
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, most))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
