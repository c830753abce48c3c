from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bcfusion.cli import main
from bcfusion.generators.seanet import SEANet
from bcfusion.run.bundle import save_bundle

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
    sizes = {**sizes, "causal": True, "in_channels": 1}
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **sizes}
    return save_bundle(tmp_path_factory.mktemp("models") / "tiny", SEANet(**sizes), config, ["body"], {"step": 1})


def error_of(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    try:
        status = main(["serve", *map(str, argv)])
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    return capsys.readouterr().err


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "65536"], "is not a whole number from 0 to 65535"),
        (["--origin", "voice.example.org"], "voice.example.org is not an origin such as https://voice.example.org"),
        (["--origin", "https://a/b"], "is not an origin"),
        (["--certificate", "cert.pem"], "--certificate and --key belong together"),
        (["--certificate", "none.pem", "--key", "none.pem"], "--certificate none.pem: no such file"),
        (["--max-streams", "0"], "is not a whole number above zero"),
        (["--max-megabytes", "-1"], "is not a number above zero"),
        (["--strength", "0.5", "--limit-db", "12"], "give either a strength or a limit in dB"),
        (["no_such_model"], "no_such_model: no such run, bundle or shipped model"),
        (["throat", "--open"], "there is no option --open"),
    ],
)
def test_what_cannot_be_served_is_refused(capsys: pytest.CaptureFixture[str], options: list[str], says: str) -> None:
    pytest.importorskip("fastapi")
    assert says in error_of(capsys, *options)


def test_missing_packages_are_named_with_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcfusion.commands.serve.find_spec", lambda name: None)
    assert error_of(capsys, "throat") == (
        "bcfusion serve needs fastapi, uvicorn, websockets, python-multipart: pip install 'bcfusion[serve]'\n"
    )


# ---------------------------------------------------------------- processes


@pytest.fixture
def start(model: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts the verb in a process of its own and returns it with the address that it prints."""
    for package in ("fastapi", "uvicorn", "websockets", "python_multipart"):
        pytest.importorskip(package)
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "temporary").mkdir()

    def begin(*options: str, models: tuple[str, ...] = (str(model),)) -> tuple[subprocess.Popen[str], str]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        process = subprocess.Popen(
            [sys.executable, "-m", "bcfusion", "serve", *models, "--port", "0", "--backend", "torch", *options],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        timer = threading.Timer(PATIENCE, process.kill)  # ends a test that hangs
        timer.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        timer.cancel()
        assert line.endswith(" (Ctrl-C ends)\n"), line + (process.stderr.read() if process.stderr else "")
        return process, line.split()[0]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def asked(address: str, path: str) -> Any:
    with urllib.request.urlopen(address + path, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_streams_and_jobs_and_leaves_nothing(
    start: Callable[..., Any], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    process, address = start()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
    assert [model["name"] for model in asked(address, "api/models")] == ["tiny"]
    [folder] = (tmp_path / "temporary").glob("bcfusion-serve-*")
    with connect(f"{address.replace('http', 'ws')}api/live?model=tiny", compression=None) as stream:
        ready = json.loads(stream.recv(timeout=PATIENCE))
        stream.send(bytes(4 * ready["frame"]))
        stream.recv(timeout=PATIENCE)
        process.send_signal(number)
        with pytest.raises(ConnectionClosed) as error:
            stream.recv(timeout=PATIENCE)
        assert error.value.rcvd is not None
        assert error.value.rcvd.code == 1001
    printed = process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    assert printed == ("", "")
    assert not folder.exists()


@pytest.mark.slow
def test_a_second_signal_ends_at_once(start: Callable[..., Any], tmp_path: Path) -> None:
    from websockets.sync.client import connect

    process, address = start()
    [folder] = (tmp_path / "temporary").glob("bcfusion-serve-*")
    with connect(f"{address.replace('http', 'ws')}api/live?model=tiny", compression=None) as stream:
        stream.recv(timeout=PATIENCE)
        until = time.monotonic() + PATIENCE
        while process.poll() is None:  # as somebody presses it who does not wait
            assert time.monotonic() < until
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
    assert process.returncode == 130
    assert "Traceback" not in process.communicate()[1]
    assert not folder.exists()


@pytest.mark.slow
def test_everybody_is_served_only_with_a_warning_and_the_bounds_are_those_given(start: Callable[..., Any]) -> None:
    options = ["--max-seconds", "7", "--max-megabytes", "1.5", "--max-streams", "3", "--max-jobs", "2"]
    process, address = start("--host", "0.0.0.0", *options, "--keep-minutes", "5")
    assert asked(address, "api/limits") == {
        "max_seconds": 7, "max_bytes": 1_500_000, "max_streams": 3, "max_jobs": 2, "keep_minutes": 5,
    }  # fmt: skip
    process.terminate()
    assert "there is neither encryption nor a password" in process.communicate(timeout=PATIENCE)[1]


@pytest.mark.slow
def test_without_a_model_all_that_have_a_name_are_served(
    start: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bcfusion.run.models import named_models

    monkeypatch.setenv("BCFUSION_MODELS", str(model.parent))
    _, address = start(models=())
    assert [each["name"] for each in asked(address, "api/models")] == list(named_models())
    assert "tiny" in named_models()
