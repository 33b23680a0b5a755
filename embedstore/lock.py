"""One writer a store: an advisory lock that the system drops when its holder dies.

In object storage, which has no such locks, it is a lease (`embedstore.lease`).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedstore.errors import StoreBusy
from embedstore.lease import holder_of, lease, was_left
from embedstore.places import ObjectPlace

_held: set[int] = set()


def _let_go() -> None:
    """Close the locks a forked child inherits: it would hold them on after its parent's death."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def lock_of(store: Path) -> Path:
    """Return where the lock of a store is: beside it, whatever link it was reached by."""
    real = store.resolve()
    return real.with_name(f"{real.name}.lock")


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the length of the block.

    Raises
    ------
    StoreBusy
        Another living process holds it; the message names its pid and host.
    """
    if isinstance(path, ObjectPlace):
        with lease(path):
            yield
        return
    handle = _acquire(path)
    _held.add(handle)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(
            handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0
        )
        yield
    finally:
        path.unlink(missing_ok=True)
        _held.discard(handle)
        os.close(handle)


def writer_of(lock: Path) -> str | None:
    """Name the living process that holds a lock, as far as its text can tell.

    The lock itself is not tried: for that moment a writer that starts would be refused.
    """
    if isinstance(lock, ObjectPlace):
        return holder_of(lock)
    try:
        holder = json.loads(lock.read_bytes())
        pid, host = int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host == socket.gethostname() and not _alive(pid):
        return None
    return f"process {pid} on {host}"


def is_left(lock: Path) -> bool:
    """Say whether a lock is there that nobody gave back, its holder being alive or not."""
    return was_left(lock) if isinstance(lock, ObjectPlace) else lock.exists()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # pragma: no mutate: any other number is a signal to a stranger
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _acquire(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 1000, 0).decode(errors="replace")
            os.close(handle)
            raise StoreBusy(f"{_of(path)}: being written by {_name(holder)}; wait for it") from None
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
        os.close(handle)  # the last holder unlinked it between our open and our lock


def _of(lock: Path) -> Path:
    """Return what a lock is of: the store or file beside it, or the folder it lies in."""
    name = lock.name.removesuffix(".lock").removeprefix(".writing-")
    return lock.with_name(name) if name else lock.parent


def _name(holder: str) -> str:
    try:
        who = json.loads(holder)
        return f"process {who['pid']} on {who['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
