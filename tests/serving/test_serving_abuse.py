"""Requests and frames that no client sends by mistake: each is refused or answered, and the server goes on."""

from __future__ import annotations

import base64
import http.client
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from serving_server import PATIENCE, Client, bundle, form, noise, running, wav

from bcfusion.serving.limits import Limits
from bcfusion.serving.models import ServedModel, load_models

HEAD = b"Host: localhost\r\n"
UPGRADE = (
    b"GET /api/live?model=one HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return load_models([str(bundle(tmp_path_factory.mktemp("models") / "one", ["body"]))], "torch")


@pytest.fixture(scope="module")
def client(models: dict[str, ServedModel]) -> Iterator[Client]:
    with running(models, limits=Limits(requests=10_000, silent_seconds=1.0)) as client:
        yield client


def exchange(client: Client, data: bytes) -> bytes:
    """Send bytes, end the sending side, and return all that comes back."""
    with socket.create_connection(client.place, timeout=PATIENCE) as plain:
        answer = b""
        with suppress(ConnectionError):
            plain.sendall(data)
            plain.shutdown(socket.SHUT_WR)
            while piece := plain.recv(65536):
                answer += piece
        return answer


def answers(raw: bytes) -> list[int]:
    """Return the statuses of the answers in what came back."""
    return [int(each[:3]) for each in raw.split(b"HTTP/1.1 ")[1:]]


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path",
    [
        *("/assets/../../../../etc/passwd", "/assets/..%2f..%2f..%2fetc%2fpasswd", "/assets/%2e%2e/%2e%2e/etc/passwd"),
        *("/assets/%252e%252e%252fapp.py", "/assets/%25252e%25252e/app.py", "/assets/..%c0%afapp.py"),
        *("/assets/..%5c..%5capp.py", "/assets/..\\app.py", "/assets//etc/passwd", "//etc/passwd", "/assets/%00"),
        *("/assets/page.js%00.html", "/assets/C:%5cWindows%5cwin.ini", "/assets/....//app.py", "/assets/;/../app.py"),
        *("/api/jobs/%2e%2e", "/api/jobs/..%2f..%2fetc", "/api/jobs/x/%2e%2e%2f%2e%2e%2fetc%2fpasswd.wav"),
        *("/%2e%2e/%2e%2e/etc/passwd", "/assets/%", "/assets/%zz", "/assets/%e2%80%ae", "http://localhost/assets/../x"),
    ],
)
def test_no_path_leads_out(client: Client, path: str) -> None:
    raw = exchange(client, b"GET " + path.encode() + b" HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n")
    assert answers(raw) == [404]
    assert b"root:" not in raw
    assert b"import " not in raw


# ---------------------------------------------------------------- lengths

JOB = b"POST /api/jobs HTTP/1.1\r\n" + HEAD + b"Content-Type: multipart/form-data; boundary=x\r\n"
SECOND = b"GET /healthz HTTP/1.1\r\n" + HEAD + b"\r\n"


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 5\r\nContent-Length: 60\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0x10\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
        b"Content-Length: \xb2\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
    ],
)
def test_a_length_that_can_be_understood_in_two_ways_is_refused(client: Client, lengths: bytes) -> None:
    """Behind a proxy that understands it in another way, the rest of the body would be a request of its own."""
    raw = exchange(client, JOB + lengths + b"\r\n" + SECOND)
    assert answers(raw)[:1] in ([400], [413], [501])
    assert b'"ok"' not in raw


def test_a_length_beside_chunks_does_not_smuggle_a_request(client: Client) -> None:
    body = b"0\r\n\r\n"
    raw = exchange(
        client, JOB + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(body + SECOND) + body + SECOND
    )
    assert all(status >= 400 for status in answers(raw)[:1])
    assert raw.count(b'"ok"') <= 1  # either is one request, never one inside of the other


@pytest.mark.parametrize(
    "chunks",
    [
        b"FFFFFFFFFFFFFFFF\r\n",
        b"FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF\r\nx",
        b"-1\r\nx\r\n",
        b"0x5\r\nhello\r\n",
        b"5;" + b"x" * 100_000,
        b"5\r\nhelloXX0\r\n\r\n",
        b"zz\r\n",
        b"0\r\n" + b"T: x\r\n" * 10_000,
    ],
)
def test_chunks_that_are_none_are_given_up(client: Client, chunks: bytes) -> None:
    raw = exchange(client, JOB + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert answers(raw) in ([], [400], [408], [413], [415], [422])
    assert client.get("/healthz").status == 200
    assert client.get("/api/models").status == 200


@pytest.mark.parametrize("announced", ["100", "100000"])
def test_a_body_that_is_shorter_than_announced_leaves_nothing(client: Client, announced: str) -> None:
    body, kind = form([("a.wav", wav(noise(100)))], model="one")
    head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {announced}\r\n\r\n"
    raw = exchange(client, head.encode() + body[: int(announced) - 1])
    assert all(status >= 400 for status in answers(raw))
    assert client.post([("a.wav", wav(noise(100)))], model="one").status == 202


# ---------------------------------------------------------------- headers


@pytest.mark.parametrize(
    "header",
    [
        b"X: a\rSet-Cookie: b\r\n",
        b"X: a\0b\r\n",
        b"X : a\r\n",
        b": a\r\n",
        b"X\r\n",
        b"X: " + b"a" * 100_000 + b"\r\n",
        b"".join(b"X%d: a\r\n" % number for number in range(10_000)),
    ],
)
def test_a_header_that_is_none_or_without_end_is_refused(client: Client, header: bytes) -> None:
    raw = exchange(client, b"GET /healthz HTTP/1.1\r\n" + HEAD + header + b"\r\n")
    assert answers(raw) in ([400], [431])
    assert b"Set-Cookie" not in raw


@pytest.mark.parametrize(
    "line", [b"GET  /healthz HTTP/1.1", b"G\0T / HTTP/1.1", b"GET /healthz HTTP/1.1 x", b"GET /healthz HTTPS/1.1"]
)
def test_a_first_line_that_is_none_is_refused(client: Client, line: bytes) -> None:
    assert answers(exchange(client, line + b"\r\n" + HEAD + b"\r\n")) == [400]


@pytest.mark.parametrize(
    "name", ['a"; x="', "a\\", "a;b", "a%0d%0aSet-Cookie: b", "é\u2028", "-rf", ".", "..", "CON", "a" * 300]
)
def test_the_name_of_a_download_adds_nothing_to_its_header(client: Client, name: str) -> None:
    sent = name.replace("\\", "\\\\").replace('"', '\\"')
    state = client.restored([(f"{sent}.wav", wav(noise(400)))], model="one")
    answer = client.get(f"/api/jobs/{state['id']}/output.wav?download=1")
    assert answer.status == 200
    assert "set-cookie" not in answer.headers
    found = answer.headers["content-disposition"]
    assert found.startswith('attachment; filename="')
    inside = found.removeprefix('attachment; filename="').removesuffix('"')
    assert inside.isascii()
    assert set(inside) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert len(inside) < 140


# ---------------------------------------------------------------- other sites


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "http://evil.example", "http://localhost.evil.example", "http://evil.example#localhost", "file://"),
        *("http://localhost:1", "http://localhost@evil.example", "http://evil.example/localhost", "localhost", ""),
        *("http://localhost, http://evil.example", "HTTP://LOCALHOST.EVIL", "http://[::1]", "chrome-extension://abc"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_pages_of_other_sites_change_nothing(client: Client, origin: str, method: str) -> None:
    body, kind = form([("a.wav", wav(noise(100)))], model="one")
    path = "/api/jobs" if method == "POST" else "/api/jobs/x"
    answer = client.ask(method, path, body, {"Content-Type": kind, "Origin": origin}, host="localhost")
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


def test_a_second_origin_does_not_help(client: Client) -> None:
    raw = exchange(
        client, JOB + b"Origin: http://localhost\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n"
    )
    assert answers(raw) == [403]


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "HEAD"])
def test_no_answer_lets_another_site_read_it(client: Client, method: str) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.ask(method, "/api/models", headers=asked)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "CONNECT", "PROPFIND", "X" * 1000])
def test_other_methods_do_nothing(client: Client, method: str) -> None:
    with suppress(ConnectionError, http.client.BadStatusLine):
        answer = client.ask(method, "/api/jobs/x", headers={"Origin": "http://localhost"}, host="localhost")
        assert answer.status in (400, 404, 405)
    assert client.get("/healthz").status == 200


# ---------------------------------------------------------------- frames


def frame(content: bytes, *, first: int, length: bytes | None = None, masked: bool = True) -> bytes:
    size = bytes([len(content)]) if length is None else length
    size = bytes([size[0] | (0x80 if masked else 0)]) + size[1:]
    return bytes([first]) + size + (bytes(4) if masked else b"") + content


MALFORMED = {
    "not masked": frame(b"hello", first=0x82, masked=False),
    "a reserved bit": frame(b"x", first=0xC2),
    "all reserved bits": frame(b"x", first=0xF2),
    "a reserved kind of control": frame(b"", first=0x8B),
    "a long ping": frame(bytes(126), first=0x89, length=struct.pack("!BH", 126, 126)),
    "a ping in pieces": frame(b"x", first=0x09),
    "a continuation of nothing": frame(b"x", first=0x80),
    "a message within a message": frame(b"x", first=0x02) + frame(b"y", first=0x82),
    "2**63 bytes": frame(b"x", first=0x82, length=struct.pack("!BQ", 127, 2**63)),
    "2**63 - 1 bytes": frame(b"x", first=0x82, length=struct.pack("!BQ", 127, 2**63 - 1)),
    "a gigabyte": frame(b"x", first=0x82, length=struct.pack("!BQ", 127, 2**30)),
    "a close of one byte": frame(b"x", first=0x88),
    "a close with a code of nobody": frame(struct.pack("!H", 999), first=0x88),
    "a close whose reason is no text": frame(struct.pack("!H", 1000) + b"\xff\xfe", first=0x88),
    "text that is no text": frame(b"\xc3\x28", first=0x81),
    "a surrogate": frame(b"\xed\xa0\x80", first=0x81),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_frame_ends_its_stream_and_no_other(client: Client, name: str) -> None:
    with client.live() as other:
        other.recv(PATIENCE)
        with socket.create_connection(client.place, timeout=PATIENCE) as plain:
            plain.sendall(UPGRADE)
            assert plain.recv(12) == b"HTTP/1.1 101"
            with suppress(ConnectionError):
                plain.sendall(MALFORMED[name])
                while plain.recv(65536):  # until the server closes
                    pass
        other.ping().wait(PATIENCE)


def test_frames_in_front_of_the_answer_to_the_handshake_do_no_harm(client: Client) -> None:
    raw = exchange(client, UPGRADE + MALFORMED["not masked"])
    assert answers(raw)[:1] in ([], [101], [400])
    assert client.get("/healthz").status == 200
