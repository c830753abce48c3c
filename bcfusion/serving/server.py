"""The server as a whole: its socket, its temporary folder, its threads, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from bcfusion.errors import BcfusionError
from bcfusion.serving import connections
from bcfusion.serving.app import Parts, build_app
from bcfusion.serving.assets import read_assets
from bcfusion.serving.connections import Connection, Socket, check_uvicorn, drop_stuck
from bcfusion.serving.folders import end_at_once, private_folder, remove_left
from bcfusion.serving.guard import Hosts
from bcfusion.serving.jobs import Jobs
from bcfusion.serving.limits import Limits, is_local
from bcfusion.serving.live import Streams
from bcfusion.serving.models import ServedModel
from bcfusion.serving.names import ANY
from bcfusion.serving.receiving import Receiving
from bcfusion.system import ENDING

__all__ = ["Settings", "is_open_to_others", "serve"]

LAST_SECONDS = 1.5  # for downloads that are under way when the server ends
STUCK_TICKS = 50  # of a tenth of a second
OVERHEAD = 1024  # bytes of a message beyond a frame: too long a frame is answered by what is wrong with it


@dataclass(frozen=True)
class Settings:
    """Where a server listens and what it takes.

    Attributes:
        host: address that it is bound to.
        port: 0 for a free one.
        origins: further ones under which browsers reach it.
        certificate: PEM file, for https; None for http.
        key: PEM file of its key.
        limits: bounds on size, length, number and rate.
        workers: recordings that are restored at a time.
        threads: that compute live streams, and each recording.
        share: of the sensor in the output, where a client says nothing.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    origins: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    limits: Limits = field(default_factory=Limits)
    workers: int = 1
    threads: int = 1
    share: float = 0.0


class Server(uvicorn.Server):
    """uvicorn's server, which tells streams and jobs before it ends.

    Args:
        config: of uvicorn.
        parts: streams, jobs and uploads, which end with it.
        ready: is called once it listens.

    Attributes:
        signal: that ended it; None if none has.
    """

    def __init__(self, config: uvicorn.Config, parts: Parts, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._parts, self._ready = parts, ready
        self._closing: set[Any] = set()
        self.signal: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        with _impatient_handshakes(asyncio.get_running_loop()):
            await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._parts.jobs.close()
        self._parts.receiving.cancel()
        await self._parts.streams.close()
        impatient = asyncio.create_task(self._drop_all())
        await super().shutdown(sockets)
        impatient.cancel()

    async def _drop_all(self) -> None:
        await asyncio.sleep(LAST_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def on_tick(self, counter: int) -> bool:
        if counter % STUCK_TICKS == 0:
            self._closing = drop_stuck(list(self.server_state.connections), self._closing)
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let the first signal end the server, and the second one the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in ENDING}
        before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        for number in before:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            end_at_once(128 + sig)
        self.signal = sig
        self.should_exit = True


def serve(
    models: Mapping[str, ServedModel],
    settings: Settings,
    ready: Callable[[str, uvicorn.Server], None] = lambda address, server: None,
) -> int | None:
    """Serve until a signal arrives, or until ``should_exit`` of the server is set.

    Args:
        models: that clients can choose, by name.
        settings: of the server.
        ready: is told the address, and the server, once it listens.

    Returns:
        The number of the signal; None if there was none.

    Raises:
        BcfusionError: the address cannot be bound, the certificate cannot be used, or uvicorn is another release.
    """
    check_uvicorn()
    limits = settings.limits
    with ExitStack() as stack:
        stack.enter_context(_quiet("asyncio", "uvicorn.error"))
        listening = stack.enter_context(contextlib.closing(bound(settings.host, settings.port)))
        remove_left()
        folder = stack.enter_context(private_folder())
        jobs = stack.enter_context(Jobs(folder, limits, settings.workers, settings.threads))
        streams = Streams(limits, settings.threads)
        parts = Parts(models, read_assets(), limits, jobs, streams, Receiving(limits), settings.share)
        networks = [model.network for model in models.values() if model.network is not None]
        frame = max((4 * network.frame * len(network.sensors) for network in networks), default=0)
        config = uvicorn.Config(
            build_app(parts, Hosts(settings.host, settings.origins)),
            http=type("Connection", (Connection,), {"limits": limits}),
            ws=Socket,
            ws_max_size=frame + OVERHEAD,
            ws_per_message_deflate=False,
            loop="asyncio",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=16_384,
            timeout_graceful_shutdown=10,
            ssl_certfile=None if settings.certificate is None else str(settings.certificate),
            ssl_keyfile=None if settings.key is None else str(settings.key),
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise BcfusionError(f"--certificate {settings.certificate}: {error.strerror or error}") from error
        address = address_of(listening, settings)
        server = Server(config, parts, lambda: ready(address, server))
        asyncio.run(server.serve([listening]))
        return server.signal


@contextmanager
def _impatient_handshakes(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Give the handshake of a connection with a certificate as long as the headers of a request.

    Until it is over a connection is counted nowhere. asyncio gives it a minute, and uvicorn passes nothing on.
    """
    usual = loop.create_server

    def create_server(*arguments: Any, **options: Any) -> Any:
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", connections.HEADER_SECONDS)
        return usual(*arguments, **options)

    loop.create_server = create_server  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.create_server = usual  # type: ignore[method-assign]


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Let loggers report errors alone: a client that sends nonsense, or is gone early, is not our problem."""
    before = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        BcfusionError: the address is taken, not allowed, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BcfusionError(f"--host {host}: {error.strerror}; give an address of this machine") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise BcfusionError(f"--host {host} --port {port}: {error.strerror}; --port 0 uses a free one") from error
    return listening


def address_of(listening: socket.socket, settings: Settings) -> str:
    """Return the address of a server, as one types it into a browser on this machine."""
    port = listening.getsockname()[1]
    host = dict(zip(ANY, ("127.0.0.1", "[::1]", "127.0.0.1"), strict=True)).get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{'https' if settings.certificate else 'http'}://{host}:{port}/"


def is_open_to_others(host: str) -> bool:
    """Return whether a server that is bound to this address can be reached from other machines."""
    return host != "localhost" and not is_local(host)
