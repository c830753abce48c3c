"""Which requests reach the server: by their Host, their Origin and their number; and the headers of all answers.

A page of another site can make a browser send requests to this machine. Those that change something are refused by
their Origin; and since a name of another site may be made to resolve to this machine (DNS rebinding), requests are
refused whose Host is no name of this server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bcfusion.serving.limits import Limits, Rates, address_of, is_local
from bcfusion.serving.names import ANY, own_names

__all__ = ["Guard", "Hosts", "abort", "failed"]

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)
MOST_HEADERS = 100  #: of a request
HEADER_BYTES = 32_768  #: of all of them; uvicorn bounds those alone that have not arrived completely
_LOCAL = ("localhost", "127.0.0.1", "::1")


def failed(status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the answer to a request that is not fulfilled: a sentence that says what to do."""
    return JSONResponse({"error": error}, status, headers)


class Hosts:
    """The names of a server.

    Args:
        bound: the address that it is bound to.
        origins: further ones under which browsers reach it, such as ``https://voice.example.org``.

    Attributes:
        behind_proxy: whether requests may come through a reverse proxy on this machine.
    """

    def __init__(self, bound: str, origins: Iterable[str] = ()) -> None:
        self._origins = {origin.rstrip("/").lower() for origin in origins}
        self.behind_proxy = bool(self._origins)
        names = {urlsplit(origin).hostname or "" for origin in self._origins}
        self._names = {bound.strip("[]").lower(), *_LOCAL, *names}
        self._any_address = bound.strip("[]") in ANY
        if self._any_address:
            self._names |= set(own_names())

    def knows(self, host: str) -> bool:
        """Return whether a header ``Host`` names this server. No other site can have an address for its name."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        return name in self._names or (self._any_address and _is_address(name))

    def trusts(self, origin: str, host: str) -> bool:
        """Return whether a header ``Origin`` is that of a page of this server, whose ``Host`` is known."""
        scheme, _, place = origin.lower().partition("://")
        return (scheme in ("http", "https") and place == host.lower()) or origin.lower() in self._origins


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Stands before an application.

    Args:
        app: sees only what is allowed.
        hosts: the names of the server.
        limits: of the number of requests, and of the patience with clients that take no data.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts, limits: Limits) -> None:
        self._app, self._hosts, self._limits = app, hosts, limits
        self._rates = Rates(limits.requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope.setdefault("state", {})["refusal"] = self._refusal(scope)
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and sentence with which a request is refused; None if it is not."""
        sent = scope["headers"]
        if len(sent) > MOST_HEADERS or sum(len(name) + len(value) for name, value in sent) > HEADER_BYTES:
            return 431, "the headers of this request are too long: delete the cookies of this address"
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._hosts.knows(hosts[0]):
            return 403, "this server has another name: open the address that it has printed, or give it as --origin"
        page = scope["path"] == "/" or scope["path"].startswith("/assets/")  # a page is many files, from memory
        client = scope.setdefault("state", {})["client"] = self._client(scope, headers)
        if not page and not self._rates.allow(client):
            return 429, "too many requests: wait a second, and try again"
        unsafe = scope["type"] == "websocket" or scope["method"] in UNSAFE
        if unsafe and not all(self._hosts.trusts(origin, hosts[0]) for origin in headers.getlist("origin")):
            return 403, "pages of other sites may not use this server: open its own page, or start it with --origin"
        return None

    def _client(self, scope: Scope, headers: Headers) -> str:
        """Return the address of a client; behind a proxy the one that the proxy has seen, which it puts last."""
        peer = address_of((scope.get("client") or [""])[0]) or ""
        if self._hosts.behind_proxy and is_local(peer):
            seen = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2]
            return address_of(seen) or peer
        return peer

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "")
        policy = _policy(host if self._hosts.knows(host) else "")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in policy.items():
                    headers.setdefault(name, value)
            try:
                async with asyncio.timeout(self._limits.slow_seconds):
                    await send(message)
            except TimeoutError:
                abort(scope)  # the client takes no data: what waits for it is given up, too

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, guarded)
        else:
            extra = {"Retry-After": "1"} if refusal[0] == 429 else None
            await failed(*refusal, extra)(scope, receive, guarded)


def abort(scope: Mapping[str, Any]) -> None:
    """Drop the connection of a request at once; see :class:`bcfusion.serving.connections.Connection`."""
    end = scope.get("state", {}).get("abort")
    if end is not None:
        end()


def _policy(host: str) -> dict[str, str]:
    sockets = f" ws://{host} wss://{host}" if host else ""  # browsers differ in whether 'self' holds for these
    content = (
        f"default-src 'self'; connect-src 'self'{sockets}; media-src 'self' blob:; img-src 'self' blob:; "
        "worker-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": content,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(self), speaker-selection=(self)",
        "Cache-Control": "no-store",
    }
