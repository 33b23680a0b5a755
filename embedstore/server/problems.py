"""What goes wrong, as an answer: ``{"error": one line}`` and a status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from embedstore.errors import (
    BackboneError,
    DataError,
    EmbedstoreError,
    ImageError,
    StoreError,
    UsageError,
)

LONGEST = 500
"""Characters of a reason."""

_STATUS: tuple[tuple[type[EmbedstoreError], int], ...] = (
    (UsageError, 400),
    (DataError, 400),
    (ImageError, 400),
    (BackboneError, 503),
    (StoreError, 503),
)


class Missing(EmbedstoreError):
    """There is no such thing: 404."""


class Busy(EmbedstoreError):
    """Too much is asked at once: 503."""


def problem(status: int, why: str, close: bool = False) -> Response:
    """Make the answer that says what is wrong."""
    line = " ".join(why.split())
    if len(line) > LONGEST:  # what was given stands in the middle
        line = f"{line[: LONGEST // 2]}…{line[-LONGEST // 2 :]}"
    body = json.dumps({"error": line.encode("utf-8", "replace").decode()}, ensure_ascii=False)
    response = Response(body.encode(), status, media_type="application/json")
    if close:
        response.headers["connection"] = "close"
    if status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if status == 503:
        response.headers["retry-after"] = "2"
    return response


def status_of(error: EmbedstoreError) -> int:
    """Return the status that says whose fault it is."""
    if isinstance(error, Missing):
        return 404
    if isinstance(error, Busy):
        return 503
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 503)


def add_handlers(app: FastAPI, where: Path) -> None:
    """Have every error of an application answered as one line, without the folder it is in."""

    @app.exception_handler(EmbedstoreError)
    async def ours(request: Request, error: EmbedstoreError) -> Response:
        return problem(status_of(error), str(error).replace(f"{where}{os.sep}", ""))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return problem(422, "; ".join(map(_said, error.errors()[:3])))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        found = problem(error.status_code, str(error.detail))
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return problem(400, "the request was not sent to its end")

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError) -> Response:
        return problem(408, "the request took too long to arrive", close=True)

    @app.exception_handler(Exception)
    async def other(request: Request, error: Exception) -> Response:
        print(f"error: {request.url.path}: {type(error).__name__}", file=sys.stderr)
        return problem(500, f"an error of the server's own: {type(error).__name__}")


def _said(error: Mapping[str, Any]) -> str:
    """Say where and what, but nothing of what was given."""
    names = [str(p)[:40] for p in error["loc"] if p not in {"body", "query"}]
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']} (at character {names[0]})"
    return f"{'.'.join(names)}: {error['msg']}" if names else str(error["msg"])
