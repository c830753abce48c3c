"""Uploads of every file of :mod:`hostile_files`: restored, or refused in a sentence that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import serving_server
from hostile_files import FILES, NAMES, RATE, HostileFile

from bcfusion.serving.limits import Limits
from bcfusion.serving.models import load_models
from bcfusion.serving.server import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Any:
    models = load_models([str(serving_server.bundle(tmp_path_factory.mktemp("models") / "one", ["body"]))], "torch")
    limits = Limits(max_seconds=30, max_bytes=5_000_000, requests=10_000, max_jobs=4)
    with serving_server.running(models, Settings(port=0, threads=1, limits=limits)) as client:

        def sent(name: str, content: bytes) -> tuple[int, str, str]:
            answer = client.post([(name, content)], model="one")
            if answer.status != 202:
                return answer.status, answer.error, ""
            state = client.ended(answer.json()["id"])
            return answer.status, str(state.get("error") or ""), answer.json()["id"]

        yield sent, client
        assert sent("usual.wav", FILES["pcm_16.wav"].content)[1] == ""  # it serves as before


@pytest.mark.parametrize("name", FILES)
def test_an_upload_is_restored_or_refused_in_a_sentence(name: str, upload: Any) -> None:
    sent: Callable[[str, bytes], tuple[int, str, str]] = upload[0]
    file: HostileFile = FILES[name]
    status, error, job = sent(name, file.content)
    if file.channels == 1:
        assert (status, error) == (202, "")
        sound = serving_server.sound_of(upload[1].get(f"/api/jobs/{job}/input-0.wav"))
        assert len(sound) == -(-file.samples.shape[1] * RATE // file.rate)  # type: ignore[union-attr]
        return
    assert status == (202 if not file.by_header else 422)
    assert ("channels" if file.readable else file.says) in error
    assert "\n" not in error
    assert str(Path.cwd()) not in error


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_taken(name: str, upload: Any) -> None:
    plain = name.replace('"', "").replace("\n", "").encode("utf-8", "replace").decode()
    status, error, _ = upload[0](plain, FILES["pcm_16.wav"].content)
    assert (status, error) == (202, "")
