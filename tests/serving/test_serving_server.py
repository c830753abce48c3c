"""The end of a server, its address, and https."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from serving_server import PATIENCE, bundle, form, make_models, noise, running, wav
from websockets.exceptions import ConnectionClosed

from bcfusion.errors import BcfusionError
from bcfusion.serving import connections, restoring
from bcfusion.serving.models import ServedModel, load_models
from bcfusion.serving.server import Settings, address_of, bound, is_open_to_others


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return make_models(tmp_path_factory.mktemp("models"))


def test_streams_jobs_and_uploads_end_with_the_server_and_nothing_is_left(
    models: dict[str, ServedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    begun = threading.Event()

    def endless(blocks: Any, total: int, progress: Any) -> Iterator[Any]:
        begun.set()
        while True:
            progress(0.5)
            time.sleep(0.005)
        yield

    monkeypatch.setattr(restoring, "_counted", endless)
    before = threading.active_count()
    with running(models) as client, client.live() as stream, socket.create_connection(client.place) as upload:
        json.loads(stream.recv(timeout=PATIENCE))
        for _ in range(2):
            assert client.post([("a.wav", wav(noise(9)))], model="one").status == 202
        assert begun.wait(PATIENCE)
        body, kind = form([("a.wav", bytes(10_000))], model="one")
        upload.settimeout(PATIENCE)
        upload.sendall(
            f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            .encode() + body[:5000]
        )  # fmt: skip
        until = time.monotonic() + PATIENCE
        while len(list(tmp_path.glob("*/*"))) < 3:
            assert time.monotonic() < until
            time.sleep(0.01)
        client.server.should_exit = True
        with pytest.raises(ConnectionClosed) as error:
            stream.recv(timeout=PATIENCE)
        assert error.value.rcvd is not None
        assert (error.value.rcvd.code, error.value.rcvd.reason) == (1001, "the server shuts down")
        assert upload.recv(1000).startswith(b"HTTP/1.1 503")
    assert list(tmp_path.iterdir()) == []
    assert caplog.text == ""
    until = time.monotonic() + PATIENCE
    while threading.active_count() > before:
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.01)


def test_an_address_that_is_taken_or_not_ours_is_an_error(models: dict[str, ServedModel]) -> None:
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BcfusionError, match=rf"--port {port}: Address already in use; --port 0 uses a free one"):
            bound("127.0.0.1", port)
    with pytest.raises(BcfusionError, match=r"--host 192\.0\.2\.1 --port 0: "):
        bound("192.0.2.1", 0)
    with pytest.raises(BcfusionError, match=r"--host no\.such\.host\.invalid: .*give an address of this machine"):
        bound("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:"), ("localhost", "http://localhost:"), ("0.0.0.0", "http://127.0.0.1:")],
)
def test_the_printed_address_can_be_opened_on_this_machine(host: str, address: str) -> None:
    with bound(host, 0) as listening:
        port = listening.getsockname()[1]
        assert address_of(listening, Settings(host=host)) == f"{address}{port}/"


def test_only_addresses_of_this_machine_are_closed_to_others() -> None:
    assert [is_open_to_others(host) for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2")] == [False] * 4
    assert [is_open_to_others(host) for host in ("0.0.0.0", "::", "192.168.0.7", "myhost")] == [True] * 4


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl on the PATH to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [*(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
         *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1]))],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return files


@pytest.mark.slow
def test_with_a_certificate_everything_is_encrypted(
    models: dict[str, ServedModel], certificate: tuple[Path, Path]
) -> None:
    from websockets.sync.client import connect

    settings = Settings(port=0, certificate=certificate[0], key=certificate[1])
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with running(models, settings) as client:
        assert client.address.startswith("https://127.0.0.1:")
        connection = http.client.HTTPSConnection(*client.place, context=context, timeout=PATIENCE)
        connection.request("GET", "/healthz")
        assert json.loads(connection.getresponse().read()) == {"status": "ok"}
        connection.close()
        url = client.address.replace("https", "wss") + "api/live?model=one"
        with connect(url, ssl=context, compression=None, origin=client.address.rstrip("/")) as stream:  # type: ignore[arg-type]
            assert json.loads(stream.recv(timeout=PATIENCE))["type"] == "ready"


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_handshake_that_does_not_go_on_is_given_up(
    models: dict[str, ServedModel], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """asyncio itself would wait for a minute, and count nobody who waits."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.4)
    settings = Settings(port=0, certificate=certificate[0], key=certificate[1])
    with running(models, settings) as client, socket.create_connection(client.place, timeout=30.0) as plain:
        plain.sendall(sent)
        with suppress(ConnectionError):
            while plain.recv(1000):  # an alert may come before the end
                pass


def test_a_certificate_that_is_none_is_an_error(tmp_path: Path) -> None:
    models = load_models([str(bundle(tmp_path / "one", ["body"], causal=False))])
    (tmp_path / "cert.pem").write_text("nonsense")
    settings = Settings(port=0, certificate=tmp_path / "cert.pem", key=tmp_path / "cert.pem")
    with pytest.raises(BcfusionError, match=r"--certificate .*cert\.pem: "), running(models, settings):
        pass
