"""Memory that a model's activations can use again, batch after batch.

glibc gives large blocks back to the system at once and takes them anew for the next batch, and the
kernel fills every page with zeros again: a third of a small model's time on a CPU.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

# of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


@cache
def keep_memory() -> None:
    """Let this process keep what it frees, in one place for all threads; glibc only."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_ARENA_MAX, 1)
