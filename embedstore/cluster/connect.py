"""Joining a Ray cluster, or starting a Ray on this machine alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from embedstore.errors import UsageError

LOCAL = "local"
"""The address of a Ray that is started on this machine and ends with the run."""

# read when Ray is imported or used: no statistics to its makers, and no lines of its own among
# ours, on standard output, of workers that die
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
_PATIENCE = 5.0  # seconds to answer; Ray itself tries for minutes


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a driver of a Ray cluster for the length of the block; one joined before stays so.

    Parameters
    ----------
    address
        `LOCAL`, or what ``ray.init`` takes: ``auto`` for the cluster this machine is a node of,
        ``HOST:PORT``, ``ray://HOST:PORT``.

    Raises
    ------
    UsageError
        There is no Ray here, or none at that address.
    """
    if not find_spec("ray"):
        raise UsageError("--ray needs the package ray: pip install 'embedstore[ray]'")
    os.environ |= _QUIET
    import ray

    if ray.is_initialized():
        yield
        return
    _refuse_silent(address)
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UsageError(f"--ray {address}: {error}") from error
    finally:
        signal.signal(signal.SIGTERM, terminate)  # Ray's own would not commit
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Say at once that nothing answers at a ``HOST:PORT``."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        if address not in {LOCAL, "auto"}:
            raise UsageError(
                f"--ray {address}: an address is HOST:PORT, ray://HOST:PORT or auto; without one a "
                f"Ray is started on this machine"
            )
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"--ray {address}: nothing answers there ({error})") from error
