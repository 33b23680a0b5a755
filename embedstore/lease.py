"""The lock of a store in object storage: an object beside it, renewed by the process that holds it.

It is taken, renewed, given back and taken over by conditional puts alone, and never removed, so
that no two processes can hold it by the same version of it. Who holds it is believed for
``EMBEDSTORE_LEASE`` seconds after the last sign of life. A process that died on this machine is
known to be gone at once; of any other it is not the clock that decides, but that the object does
not change while one waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.bucket import Changed
from embedstore.errors import StoreBusy, StoreError
from embedstore.places import ObjectPlace, held, version_of

if TYPE_CHECKING:
    from obstore import UpdateVersion

SECONDS = 60.0
"""How long a silent holder is believed."""

_TRIES = 5


@contextmanager
def lease(lock: ObjectPlace) -> Iterator[None]:
    """Hold the lock of a store, and write below the store as its holder, for the block.

    Raises
    ------
    StoreBusy
        Another living process holds it; the message names its pid and host.
    """
    store = _store_of(lock)
    ours = _Lease(lock, _seconds())
    if ours.take():
        _fence(store)
    try:
        with ours.renewed(), held(store, ours.confirm, ours.renew):
            yield
    finally:
        ours.give_back()


def holder_of(lock: ObjectPlace) -> str | None:
    """Name the process that seems to hold a lock; None where it is free or has been left."""
    try:
        found, meta = lock.read_version()
    except FileNotFoundError:
        return None
    who = _read(found)
    age = time.time() - meta["last_modified"].timestamp()
    return None if who.get("free") or _is_dead(who) or age > _seconds() else _name(who)


def was_left(lock: ObjectPlace) -> bool:
    """Say whether a lock was taken and not given back."""
    try:
        return not _read(lock.read_bytes()).get("free")
    except FileNotFoundError:
        return False


@dataclass(slots=True)
class _Lease:
    lock: ObjectPlace
    seconds: float
    lost: bool = False
    _version: UpdateVersion | None = None
    _renewed: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)
    _one_at_a_time: Any = field(default_factory=threading.Lock)

    @property
    def store(self) -> ObjectPlace:
        """What the lock is of."""
        return _store_of(self.lock)

    def take(self) -> bool:
        """Take the lock; say whether another process had it and left it."""
        for _ in range(_TRIES):
            try:
                found, meta = self.lock.read_version()
            except FileNotFoundError:
                if self._put("create"):
                    return False
                continue
            who = _read(found)
            free = bool(who.get("free"))
            if not (free or _is_dead(who)):
                age = time.time() - meta["last_modified"].timestamp()
                if age < self.seconds or not self._is_silent(meta["e_tag"]):
                    raise StoreBusy(self._busy(who))
            if self._put(version_of(meta)):
                return not free
        raise StoreBusy(f"{self.store}: several processes want to write; try again")

    def _is_silent(self, version: str | None) -> bool:
        """Wait for longer than a living holder would without a sign; ours may be the wrong time."""
        time.sleep(self.seconds / 2)
        try:
            return self.lock.head()["e_tag"] == version
        except FileNotFoundError:
            return False

    def _busy(self, who: Mapping[str, Any]) -> str:
        return (
            f"{self.store}: being written by {_name(who)}; wait for it (should it be dead: for "
            f"{self.seconds:g} s)"
        )

    def _put(self, mode: Any, free: bool = False) -> bool:
        """Write the lock anew under a condition; say whether it held."""
        began = _clock()
        text = json.dumps(
            {"free": True, "was": secrets.token_hex(8)}
            if free
            else {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "machine": _machine(),
                "sign": secrets.token_hex(8),
            }
        ).encode()
        try:
            self._version = self.lock.put(text, mode)
        except Changed:
            # the answer to a first try may have been lost: then it is ours
            try:
                found, meta = self.lock.read_version()
            except FileNotFoundError:
                return False
            if found != text:
                return False
            self._version = version_of(meta)
        self._renewed = began
        return True

    def renew(self) -> None:
        """Show a sign of life; `StoreBusy` where the lock was taken over."""
        with self._one_at_a_time:
            if self.lost or self._version is None or not self._put(self._version):
                self.lost = True
                raise StoreBusy(
                    f"{self.store}: taken over by another process, for this one gave no sign for "
                    f"{self.seconds:g} s; what was committed is kept: run the same command again"
                )

    def confirm(self) -> None:
        """Make sure that the lock is ours, and will be for a while."""
        if self.lost or _clock() - self._renewed > self.seconds / 3:
            self.renew()

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Keep showing signs of life, from a thread."""
        thread = threading.Thread(target=self._keep, daemon=True, name="lease")
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _keep(self) -> None:
        while not self._ended.wait(self.seconds / 4):
            try:
                self.renew()
            except StoreBusy:
                return
            except StoreError:
                continue  # no connection now; the next one to write will see

    def give_back(self) -> None:
        """Leave the lock free, if it is ours."""
        if not self.lost and self._version is not None:
            with contextlib.suppress(StoreError):
                self._put(self._version, free=True)


def _fence(store: ObjectPlace) -> None:
    """Commit what is committed once more, so that who had the lock before can commit no more."""
    root = store / "zarr.json"
    for _ in range(_TRIES):
        try:
            found, meta = root.read_version()
            state = json.loads(found)
            state["attributes"]["embedstore"]["commit"] += 1
        except FileNotFoundError:
            return  # who had it can still make the first commit, and ours will then be refused
        except (ValueError, KeyError, TypeError):
            return  # to be told by who reads it
        try:
            root.put(json.dumps(state, indent=1).encode(), version_of(meta))
        except Changed:
            continue
        return
    raise StoreBusy(f"{store}: another process keeps writing to it; wait for it")


def _store_of(lock: ObjectPlace) -> ObjectPlace:
    return lock.with_name(lock.name.removesuffix(".lock"))


def _read(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(who: Mapping[str, Any]) -> str:
    return f"process {who['pid']} on {who['host']}" if {"pid", "host"} <= who.keys() else "another"


def _is_dead(who: Mapping[str, Any]) -> bool:
    """Say whether the holder was a process of this machine, which is there no more."""
    if who.get("machine") != _machine() or not isinstance(who.get("pid"), int):
        return False
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _machine() -> str:
    """Name this machine, as far as numbers of processes mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _seconds() -> float:
    try:
        return max(0.2, float(os.environ.get("EMBEDSTORE_LEASE", SECONDS)))
    except ValueError as error:
        raise StoreError("EMBEDSTORE_LEASE: give a number of seconds") from error
