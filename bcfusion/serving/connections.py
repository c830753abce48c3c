"""The connections of the server: uvicorn's, without what lets a client keep one or fill memory for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

from bcfusion.errors import BcfusionError
from bcfusion.serving.limits import Bucket, Limits, address_of

__all__ = ["Connection", "Socket", "check_uvicorn", "drop_stuck"]

HEADER_SECONDS = 10.0  #: in which the headers of a request have to arrive
CLOSE_SECONDS = 3.0  #: in which a client answers the end of a WebSocket, and takes what it was sent before
MOST_FRAGMENTS = 16  #: of one message
CONTROL = (10.0, 100.0)  #: pings and pongs of a client, per second and in a burst


class Connection(H11Protocol):
    """A connection that is closed if no request arrives in time, byte by byte or not at all.

    Attributes:
        limits: of the number of connections, of all clients and of one.
    """

    limits = Limits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "abort": self._abort}, _loop)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        theirs = sum(_client(each) == _client(self) for each in self.connections)
        if len(self.connections) > self.limits.connections or theirs > self.limits.connections_of(_client(self)):
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ease()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Give the client a time for its next request, unless one is being answered."""
        if not self._waits():
            self._ease()
        elif self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self._expire)

    def _waits(self) -> bool:
        upgraded = self.transport.get_protocol() is not self
        return not upgraded and (self.cycle is None or self.cycle.response_complete)

    def _ease(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _expire(self) -> None:
        self._late = None
        if self._waits():
            self._abort()

    def _abort(self) -> None:
        self.transport.abort()


def check_uvicorn() -> None:
    """Refuse a release of uvicorn without what is overridden or used here, which is no interface that it promises.

    Raises:
        BcfusionError: it is such a release.
    """
    for base, names in _USED.items():
        known = {*dir(base), *vars(base)["__init__"].__code__.co_names}  # methods, and what the constructor sets
        if missing := sorted(set(names) - known):
            release = f"uvicorn {uvicorn.__version__} ({base.__name__} has no {missing[0]})"
            raise BcfusionError(f"bcfusion serve does not work with {release}: pip install --upgrade 'bcfusion[serve]'")


#: members of uvicorn that are overridden or used
_USED: dict[type, tuple[str, ...]] = {
    H11Protocol: (
        *("connection_made", "data_received", "connection_lost"),
        *("transport", "loop", "connections", "client", "cycle"),
    ),
    WebSocketsSansIOProtocol: (
        *("handle_cont", "handle_ping", "handle_pong"),
        *("transport", "client", "frames", "writable", "close_timeout"),
    ),
    uvicorn.Server: (
        *("startup", "shutdown", "on_tick", "capture_signals", "handle_exit"),
        *("server_state", "should_exit"),
    ),
}


def _client(connection: Any) -> str:
    """Return the address of the other end, as clients are counted."""
    return (connection.client and address_of(connection.client[0])) or ""


class Socket(WebSocketsSansIOProtocol):
    """A WebSocket whose client cannot fill memory by fragments without content, or by pings whose answers it leaves.

    What is no message is not held back by a stream that has enough, and so it has a rate of its own.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.close_timeout = CLOSE_SECONDS
        self._control = Bucket(*CONTROL)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MOST_FRAGMENTS:
            self.transport.abort()
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        if self.writable.is_set() and self._control.take():
            super().handle_ping()
        else:
            self.transport.abort()

    def handle_pong(self, event: Frame) -> None:
        if self._control.take():
            super().handle_pong(event)
        else:
            self.transport.abort()


def drop_stuck(connections: Iterable[Any], closing: Collection[Any]) -> set[Any]:
    """Drop the connections that were closed before, but whose clients do not take what was still to be sent.

    Args:
        connections: of the server.
        closing: what the last call returned, a few seconds ago.

    Returns:
        Those that are closed and not gone yet.
    """
    now = {each for each in connections if each.transport is not None and each.transport.is_closing()}
    for each in now.intersection(closing):
        each.transport.abort()
    return now
