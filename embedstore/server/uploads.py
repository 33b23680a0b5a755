"""Files sent to be looked at: streamed to the disk, read in a process of their own, removed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.requests import Request

from embedstore.errors import ImageError, UsageError
from embedstore.readers import read_each
from embedstore.server.problems import Busy
from embedstore.server.reading import Read, read
from embedstore.types import Recipe

AT_ONCE, WAITING = 2, 16
"""Uploads that are received and read at once, and that wait for it."""

ARRIVAL = 120.0
"""Seconds in which an upload must be there."""

DECODING = 30.0
"""Seconds that reading one may take."""


class Uploads:
    """A folder that is there as long as the server, for files that are there for a moment."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._folder = TemporaryDirectory(prefix="embedstore-serve-")
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def read(self, request: Request, recipe: Recipe) -> Read:
        """Receive the body of a request and read it as an image.

        Raises
        ------
        ImageError
            It cannot be used, took too long or wanted too much memory.
        UsageError
            It is empty.
        Busy
            Too many wait.
        TimeoutError
            It did not arrive in time.
        """
        if self._waiting >= WAITING:
            raise Busy(f"{WAITING} uploads already wait; try again in a moment")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            async with self._received(request) as file:
                found = await asyncio.to_thread(_read, file, recipe)
        finally:
            self._slots.release()
        if isinstance(found, ImageError):
            raise found
        return found

    @asynccontextmanager
    async def _received(self, request: Request) -> AsyncIterator[Path]:
        file = Path(self._folder.name) / secrets.token_hex(16)
        try:
            size = 0
            async with asyncio.timeout(ARRIVAL):
                with file.open("xb") as handle:
                    async for part in request.stream():
                        size += len(part)
                        if size > self._largest:
                            raise UsageError(f"the file is larger than {self._largest} bytes")
                        handle.write(part)
            if not size:
                raise UsageError("the request holds no file: send its bytes as the body")
            yield file
        finally:
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder, and whatever is left in it."""
        self._folder.cleanup()


def _read(file: Path, recipe: Recipe) -> Read | ImageError:
    (found,) = read_each(read, [(file, recipe)], 1, DECODING)
    return found
