"""Recordings, from the upload to the download, by a real server."""

from __future__ import annotations

import io
import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from serving_server import PATIENCE, RATE, Client, form, make_models, noise, running, sound_of, wav

from bcfusion.inference.enhance import enhance_file
from bcfusion.run.bundle import load_generator
from bcfusion.serving import restoring
from bcfusion.serving.jobs import Job, Jobs
from bcfusion.serving.limits import Limits
from bcfusion.serving.models import ServedModel
from bcfusion.serving.server import Settings

STEP = 2 / 2**15  # of PCM_16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def client(models: dict[str, ServedModel]) -> Iterator[Client]:
    limits = Limits(max_seconds=30, max_bytes=5_000_000, requests=10_000, max_jobs=4)
    with running(models, Settings(port=0, threads=2, limits=limits)) as client:
        yield client


def enhanced(model: ServedModel, sources: list[bytes], folder: Path, suffix: str = ".wav") -> np.ndarray:
    """Return what ``bcfusion enhance`` makes of the same files."""
    files = [folder / f"source-{number}{suffix}" for number in range(len(sources))]
    for file, content in zip(files, sources, strict=True):
        file.write_bytes(content)
    enhance_file(load_generator(model.path), files, folder / "enhanced.wav")
    return np.asarray(soundfile.read(folder / "enhanced.wav", dtype="float32")[0])


# ---------------------------------------------------------------- results


@pytest.mark.parametrize("name", ["one", "whole"])
def test_a_recording_becomes_what_enhance_makes_of_it(
    client: Client, models: dict[str, ServedModel], tmp_path: Path, name: str
) -> None:
    signal = noise(int(12.3 * RATE))  # more than one block
    state = client.restored([("take 1.wav", wav(signal))], model=name)
    assert state["state"] == "done", state
    assert state["progress"] == 1
    assert (state["model"], state["sample_rate"], state["position"]) == (name, RATE, 0)
    assert state["seconds"] == pytest.approx(12.3)
    assert state["took_seconds"] > 0
    output = sound_of(client.get(f"/api/jobs/{state['id']}/output.wav"))
    np.testing.assert_allclose(output, enhanced(models[name], [wav(signal)], tmp_path), atol=1e-4)
    heard = sound_of(client.get(f"/api/jobs/{state['id']}/input-0.wav"))
    np.testing.assert_allclose(heard, signal[0].clip(-1, 1), atol=STEP)


def test_two_sensors_come_in_one_file_or_in_two_of_any_rate_and_format(
    client: Client, models: dict[str, ServedModel], tmp_path: Path
) -> None:
    signal = noise(RATE, 2)
    together = client.restored([("both.wav", wav(signal))], model="two")
    apart = client.restored([("b.wav", wav(signal[:1])), ("n.wav", wav(signal[1:]))], model="two")
    outputs = [sound_of(client.get(f"/api/jobs/{each['id']}/output.wav")) for each in (together, apart)]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_allclose(outputs[0], enhanced(models["two"], [wav(signal)], tmp_path), atol=1e-4)
    for number in range(2):
        heard = sound_of(client.get(f"/api/jobs/{apart['id']}/input-{number}.wav"))
        np.testing.assert_allclose(heard, signal[number], atol=STEP)
    file = io.BytesIO()
    soundfile.write(file, noise(48_000, 2).T, 48_000, format="FLAC")
    other = client.restored([("both.flac", file.getvalue())], model="both")
    output = sound_of(client.get(f"/api/jobs/{other['id']}/output.wav"))
    assert len(output) == RATE
    np.testing.assert_allclose(output, enhanced(models["both"], [file.getvalue()], tmp_path, ".flac"), atol=1e-4)


def test_strength_mixes_the_recording_in(client: Client) -> None:
    signal = noise(2000)
    states = [client.restored([("a.wav", wav(signal))], model="one", strength=each) for each in (0, 0.25, 1)]
    none, some, full = (sound_of(client.get(f"/api/jobs/{state['id']}/output.wav")) for state in states)
    np.testing.assert_allclose(none, signal[0], atol=STEP)
    np.testing.assert_allclose(some, 0.75 * none + 0.25 * full, atol=2 * STEP)
    assert np.abs(full - none).max() > 0.01


def test_a_download_has_a_name_that_is_safe_in_a_header(client: Client) -> None:
    state = client.restored([('a "b"; é/../../ü take.wav', wav(noise(500)))], model="one")
    there = f"/api/jobs/{state['id']}"
    shown = client.get(f"{there}/output.wav?download=1").headers["content-disposition"]
    assert shown == 'attachment; filename="take-one.wav"'
    assert "content-disposition" not in client.get(f"{there}/output.wav").headers
    assert client.get(f"{there}/input-0.wav?download=1").headers["content-disposition"].endswith('take-input-0.wav"')


# ---------------------------------------------------------------- what is refused


def short(channels: int = 1, samples: int = 100, rate: int = RATE) -> bytes:
    return wav(noise(samples, channels), rate)


@pytest.mark.parametrize(
    ("files", "fields", "status", "says"),
    [
        ([short()], {"model": "none"}, 404, "there is no such model: choose one of one, two"),
        ([short()], {}, 404, "there is no such model"),
        ([], {"model": "one"}, 422, "send a recording as the field file"),
        ([b"RIFFnonsense"], {"model": "one"}, 422, "cannot read 0.wav: "),
        ([bytes(5000)], {"model": "one"}, 422, "cannot read 0.wav: "),
        ([b""], {"model": "one"}, 422, "cannot read 0.wav: "),
        ([short(samples=0)], {"model": "one"}, 422, "0.wav holds no samples"),
        ([short(3)], {"model": "one"}, 422, "0.wav has 3 channels, and the model takes one sensor (body)"),
        ([short()], {"model": "two"}, 422, "0.wav has 1 channel, and the model takes 2 sensors (body, noisy)"),
        ([short(), short()], {"model": "one"}, 422, "2 files for a model of one sensor"),
        ([short(), short(samples=9999)], {"model": "two"}, 422, "1.wav (0.625 s) and 0.wav (0.006 s) differ in length"),
        ([short(), short(2)], {"model": "two"}, 422, "1.wav has 2 channels"),
        ([short(rate=500)], {"model": "one"}, 422, "0.wav is sampled at 500 Hz: convert it"),
        ([short()], {"model": "one", "strength": "nan"}, 422, "strength must be a number from 0 to 1"),
        ([short()], {"model": "one", "strength": "2"}, 422, "strength must be a number from 0 to 1"),
        ([short(1, 31_000, 1000)], {"model": "one"}, 413, "0.wav is 31 s long, and this server takes 30 s"),
        ([bytes(5_000_000)], {"model": "one"}, 413, "larger than 5 MB: send a shorter recording"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_a_sentence(
    client: Client, files: list[bytes], fields: dict[str, str], status: int, says: str
) -> None:
    answer = client.post([(f"{number}.wav", content) for number, content in enumerate(files)], **fields)
    assert answer.status == status
    assert says in answer.error
    assert tempfile.gettempdir() not in answer.error
    assert "upload-" not in answer.error
    assert answer.headers["content-type"] == "application/json"
    assert client.restored([("a.wav", wav(noise(100)))], model="one")["state"] == "done", "the place is free again"


def test_a_file_that_breaks_off_fails_without_a_path_of_the_server(client: Client) -> None:
    signal = noise(1000)
    signal[0, 500] = np.nan
    state = client.restored([("broken.wav", wav(signal))], model="one")
    assert state["state"] == "failed"
    assert state["error"] == "broken.wav holds NaN or infinite samples, the first at 0.031 s"
    assert client.get(f"/api/jobs/{state['id']}/output.wav").status == 404


def test_a_network_that_is_broken_fails_in_a_sentence(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("shapes")

    monkeypatch.setattr("bcfusion.serving.jobs.restore", broken)
    state = client.restored([("a.wav", wav(noise(100)))], model="one")
    assert state["error"] == "the network failed on this recording: the server's log says how"
    assert "shapes" in caplog.text


def test_a_network_that_overflows_fails_in_a_sentence(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bcfusion.inference.chunks.enhanced_chunks", lambda *arguments: (torch.full((1, 100), torch.nan) for _ in "1")
    )
    state = client.restored([("a.wav", wav(noise(100)))], model="one")
    assert state["error"] == "the model gives no finite samples for this recording: choose another model"


def test_a_model_that_is_gone_is_said_so_without_a_path_of_the_server(
    models: dict[str, ServedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = {"gone": replace(models["one"], path=tmp_path / "gone")}
    with running(gone) as client:
        state = client.restored([("a.wav", wav(noise(100)))], model="gone")
    assert state["error"] == "the model cannot be loaded: the server's log says how; choose another one"
    assert str(tmp_path / "gone") in caplog.text


@pytest.mark.parametrize("name", ["take.m4a", "take.WEBM"])
def test_a_format_that_is_not_read_is_named_with_what_to_do(client: Client, name: str) -> None:
    answer = client.post([(name, b"\x1a\x45\xdf\xa3" + bytes(1000))], model="one")
    kind = name.rpartition(".")[2].upper()
    assert (answer.status, answer.error) == (
        422, f"{name} is {kind}, which this server does not read: convert it to WAV or FLAC",
    )  # fmt: skip
    assert client.restored([(name, wav(noise(100)))], model="one")["state"] == "done", "the content counts"


def test_bytes_are_counted_while_they_arrive_whatever_was_announced(client: Client) -> None:
    body, kind = form([("big.wav", bytes(6_000_000))], model="one")
    with socket.create_connection(client.place, timeout=PATIENCE) as plain:
        head = (
            f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        plain.sendall(head.encode())
        for start in range(0, len(body), 65536):
            piece = body[start : start + 65536]
            plain.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        plain.sendall(b"0\r\n\r\n")
        assert plain.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "path",
    [
        *("/api/jobs/none", "/api/jobs/../models", "/api/jobs/none/output.wav", "/assets/../app.py", "/assets/%00"),
        *("/assets/%2e%2e%2fapp.py", "/assets/..%5capp.py", "/docs", "/openapi.json", "/redoc", "/nothing"),
        "/api/jobs/" + "x" * 3000,
    ],
)
def test_nothing_is_found_by_a_path_that_is_none(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 404
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("sound", ["input-1", "upload-0", "../output", "%2e%2e%2foutput", "output.wav", ""])
def test_only_the_sounds_of_a_job_are_found(client: Client, sound: str) -> None:
    id = client.restored([("a.wav", wav(noise(100)))], model="one")["id"]
    assert client.get(f"/api/jobs/{id}/{sound}.wav").status == 404


def test_ids_cannot_be_guessed(client: Client) -> None:
    ids = {client.post([("a.wav", wav(noise(9)))], model="one").json()["id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(len(id) == 32 for id in ids)
    assert {client.ended(id)["state"] for id in ids} == {"done"}


# ---------------------------------------------------------------- queue, end


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Jobs stop after their inputs, until the event is set."""
    go, counted = threading.Event(), restoring._counted

    def waiting(blocks: Any, total: int, progress: Any) -> Iterator[Any]:
        while not go.wait(0.01):
            progress(0.1)
        return counted(blocks, total, progress)

    monkeypatch.setattr(restoring, "_counted", waiting)
    yield go
    go.set()


def test_jobs_wait_in_their_order_and_no_more_than_allowed(client: Client, held: threading.Event) -> None:
    ids = [client.post([("a.wav", wav(noise(100)))], model="one").json()["id"] for _ in range(4)]
    answer = client.post([("a.wav", wav(noise(100)))], model="one")
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 0
    assert "too many recordings wait" in answer.error
    until = time.monotonic() + PATIENCE
    while client.get(f"/api/jobs/{ids[0]}").json()["progress"] < 0.1 and time.monotonic() < until:
        time.sleep(0.01)
    states = [client.get(f"/api/jobs/{id}").json() for id in ids]
    assert [(each["state"], each["position"]) for each in states] == [
        ("running", 0), ("queued", 1), ("queued", 2), ("queued", 3),
    ]  # fmt: skip
    assert client.get(f"/api/jobs/{ids[0]}/output.wav").status == 404, "it is not there yet"
    assert client.ask("DELETE", f"/api/jobs/{ids[1]}").status == 204  # one that waits
    assert client.get(f"/api/jobs/{ids[2]}").json()["position"] == 1
    assert client.ask("DELETE", f"/api/jobs/{ids[0]}").status == 204  # the one that runs
    assert client.get(f"/api/jobs/{ids[0]}").status == 404
    held.set()
    assert [client.ended(id)["state"] for id in ids[2:]] == ["done", "done"]


def test_one_address_has_half_of_the_places(models: dict[str, ServedModel], held: threading.Event) -> None:
    def sent(client: Client, seen: str) -> int:
        return client.post([("a.wav", wav(noise(9)))], {"X-Forwarded-For": seen}, model="one").status

    limits = Limits(requests=10_000, max_jobs=4)
    with running(models, Settings(port=0, limits=limits, origins=("https://voice.example.org",))) as client:
        assert [sent(client, "10.0.0.1") for _ in range(3)] == [202, 202, 429]
        assert [sent(client, "10.0.0.2") for _ in range(3)] == [202, 202, 429]
        held.set()


def test_the_results_of_an_address_that_has_many_make_room(tmp_path: Path) -> None:
    now = [0.0]
    jobs = Jobs(tmp_path, Limits(max_jobs=2, keep_minutes=1), clock=lambda: now[0])  # which keeps eight

    def result(client: str) -> Job:
        job = jobs.receive(client)
        job.state, job.ended = "done", now[0]
        now[0] += 1
        return job

    [first], many = [result("10.0.0.1")], [result("10.0.0.2") for _ in range(12)]
    jobs.sweep()
    assert jobs.get(first.id) is first
    assert [jobs.get(job.id) is job for job in many] == [False] * 5 + [True] * 7
    now[0] = 60.5
    jobs.sweep()
    assert jobs.get(first.id) is None
    assert not first.folder.exists()
    assert many[-1].folder.is_dir()


def folders(place: Path) -> list[Path]:
    return [job for server in place.glob("bcfusion-serve-*") for job in server.iterdir()]


def test_nothing_of_a_job_is_left_once_it_is_deleted(
    models: dict[str, ServedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with running(models, limits=Limits(requests=10_000)) as client:
        [place] = tmp_path.iterdir()
        assert place.stat().st_mode & 0o077 == 0, "nobody else can read it"
        state = client.restored([("a.wav", wav(noise(100)))], model="one")
        [folder] = folders(tmp_path)
        assert {file.name for file in folder.iterdir()} == {"output.wav", "input-0.wav"}, "the upload is deleted"
        assert state["id"] not in str(folder)
        assert client.ask("DELETE", f"/api/jobs/{state['id']}").status == 204
        assert folders(tmp_path) == []
        client.restored([("a.wav", wav(noise(100)))], model="one")
        client.post([("a.wav", b"nonsense")], model="one")
        assert len(folders(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_results_are_kept_for_a_while_and_no_more_than_a_number_of_them(
    models: dict[str, ServedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with running(models, limits=Limits(requests=10_000, max_jobs=1)) as client:
        ids = [client.restored([("a.wav", wav(noise(9)))], model="one")["id"] for _ in range(6)]
        client.post([("a.wav", b"nonsense")], model="one")  # which makes room first
        assert [client.get(f"/api/jobs/{id}").status for id in ids] == [404, 404, 200, 200, 200, 200]


def test_old_results_are_deleted_though_nobody_asks(
    models: dict[str, ServedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    late = [0.0]
    monkeypatch.setattr("bcfusion.serving.server.Jobs", partial(Jobs, clock=lambda: late[0]))
    with running(models, limits=Limits(requests=10_000, keep_minutes=1)) as client:
        id = client.restored([("a.wav", wav(noise(9)))], model="one")["id"]
        assert len(folders(tmp_path)) == 1
        late[0] = 61.0
        eventually(lambda: not folders(tmp_path))
        assert client.get(f"/api/jobs/{id}").status == 404


def upload_begun(client: Client) -> socket.socket:
    """Return the connection of an upload that has begun and not ended."""
    body, kind = form([("a.wav", bytes(100_000))], model="one")
    plain = socket.create_connection(client.place, timeout=PATIENCE)
    head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    plain.sendall(head.encode() + body[:50_000])
    return plain


def eventually(true: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_client_that_vanishes_while_it_uploads_leaves_nothing(
    models: dict[str, ServedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with running(models, limits=Limits(max_jobs=1)) as client:
        with upload_begun(client):
            eventually(lambda: folders(tmp_path))
            assert client.post([("a.wav", wav(noise(9)))], model="one").status == 429
        eventually(lambda: not folders(tmp_path))
        assert client.restored([("a.wav", wav(noise(9)))], model="one")["state"] == "done"


def test_an_upload_that_stops_or_crawls_is_given_up(models: dict[str, ServedModel]) -> None:
    with running(models, limits=Limits(max_jobs=1, silent_seconds=0.3, upload_rate=1e6)) as client:
        with upload_begun(client) as plain:
            assert plain.recv(100).startswith(b"HTTP/1.1 408")
        with upload_begun(client) as plain:
            while not select.select([plain], [], [], 0.05)[0]:
                plain.sendall(b"\0")  # never silent for long
            assert plain.recv(100).startswith(b"HTTP/1.1 408")
        answer = client.post([("a.wav", wav(noise(9)))], model="one")
        assert answer.status in (202, 408), "the place is free again; on a busy machine, this one is late, too"


def test_a_full_disk_is_said_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("bcfusion.serving.receiving.receive_form", full)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("usage", (), {"free": 0}))
    answer = client.post([("a.wav", wav(noise(9)))], model="one")
    assert (answer.status, answer.error) == (507, "the server's disk is full: try again later")
