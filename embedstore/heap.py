"""Memory that a model's activations can use again, batch after batch.

glibc gives large blocks back to the system at once and takes them anew for the next batch, and the
kernel fills every page with zeros again: a third of a small model's time on a CPU.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from functools import cache

# of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

_RESERVE = 1 << 26  # addresses without memory behind them until they are given up
_reserve: list[mmap.mmap] = []


@cache
def keep_memory() -> None:
    """Let this process keep what it frees, in one place for all threads; glibc only."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_ARENA_MAX, 1)
    _reserve.append(mmap.mmap(-1, _RESERVE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def stop_keeping() -> None:
    """Give the system what is free, now and from now on, where memory is short.

    Threads and compiled code take theirs from the system, which a full heap of free but scattered
    blocks leaves none for: hence the reserve.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 1 << 20)
    libc.mallopt(_TRIM_THRESHOLD, 1 << 20)
    libc.malloc_trim(0)
    while _reserve:
        _reserve.pop().close()
