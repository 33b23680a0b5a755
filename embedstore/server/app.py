"""The application: the API, the page's few files, and the guard before both."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from starlette.responses import Response

from embedstore.errors import UsageError
from embedstore.server.api import router
from embedstore.server.guard import Guard
from embedstore.server.problems import add_handlers, problem
from embedstore.server.service import Service
from embedstore.server.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_AT_ONCE = 512  # requests, above which uvicorn answers 503 itself


def create(settings: Settings) -> ASGIApp:
    """Make the application; it holds the store open until it is shut down.

    Raises
    ------
    StoreError
        There is no store.
    UsageError
        A probe cannot be used with it.
    """
    service = Service(settings)

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="embedstore serve",
        version=version("embedstore"),
        description="One store of embeddings: search, map, probes, prompts. Needs the token.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=alive,
    )
    app.state.service = service
    add_handlers(app, settings.store.parent)
    app.include_router(router)
    _add_page(app)
    return Guard(app, settings)


def _add_page(app: FastAPI) -> None:
    """Serve the page's files out of memory: no name that is asked for becomes a path."""
    found = {
        f.name: f.read_bytes() for f in files("embedstore.server").joinpath("static").iterdir()
    }
    found["cases.css"] = files("embedstore.report").joinpath("cases.css").read_bytes()

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return Response(found["index.html"], media_type="text/html; charset=utf-8")

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in found:
            return problem(404, "there is no such file")
        kind = _TYPES[os.path.splitext(name)[1]]
        return Response(found[name], media_type=f"{kind}; charset=utf-8")

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)


def run(settings: Settings, ready: Callable[[Settings], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Parameters
    ----------
    ready
        Called once the port is there, with the settings that name it.

    Raises
    ------
    UsageError
        The host or port cannot be had.
    """
    with listen(settings) as listening:
        settings = replace(settings, port=listening.getsockname()[1])
        server = prepared(settings)
        ready(settings)
        server.run(sockets=[listening])


def prepared(settings: Settings) -> uvicorn.Server:
    """Return a server that has only to be run on a socket of the settings' port."""
    return uvicorn.Server(
        uvicorn.Config(
            create(settings),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            limit_concurrency=_AT_ONCE,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=5,
        )
    )


def listen(settings: Settings) -> socket.socket:
    """Listen on the settings' host and port; `UsageError` where they cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=128)
    except OSError as error:
        # names that are not known have numbers below 0 and no text in the system
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise UsageError(
            f"{settings.host} port {settings.port} cannot be listened on: {why}; give another "
            f"--port, or 0 for any that is free"
        ) from error
