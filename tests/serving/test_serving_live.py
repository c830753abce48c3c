"""Live streams by a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from serving_server import PATIENCE, Client, bundle, make_models, noise, running
from websockets.exceptions import ConnectionClosed

from bcfusion.inference.stepping import Frames
from bcfusion.live.steppers import open_stepper
from bcfusion.serving import live
from bcfusion.serving.limits import Limits
from bcfusion.serving.models import ServedModel, load_models
from bcfusion.serving.server import Settings

FRAME = 128


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def client(models: dict[str, ServedModel]) -> Iterator[Client]:
    with running(models, Settings(port=0, threads=2, limits=Limits(requests=10_000))) as client:
        yield client


def frames_of(signal: Frames) -> list[bytes]:
    """Return ``(S, T)`` as messages: whole frames, the sensors next to each other."""
    return [signal[:, at : at + FRAME].T.astype("<f4").tobytes() for at in range(0, signal.shape[1], FRAME)]


def answer(stream: Any) -> Any:
    """Return the next frame; what is said about the stream in between is left out."""
    while isinstance(message := stream.recv(timeout=PATIENCE), str):
        assert json.loads(message)["type"] == "status"
    return np.frombuffer(message, "<f4")


def begun(stream: Any) -> dict[str, Any]:
    return dict(json.loads(stream.recv(timeout=PATIENCE)))


def streamed(client: Client, signal: Frames, query: str) -> Frames:
    """Return what comes back for a signal that is sent frame by frame, each after the answer to the last one."""
    with client.live(query) as stream:
        assert begun(stream)["frame"] == FRAME
        outputs = []
        for frame in frames_of(signal):
            stream.send(frame)
            outputs.append(answer(stream))
        return np.concatenate(outputs)


def expected(model: ServedModel, signal: Frames, strength: float = 1.0) -> Frames:
    stepper = open_stepper(model.path, "torch", strength=strength)
    starts = range(0, signal.shape[1], FRAME)
    outputs = [stepper.step(np.ascontiguousarray(signal[:, at : at + FRAME])) for at in starts]
    stepper.close()
    return np.concatenate(outputs)


def closing(stream: Any) -> tuple[int, str]:
    """Return the code and the reason with which the server closes a stream."""
    try:
        while stream.recv(timeout=PATIENCE) is not None:
            pass
    except ConnectionClosed as error:
        return (0, "dropped") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)


# ---------------------------------------------------------------- sound


@pytest.mark.parametrize(("name", "sensors"), [("one", 1), ("two", 2)])
def test_a_stream_is_that_of_the_network_sample_by_sample(
    client: Client, models: dict[str, ServedModel], name: str, sensors: int
) -> None:
    signal = noise(60 * FRAME, sensors)
    np.testing.assert_array_equal(streamed(client, signal, f"model={name}"), expected(models[name], signal))


def test_strength_mixes_the_sensor_in(client: Client, models: dict[str, ServedModel]) -> None:
    signal = noise(30 * FRAME, 2)
    output = streamed(client, signal, "model=two&strength=0.25")
    np.testing.assert_allclose(output, expected(models["two"], signal, 0.25), atol=1e-6)
    np.testing.assert_array_equal(streamed(client, signal, "model=two&strength=0"), signal[1])


@pytest.mark.parametrize("count", [1, 4, pytest.param(16, marks=pytest.mark.slow)])
def test_streams_side_by_side_do_not_hear_each_other(
    client: Client, models: dict[str, ServedModel], count: int
) -> None:
    signals = [noise(60 * FRAME, 1, seed) for seed in range(count)]
    with ThreadPoolExecutor(count) as pool:
        outputs = list(pool.map(lambda signal: streamed(client, signal, "model=one"), signals))
    for signal, output in zip(signals, outputs, strict=True):
        np.testing.assert_array_equal(output, expected(models["one"], signal))


@pytest.mark.slow
def test_streams_by_onnxruntime_side_by_side(tmp_path: Any) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    models = load_models([str(bundle(tmp_path / "one", ["body"]))], "onnx")
    assert models["one"].network is not None
    assert models["one"].network.backend == "onnx"
    stepper = open_stepper(models["one"].path, "onnx")
    signals = [noise(60 * FRAME, 1, seed) for seed in range(4)]
    with running(models) as client, ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda signal: streamed(client, signal, "model=one"), signals))
    for signal, output in zip(signals, outputs, strict=True):
        stepper.reset()
        alone = [stepper.step(signal[:, at : at + FRAME]) for at in range(0, signal.shape[1], FRAME)]
        np.testing.assert_array_equal(output, np.concatenate(alone))


def test_a_client_is_told_what_to_send_and_once_a_second_how_it_goes(client: Client) -> None:
    with client.live("model=two") as stream:
        assert begun(stream) == {
            "type": "ready", "sample_rate": 16000, "frame": FRAME, "sensors": ["body", "noisy"], "mixed_sensor": 1,
            "latency_ms": 8.0,
        }  # fmt: skip
        until, sent, said = time.monotonic() + PATIENCE, 0, None
        while said is None:
            assert time.monotonic() < until
            stream.send(bytes(2 * 4 * FRAME))
            sent += 1
            if isinstance(message := stream.recv(timeout=PATIENCE), str):
                said = json.loads(message)
            time.sleep(FRAME / 16000)
    assert said["type"] == "status"
    assert 0 < said["frames"] <= sent
    assert (said["dropped"], said["resets"]) == (0, 0)
    assert said["p99_ms"] > 0
    assert 0 < said["load"] < 10


def test_after_samples_that_are_no_numbers_the_network_begins_anew(
    client: Client, models: dict[str, ServedModel]
) -> None:
    signal = noise(40 * FRAME)
    bad = {10: math.nan, 20: math.inf, 30: 3e38}  # the last one only overflows inside of the network
    for number, value in bad.items():
        signal[0, number * FRAME + 5] = value
    output = streamed(client, signal, "model=one").reshape(-1, FRAME)
    assert np.isfinite(output).all()
    for number in bad:
        assert not output[number].any() or number == 30
    clean = expected(models["one"], signal[:, 11 * FRAME : 20 * FRAME]).reshape(-1, FRAME)
    np.testing.assert_array_equal(output[11:20], clean)


# ---------------------------------------------------------------- who and what is refused


@pytest.mark.parametrize("query", ["model=none", "model=whole", "", "model=../one"])
def test_a_model_that_cannot_stream_is_refused(client: Client, query: str) -> None:
    with client.live(query) as stream:
        assert closing(stream) == (4404, "there is no such model, or it cannot stream")


def test_a_strength_that_is_none_is_refused(client: Client) -> None:
    for strength in ("2", "nan", "x"):
        with client.live(f"model=one&strength={strength}") as stream:
            assert closing(stream) == (1008, "strength must be a number from 0 to 1")


def test_a_page_of_another_site_may_not_listen(client: Client) -> None:
    for origin in ("http://evil.example", "null"):
        with client.live(origin=origin) as stream:
            code, reason = closing(stream)
            assert code == 1008
            assert reason.startswith("pages of other sites may not use this server")
    with client.live(origin=client.address.rstrip("/")) as stream:
        assert begun(stream)["type"] == "ready"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", 1003),
        (bytes(4 * FRAME - 1), 1003),
        (bytes(4 * FRAME + 4), 1003),
        ("hello", 1003),
        (bytes(1_000_000), 1009),
    ],
)
def test_a_message_that_is_no_frame_ends_the_stream(client: Client, message: Any, code: int) -> None:
    with client.live() as stream:
        begun(stream)
        stream.send(message)
        got = closing(stream)
        assert got[0] == code
        if code == 1003:
            assert got[1] == f"send each frame as one binary message of {4 * FRAME} bytes"


def test_there_are_no_more_streams_than_allowed_and_a_place_becomes_free(models: dict[str, ServedModel]) -> None:
    with running(models, limits=Limits(max_streams=2)) as client:
        with client.live() as first, client.live() as second:
            begun(first), begun(second)
            with client.live() as third:
                assert closing(third) == (1013, "all streams are taken: try again later")
            first.send(bytes(4 * FRAME))
            answer(first)
        until = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < until
            with client.live() as stream:
                if isinstance(stream.recv(timeout=PATIENCE), str):
                    break


def test_one_address_has_half_of_the_streams(models: dict[str, ServedModel]) -> None:
    def opened(client: Client, seen: str) -> Any:
        return client.live(additional_headers={"X-Forwarded-For": seen})

    settings = Settings(port=0, limits=Limits(max_streams=2), origins=("https://voice.example.org",))
    with running(models, settings) as client, opened(client, "10.0.0.1") as first:
        begun(first)
        with opened(client, "10.0.0.1") as second, opened(client, "10.0.0.2") as other:
            assert closing(second)[0] == 1013
            begun(other)


def test_what_is_sent_faster_than_real_time_is_answered_with_silence_and_its_sender_disconnected(
    client: Client, models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "Stream", partial(live.Stream, clock=lambda: 0.0))  # all at one moment
    signal = noise(200 * FRAME, 1)
    frames = frames_of(signal)
    with client.live() as stream:
        begun(stream)
        for frame in frames:  # 1.6 s of sound at once: a burst of one second, and eight at a time, are computed
            stream.send(frame)
        outputs = np.stack([answer(stream) for _ in frames])
        silent = ~outputs.any(axis=1)
        assert len(outputs) == len(frames), "each is answered"
        assert silent.sum() >= 200 - 16000 // FRAME, "no more than the burst is computed"
        assert not silent.all()
        computed = signal.reshape(-1, FRAME)[~silent].reshape(1, -1)
        np.testing.assert_array_equal(outputs[~silent].ravel(), expected(models["one"], computed))
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                try:
                    stream.send(frames[0])
                except ConnectionClosed:
                    return

        sender = threading.Thread(target=flood)
        sender.start()
        try:
            assert closing(stream)[0] == 1008
        finally:
            stop.set()
            sender.join()


def test_a_client_that_is_silent_for_long_is_disconnected(models: dict[str, ServedModel]) -> None:
    with running(models, limits=Limits(idle_seconds=0.3)) as client, client.live() as stream:
        begun(stream)
        assert closing(stream) == (1008, "no sound has arrived for a while")


# ---------------------------------------------------------------- clients that misbehave below the protocol


HANDSHAKE = (
    "GET /api/live?{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def handshaken(client: Client, query: str = "model=one", buffer: int | None = None) -> socket.socket:
    """Return the bare connection of a stream, whose messages are not read."""
    plain = socket.socket()
    plain.settimeout(PATIENCE)
    if buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.connect(client.place)
    plain.sendall(HANDSHAKE.format(query=query).encode())
    assert plain.recv(12) == b"HTTP/1.1 101"
    return plain


def packet(content: bytes, opcode: int = 2, fin: bool = True) -> bytes:
    size = struct.pack("!B", 0x80 | len(content)) if len(content) < 126 else struct.pack("!BH", 0xFE, len(content))
    return bytes([(0x80 if fin else 0) | opcode]) + size + bytes(4) + content  # a mask of zeros


def gone(plain: socket.socket) -> bool:
    """Read until the connection is closed, and return True."""
    try:
        while plain.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's sockets hold few bytes of what a client does not read."""
    from bcfusion.serving import server

    usual = server.bound

    def bound(host: str, port: int) -> socket.socket:
        listening = usual(host, port)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listening

    monkeypatch.setattr(server, "bound", bound)


def is_dropped(plain: socket.socket, data: bytes, pause: float = 0) -> bool:
    """Send without end, and return True once the server has dropped the connection."""
    until = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            plain.sendall(data)
            time.sleep(pause)
    except ConnectionError:
        return True
    return False


def test_a_client_that_does_not_read_is_disconnected_and_holds_nobody_else(
    models: dict[str, ServedModel], small_buffers: None
) -> None:
    signal = noise(40 * FRAME)
    limits = Limits(slow_seconds=0.5, max_streams=2)
    with running(models, limits=limits) as client, handshaken(client, buffer=4096) as plain:
        plain.sendall(packet(bytes(4 * FRAME)) * 400)  # their answers are 200 kB
        np.testing.assert_array_equal(streamed(client, signal, "model=one"), expected(models["one"], signal))
        assert is_dropped(plain, packet(b"", opcode=10), 0.02)  # a pong, which nobody answers


def test_pings_without_end_whose_answers_are_not_read_are_not_collected(
    models: dict[str, ServedModel], small_buffers: None
) -> None:
    with running(models, limits=Limits(slow_seconds=600)) as client, handshaken(client, buffer=4096) as plain:
        assert is_dropped(plain, packet(bytes(125), opcode=9))


@pytest.mark.parametrize("opcode", [9, 10])
def test_pings_and_pongs_without_end_are_not_listened_to(client: Client, opcode: int) -> None:
    with handshaken(client) as plain:
        plain.settimeout(0.01)
        until = time.monotonic() + PATIENCE
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    plain.sendall(packet(b"", opcode=opcode))
                    if plain.recv(65536) == b"":  # its answers are read
                        break
        assert time.monotonic() < until


def test_fragments_without_end_are_not_collected(client: Client) -> None:
    with handshaken(client) as plain:
        plain.sendall(packet(b"", fin=False))
        assert is_dropped(plain, packet(b"", opcode=0, fin=False))


@pytest.mark.parametrize("missing", ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Upgrade", "Host"])
def test_a_handshake_that_is_none_opens_no_stream(client: Client, missing: str) -> None:
    lines = [line for line in HANDSHAKE.split("\r\n") if not line.startswith(missing)]
    with socket.create_connection(client.place, timeout=PATIENCE) as plain:
        plain.sendall("\r\n".join(lines).format(query="model=one").encode())
        assert plain.recv(12)[9:] in (b"400", b"404", b"426")


@pytest.mark.parametrize("data", [b"\xff" * 100, packet(b"", opcode=3), b"\x82\x05hello", packet(b"\xff", opcode=1)])
def test_what_is_no_websocket_ends_the_stream(client: Client, data: bytes) -> None:
    with handshaken(client) as plain:
        plain.sendall(data)
        assert gone(plain)


def test_clients_that_vanish_leave_their_places(models: dict[str, ServedModel]) -> None:
    with running(models, limits=Limits(max_streams=3, requests=1000)) as client:
        for _ in range(10):
            with handshaken(client) as plain:
                plain.sendall(packet(noise(FRAME).tobytes()) * 5)
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
        until = time.monotonic() + PATIENCE
        while client.server._parts.streams._open:
            assert time.monotonic() < until
            time.sleep(0.01)
        signal = noise(10 * FRAME)
        np.testing.assert_array_equal(streamed(client, signal, "model=one"), expected(models["one"], signal))


# ---------------------------------------------------------------- a stream by itself


def test_a_sound_device_whose_clock_is_fast_loses_nothing_for_hours(models: dict[str, ServedModel]) -> None:
    network = models["one"].network
    assert network is not None
    now = [0.0]
    with ThreadPoolExecutor(1) as pool:
        stream = live.Stream(FakeSocket(), network.open(), pool, Limits(), lambda: now[0])  # type: ignore[arg-type]
    for _ in range(30_000):  # 0.5 % beside real time, fifty times as much as such clocks are: 4 min stand for 3 h
        now[0] += FRAME / 16000 / 1.005
        assert stream._pace.take()


class FakeSocket:
    """A client that sends without end, and whose connection takes no answer until it is told to."""

    def __init__(self) -> None:
        self.sent = 0
        self.scope: dict[str, Any] = {"state": {"abort": self.abort}}
        self.aborted = False
        self.application_state = None

    def abort(self) -> None:
        self.aborted = True

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.sent += 1
        return {"type": "websocket.receive", "bytes": bytes(4 * FRAME)}

    async def send(self, message: Any) -> None:
        if message.get("text") is None:
            await asyncio.Event().wait()


def test_nothing_is_read_from_a_client_that_has_many_frames_unanswered(models: dict[str, ServedModel]) -> None:
    network = models["one"].network
    assert network is not None
    client, now = FakeSocket(), [0.0]

    async def run() -> None:
        with ThreadPoolExecutor(1) as pool:
            stream = live.Stream(client, network.open(), pool, Limits(), lambda: now[0])  # type: ignore[arg-type]
            task = asyncio.create_task(stream.run("{}"))
            for _ in range(2000):
                await asyncio.sleep(0.0005)
                now[0] += 0.001
                stream.look_after()
            assert client.sent <= live.UNANSWERED + live.COMPUTED + 1
            assert not client.aborted
            now[0] += 20
            stream.look_after()
            assert client.aborted
            task.cancel()

    asyncio.run(run())
    assert client.sent >= live.UNANSWERED


def test_a_network_that_fails_ends_the_stream_with_a_sentence(
    models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(stream: Any, data: bytes) -> bytes:
        raise RuntimeError("shapes")

    monkeypatch.setattr(live.Stream, "_step", broken)
    with running(models) as client, client.live() as stream:
        begun(stream)
        stream.send(bytes(4 * FRAME))
        assert closing(stream) == (1011, "the network failed: the server's log says how")
    assert "shapes" in caplog.text


def test_reasons_fit_into_the_message_that_closes_a_stream() -> None:
    for _, reason in live.CLOSING.values():
        assert len(reason.encode()) + 8 <= 123
