"""A server in a thread with tiny models, and clients that speak to it as browsers and other programs do."""

from __future__ import annotations

import http.client
import io
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import soundfile
import torch

from bcfusion.generators.seanet import SEANet
from bcfusion.run.bundle import save_bundle
from bcfusion.serving.models import ServedModel, load_models
from bcfusion.serving.server import Settings, serve

RATE = 16000
PATIENCE = 60.0  # seconds after which a test that hangs is ended
SIZES: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}


def bundle(folder: Path, sensors: list[str], causal: bool = True) -> Path:
    torch.manual_seed(0)
    sizes = {**SIZES, "init_output_scale": 1.0, "causal": causal, "in_channels": len(sensors)}
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **sizes}
    return save_bundle(folder, SEANet(**sizes), config, sensors, {"step": 1, "recipe": "bone_to_air"})


def make_models(folder: Path, backend: str = "torch") -> dict[str, ServedModel]:
    """Return ``one`` and ``two``, causal with one and two sensors, and ``whole`` and ``both``, the same not causal."""
    two = ["body", "noisy"]
    names = {"one": (["body"], True), "two": (two, True), "whole": (["body"], False), "both": (two, False)}
    made = [str(bundle(folder / name, *how)) for name, how in names.items()]
    return load_models(made, backend)


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, samples)).astype(np.float32)


def wav(signal: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> bytes:
    """Return ``(C, T)`` as a file."""
    file = io.BytesIO()
    soundfile.write(file, signal.T, rate, format="WAV", subtype=subtype)
    return file.getvalue()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"])


@dataclass
class Client:
    """Whoever uses the server at an address."""

    address: str
    server: Any = None

    @property
    def place(self) -> tuple[str, int]:
        parts = urlsplit(self.address)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, host: str = ""
    ) -> Answer:
        connection = http.client.HTTPConnection(*self.place, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host=bool(host), skip_accept_encoding=True)
            if host:
                connection.putheader("Host", host)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            if body is not None:
                connection.send(body)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.ask("GET", path, **options)

    def post(
        self, files: Sequence[tuple[str, bytes]], headers: Mapping[str, str] | None = None, **fields: object
    ) -> Answer:
        body, kind = form(files, **fields)
        return self.ask("POST", "/api/jobs", body, {"Content-Type": kind, **(headers or {})})

    def restored(self, files: Sequence[tuple[str, bytes]], **fields: object) -> dict[str, Any]:
        """Return the state of a job after it has ended."""
        answer = self.post(files, **fields)
        assert answer.status == 202, answer.body
        return self.ended(answer.json()["id"])

    def ended(self, id: str) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while (state := self.get(f"/api/jobs/{id}").json())["state"] not in ("done", "failed"):
            assert time.monotonic() < until, state
            time.sleep(0.02)
        return dict(state)

    def live(self, query: str = "model=one", **options: Any) -> Any:
        from websockets.sync.client import connect

        url = f"{self.address.replace('http', 'ws', 1)}api/live?{query}"
        return connect(url, compression=None, max_size=None, open_timeout=PATIENCE, close_timeout=5, **options)


def form(files: Sequence[tuple[str, bytes]], **fields: object) -> tuple[bytes, str]:
    """Return the body of a form and its type."""
    boundary = secrets.token_hex(12)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, content in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        parts.append(head.encode() + b"Content-Type: audio/wav\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def sound_of(answer: Answer) -> np.ndarray:
    """Return the samples of a result, ``(T,)``."""
    assert answer.status == 200, answer.body
    samples, rate = soundfile.read(io.BytesIO(answer.body), dtype="float32")
    assert rate == RATE
    return np.asarray(samples)


@contextmanager
def running(models: Mapping[str, ServedModel], settings: Settings | None = None, **others: Any) -> Iterator[Client]:
    """Run a server on a free port in a thread, until the end of the block."""
    settings = settings or Settings(port=0, threads=2, **others)
    listening, found, errors = threading.Event(), Client(""), []

    def ready(address: str, server: Any) -> None:
        found.address, found.server = address, server
        listening.set()

    def work() -> None:
        try:
            serve(models, settings, ready)
        except BaseException as error:
            errors.append(error)
        listening.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert listening.wait(PATIENCE)
        if not errors:
            yield found
    finally:
        if found.server is not None:
            found.server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
