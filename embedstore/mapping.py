"""Many files of one size as one memory-mapped array.

Chunks are files, and an array is all of them one after the other. Mapped side by side into one
stretch of addresses, they read like one flat file, with nothing copied and no loop over chunks.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FAILED = ctypes.c_void_p(-1).value
_FIXED = 0x10  # MAP_FIXED, on Linux and on macOS; the mmap module has no name for it
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_longlong,
)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def can_map(size: int) -> bool:
    """Say whether files can be mapped side by side by their first `size` bytes: whole pages."""
    return size > 0 and size % mmap.ALLOCATIONGRANULARITY == 0


def map_files(files: Sequence[Path], size: int) -> NDArray[np.uint8]:
    """Map the first `size` bytes of each file, one after the other, read-only.

    The mapping lasts as long as any view of the array. A file replaced later stays as it was.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        A file is shorter; the text is its name.
    OSError
        The system allows no more mappings.
    """
    total = len(files) * size
    start = _map(None, total, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    buffer = (ctypes.c_uint8 * total).from_address(start)
    weakref.finalize(buffer, _LIBC.munmap, start, total)
    for n, file in enumerate(files):
        handle = os.open(file, os.O_RDONLY)
        try:
            if os.fstat(handle).st_size < size:  # or touching it would end the process
                raise ValueError(str(file))
            _map(start + n * size, size, mmap.PROT_READ, mmap.MAP_SHARED | _FIXED, handle)
        finally:
            os.close(handle)
    whole: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)
    whole.flags.writeable = False
    return whole


def _map(address: int | None, size: int, protection: int, flags: int, handle: int) -> int:
    found = _LIBC.mmap(address, size, protection, flags, handle, 0)
    if found == _FAILED or found is None:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(found)
