"""Connections that bring nothing, or take nothing."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from serving_server import PATIENCE, Client, bundle, form, noise, running, wav
from uvicorn.config import Config
from uvicorn.server import ServerState

from bcfusion.errors import BcfusionError
from bcfusion.serving import connections, server
from bcfusion.serving.connections import drop_stuck
from bcfusion.serving.limits import Limits
from bcfusion.serving.models import ServedModel, load_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return load_models([str(bundle(tmp_path_factory.mktemp("models") / "one", ["body"]))], "torch")


@pytest.fixture(scope="module")
def client(models: dict[str, ServedModel]) -> Iterator[Client]:
    with running(models, limits=Limits(requests=10_000)) as client:
        yield client


@pytest.fixture
def hasty(models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A server that does not wait for long."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.4)
    with running(models, limits=Limits(requests=10_000)) as client:
        yield client


def connected(client: Client) -> socket.socket:
    return socket.create_connection(client.place, timeout=PATIENCE)


def healthy(plain: socket.socket) -> bool:
    """Ask how the server is, and read the whole answer."""
    plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        answer += (piece := plain.recv(1000))
        assert piece
    return answer.startswith(b"HTTP/1.1 200")


def ended(plain: socket.socket) -> bool:
    try:
        return plain.recv(1000) == b""
    except ConnectionError:
        return True


def test_a_connection_that_brings_nothing_is_closed(hasty: Client) -> None:
    with connected(hasty) as plain:
        assert ended(plain)


@pytest.mark.parametrize("request_first", [False, True])
def test_headers_that_arrive_byte_by_byte_are_not_waited_for(
    client: Client, request_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        if request_first:
            plain = stack.enter_context(connected(client))
            assert healthy(plain)
            monkeypatch.setattr(connections, "HEADER_SECONDS", 0.4)
        else:
            monkeypatch.setattr(connections, "HEADER_SECONDS", 0.4)
            plain = stack.enter_context(connected(client))
        line = iter(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 10_000)
        while not select.select([plain], [], [], 0.02)[0]:
            try:
                plain.send(bytes([next(line)]))
            except ConnectionError:
                break
        assert ended(plain)


def test_each_request_on_a_connection_has_a_time_of_its_own() -> None:
    """A protocol by itself, whose loop has a clock of ours."""

    class Loop:
        def __init__(self) -> None:
            self.timers: list[Timer] = []

        def call_later(self, seconds: float, call: Any) -> Timer:
            self.timers.append(Timer(call))
            return self.timers[-1]

    class Timer:
        def __init__(self, call: Any) -> None:
            self.call, self.runs = call, True

        def cancel(self) -> None:
            self.runs = False

    config = Config(lambda scope, receive, send: None, log_config=None)
    config.load()
    loop = Loop()
    connection = connections.Connection(config, ServerState(), {}, loop)  # type: ignore[arg-type]
    connection.transport = transport = FakeTransport()  # type: ignore[assignment]
    transport.protocol = connection
    connection._watch()
    connection._watch()
    assert [timer.runs for timer in loop.timers] == [True], "a byte more is no new time"
    connection.cycle = SimpleNamespace(response_complete=False)  # type: ignore[assignment]
    connection._watch()
    assert [timer.runs for timer in loop.timers] == [False], "no time runs while a request is answered"
    connection.cycle.response_complete = True
    connection._watch()
    assert [timer.runs for timer in loop.timers] == [False, True], "the next one has a time of its own"
    assert not transport.aborted
    loop.timers[-1].call()
    assert transport.aborted


def test_requests_one_after_the_other_share_a_connection(client: Client) -> None:
    with connected(client) as plain:
        for _ in range(5):
            assert healthy(plain)


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET /" + b"x" * 100_000, b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000]
)  # fmt: skip
def test_what_is_no_request_is_answered_or_closed(client: Client, data: bytes, caplog: Any) -> None:
    with connected(client) as plain:
        plain.sendall(data)
        first = b""
        with suppress(ConnectionError):
            first = plain.recv(1000)
        assert first == b"" or first.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert caplog.text == ""
    assert client.get("/healthz").status == 200


def test_two_hosts_in_a_request_are_refused(client: Client) -> None:
    with connected(client) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert plain.recv(1000).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))


def test_connections_beyond_the_most_are_closed(models: dict[str, ServedModel]) -> None:
    limits = Limits(max_streams=1, max_jobs=1)
    with running(models, limits=limits) as client, ExitStack() as stack:
        opened = [stack.enter_context(connected(client)) for _ in range(limits.connections + 20)]
        assert ended(opened[-1])
        assert len(client.server.server_state.connections) <= limits.connections
        for plain in opened:
            plain.close()
        until = time.monotonic() + PATIENCE
        while client.server.server_state.connections:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert client.get("/healthz").status == 200


def test_a_body_without_end_after_the_answer_is_not_read_for_ever(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, kind = form([])
    with connected(client) as plain:
        head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        plain.sendall(f"{head}Content-Length: 999999999999\r\n\r\n".encode())
        assert plain.recv(12) == b"HTTP/1.1 413"
        monkeypatch.setattr(connections, "HEADER_SECONDS", 0.4)
        until = time.monotonic() + PATIENCE
        with suppress(ConnectionError):
            while time.monotonic() < until:
                plain.sendall(bytes(1000))
                time.sleep(0.001)
        assert time.monotonic() < until


def test_a_download_that_is_not_taken_is_given_up(
    models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = server.bound

    def bound(host: str, port: int) -> socket.socket:
        listening = usual(host, port)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listening

    monkeypatch.setattr(server, "bound", bound)
    with running(models, limits=Limits(slow_seconds=0.5)) as client:
        id = client.restored([("a.wav", wav(noise(200_000)))], model="one")["id"]
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.settimeout(PATIENCE)
            plain.connect(client.place)
            plain.sendall(f"GET /api/jobs/{id}/output.wav HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            until = time.monotonic() + PATIENCE
            while client.server.server_state.connections:
                assert time.monotonic() < until
                time.sleep(0.02)
        assert len(client.get(f"/api/jobs/{id}/output.wav").body) == 44 + 2 * 200_000


class FakeTransport:
    def __init__(self, closing: bool = False, peer: str = "") -> None:
        self.closing, self.aborted, self.peer = closing, False, peer
        self.protocol: Any = None

    def get_protocol(self) -> Any:
        return self.protocol

    def get_extra_info(self, name: str) -> Any:
        return (self.peer, 1000) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = True


class FakeConnection:
    def __init__(self, closing: bool) -> None:
        self.transport = FakeTransport(closing)


def test_what_is_closed_and_does_not_go_is_dropped_at_the_second_look() -> None:
    stuck, alive = FakeConnection(True), FakeConnection(False)
    seen = drop_stuck([stuck, alive], set())
    assert not stuck.transport.aborted
    late = FakeConnection(True)
    assert drop_stuck([stuck, alive, late], seen) == {stuck, late}
    assert stuck.transport.aborted
    assert not alive.transport.aborted
    assert not late.transport.aborted


def test_one_address_has_a_part_of_the_connections() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    async def opened(peers: list[str]) -> list[bool]:
        state, accepted = ServerState(), []
        for peer in peers:
            connection, transport = connections.Connection(config, state, {}), FakeTransport(peer=peer)
            connection.connection_made(transport)  # type: ignore[arg-type]
            accepted.append(not transport.aborted)
            if transport.aborted:
                connection.connection_lost(ConnectionAbortedError())
        return accepted

    limits = connections.Connection.limits
    config = Config(app, log_config=None)
    config.load()
    quarter = limits.connections // 4
    strangers = ["10.0.0.1"] * (quarter + 5) + ["10.0.0.2"]
    assert asyncio.run(opened(strangers)) == [True] * quarter + [False] * 5 + [True]
    assert asyncio.run(opened(["127.0.0.1"] * (limits.connections + 1))) == [True] * limits.connections + [False]


def test_a_release_of_uvicorn_without_what_is_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connections.check_uvicorn()
    [base, *_] = connections._USED
    monkeypatch.setitem(connections._USED, base, ("connection_made", "no_such_member"))
    with pytest.raises(BcfusionError, match=r"with uvicorn [\d.]+ \(H11Protocol has no no_such_member\): pip install"):
        connections.check_uvicorn()
