"""``bcfusion enhance``, ended at any moment by any signal, leaves whole files or none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from bcfusion.commands import exit_status
from bcfusion.commands.enhance import main
from bcfusion.files import appearing, in_use, remove_leftovers
from bcfusion.generators.seanet import SEANet
from bcfusion.run.bundle import save_bundle

RATE = 16000
SECONDS = 20
FILES = [f"{name}.wav" for name in "abc"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {"channels": 4, "strides": [2, 4], "dilations": [1, 3], "bottleneck_channels": 8}
    torch.manual_seed(0)
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **arguments}
    save_bundle(tmp_path / "model", SEANet(**arguments), config, ["body"], {})
    (tmp_path / "rec").mkdir()
    for name in FILES:
        soundfile.write(f"rec/{name}", np.zeros(SECONDS * RATE), RATE)
    return "model"


def names(folder: str = "out") -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "later"),  # seconds after the second file was begun
    [
        (signal.SIGKILL, 0.0),
        (signal.SIGKILL, 0.2),
        (signal.SIGTERM, 0.05),
        (signal.SIGINT, 0.0),
        (signal.SIGHUP, 0.1),
    ],
)
def test_outputs_are_whole_at_any_end_and_the_next_call_cleans_up_and_continues(
    model: str, number: signal.Signals, later: float, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--output", "out", "--chunk", "0.5", "--report", "r.jsonl"]
    command = [sys.executable, "-m", "bcfusion", "enhance", model, "rec", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    printed = b""
    while b"[2/3]" not in printed:  # the second file is begun: a second or two of work are left
        more = os.read(process.stdout.fileno(), 1 << 16)
        assert more, printed
        printed += more
    time.sleep(later)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert said == b""
    left = names()
    whole = [name for name in left if not name.startswith(".")]
    assert FILES[0] in whole
    for name in whole:
        assert soundfile.info(f"out/{name}").frames == SECONDS * RATE
    assert len(left) - len(whole) <= (number == signal.SIGKILL)
    targets = [f"out/{name}" for name in FILES]
    reported = [json.loads(line)["target"] for line in Path("r.jsonl").read_text().splitlines()]
    assert reported == targets[: len(reported)]
    assert len(whole) - len(reported) in (0, 1)  # a file appears just before its row

    for name in left:
        if name.startswith("."):
            os.utime(f"out/{name}", (0, 0))  # as if some time had gone by
    assert exit_status(main, [model, "rec", *options]) == 2  # some exist
    assert names() == FILES
    assert all(soundfile.info(f"out/{name}").frames == SECONDS * RATE for name in FILES)
    rows = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert sorted(row["target"] for row in rows) == targets  # each once
    assert [row["target"] for row in rows if row["status"] == "exists"] == targets[len(reported) : len(whole)]
    capsys.readouterr()


def test_only_what_nobody_writes_any_more_is_a_leftover(tmp_path: Path) -> None:
    target, other = tmp_path / "a.wav", tmp_path / "other.wav"
    left = tmp_path / ".a.wav.0123abcd.part"
    for path in (
        left,
        tmp_path / ".other.wav.0123abcd.part",
        tmp_path / ".a.wav.part",
        tmp_path / ".a.wav.0123abcd.old",
    ):
        path.touch()
        os.utime(path, (0, 0))
    young = tmp_path / ".a.wav.aaaaaaaa.part"
    young.touch()
    with appearing(target) as part, in_use(part):
        os.utime(part, (0, 0))
        assert remove_leftovers([target, tmp_path / "no" / "folder.wav"]) == [left]
        assert part.exists()
    assert target.exists()
    assert young.exists()
    assert remove_leftovers([other]) == [tmp_path / ".other.wav.0123abcd.part"]
