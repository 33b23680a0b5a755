"""Who may ask: the host name, the origin, the token and the size of every request.

- A page elsewhere that has its own name resolve to this machine (DNS rebinding) asks for a host
  that is not ours.
- A page elsewhere that makes the browser ask us says so in ``Sec-Fetch-Site`` or ``Origin``; one on
  another port of this machine too, which ``SameSite`` alone would let through.
- Whoever has not got the token gets nothing but the page itself, which knows nothing.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any

from embedstore.server.problems import problem
from embedstore.server.settings import LOOPBACK, MIB, Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOADS = "/api/upload/"
"""Where the paths begin that take files."""

LARGEST_QUESTION = MIB

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_BODIES = {"POST", "PUT", "PATCH", "DELETE"}


class Guard:
    """ASGI middleware that refuses, and puts the headers of a strict page on every answer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a websocket is closed unopened

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers(scope)]
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, sent)
            return
        status, why = refused
        await problem(status, why, close=status in {411, 413})(scope, receive, sent)

    def _headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        of_api = str(scope["path"]).startswith("/api/")
        cache = (
            () if of_api and scope["path"] == "/api/picture" else (("cache-control", "no-store"),)
        )
        pairs = (*_HEADERS.items(), *cache)
        return [(name.encode(), value.encode()) for name, value in pairs]

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason; None where the request may pass."""
        headers = _headers_of(scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 403, f"this server does not answer to the host name {host[:80]!r}"
        if not str(scope["path"]).startswith("/api/"):
            return None
        if not _is_same_origin(headers, host):
            return 403, "the request comes from another page"
        if not self._has_token(headers):
            return 401, "no token, or a wrong one; open the address that embedstore serve printed"
        return self._too_large(scope, headers)

    def _is_ours(self, host: str) -> bool:
        name, port = _name_and_port(host)
        if port and port != str(self._settings.port) and not self._settings.exposed:
            return False
        if name in LOOPBACK or name in self._settings.names:
            return True
        return self._settings.exposed and _is_address(name)

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = self._settings.token.encode()
        shown = [given.strip()] if scheme.lower() == "bearer" else []
        shown += _cookie(headers.get("cookie", ""), self._settings.cookie)
        return any([hmac.compare_digest(known, s.encode("utf-8", "replace")) for s in shown])

    def _too_large(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if scope["method"] not in _BODIES:
            return None
        if "transfer-encoding" in headers:
            return 411, "say how long the request is: Content-Length"
        length = headers.get("content-length", "0")
        most = LARGEST_QUESTION
        if str(scope["path"]).startswith(UPLOADS):
            most = self._settings.max_upload
        if not (length.isascii() and length.isdigit()) or len(length) > 15 or int(length) > most:
            return 413, f"the request is larger than {most / MIB:g} MiB"
        return None


def _headers_of(scope: Scope) -> dict[str, str]:
    """Map names to values; several of one name become one that fits nothing."""
    found: dict[str, str] = {}
    for raw_name, raw in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw.decode("latin-1")
        join = "; " if name == "cookie" else ", "
        found[name] = f"{found[name]}{join}{value}" if name in found else value
    return found


def _name_and_port(host: str) -> tuple[str, str]:
    """Take ``name:port``, ``[::1]:port`` or a name apart."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name.lower(), rest.removeprefix(":")
    name, _, port = host.partition(":")
    return name.lower(), port


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same_origin(headers: Mapping[str, str], host: str) -> bool:
    if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        return False
    if "origin" not in headers:
        return True
    _, slashes, origin = headers["origin"].partition("://")
    return bool(slashes) and origin.lower() == host.lower()


def _cookie(header: str, name: str) -> list[str]:
    try:
        found: SimpleCookie = SimpleCookie(header)
    except CookieError:
        return []
    morsel: Any = found.get(name)
    return [morsel.value] if morsel else []
