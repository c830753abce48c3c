from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from bcfusion.commands.prepare import main as prepare
from bcfusion.contracts import Corpus
from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.pairs import PairsCorpus
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.errors import ConfigError

RATE = 16000


@pytest.fixture(scope="module")
def voices(speech: Path) -> list[np.ndarray]:
    return [soundfile.read(file)[0] for file in sorted(speech.rglob("*.flac"))]


def record(folder: Path, name: str, air: np.ndarray, late: int, polarity: int, other: np.ndarray | None = None) -> None:
    low = signal.sosfilt(signal.butter(2, 800, fs=RATE, output="sos"), air if other is None else other)
    for side, samples in (("air", air), ("body", polarity * np.roll(low, late))):
        (folder / side / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / side / name, samples, RATE)


def reported(corpus: Corpus, caplog: pytest.LogCaptureFixture) -> tuple[str, str]:
    """Return level and text of what the start of a run reports about the alignment; empty without a report."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        SpeechDataModule(corpus, {}, ["body"], RATE).setup("fit")
    found = [(entry.levelname, entry.getMessage()) for entry in caplog.records if "lag and polarity" in entry.message]
    assert len(found) <= 1
    return found[0] if found else ("", "")


def test_pairs_that_are_late_and_inverted_are_reported_with_a_cure_that_works(
    tmp_path: Path, voices: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    for place, split in enumerate(("train", "train", "valid")):
        record(tmp_path, f"{split}/{place}.wav", voices[place], 48, -1)
    sides = str(tmp_path / "body"), str(tmp_path / "air")
    level, text = reported(PairsCorpus(*sides), caplog)
    assert level == "WARNING"
    assert "train, 2 of 2 recordings: body: lag +3.0" in text
    assert "valid, 1 of 1 recordings: body: lag +3.0" in text
    assert "inverted in 2 of 2" in text
    constant = re.search(r"the same for all files: data.polarity=(\S+) data.lag=(\S+)", text)
    assert constant is not None
    level, text = reported(PairsCorpus(*sides, polarity=int(constant[1]), lag=float(constant[2])), caplog)
    assert level == "INFO", text


def test_lags_that_differ_are_measured_for_each_file_with_the_command_that_is_shown(
    tmp_path: Path, voices: list[np.ndarray], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, (split, late) in enumerate((("train", 48), ("train", -32), ("valid", 0))):
        record(tmp_path, f"{split}/{place}.wav", voices[place], late, -1)
    level, text = reported(PairsCorpus("body", "air"), caplog)
    assert level == "WARNING"
    assert "the same for all files: data.polarity=-1" in text
    assert "data.lag=" not in text
    command = re.search(r"measured for each file: bcfusion prepare (.*);", text)
    assert command is not None
    assert prepare([*shlex.split(command[1]), "--workers", "1"]) == 0
    level, text = reported(ManifestCorpus("pairs.jsonl"), caplog)
    assert level == "INFO", text
    manifest = Path("pairs.jsonl")
    manifest.write_text(manifest.read_text().replace('"polarity": -1', '"polarity": 1'))
    level, text = reported(ManifestCorpus("pairs.jsonl"), caplog)
    assert level == "WARNING"
    assert "bcfusion inspect pairs.jsonl --fix" in text


def test_pairs_that_are_no_pairs_are_uncertain(
    tmp_path: Path, voices: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    for place, split in enumerate(("train", "valid")):
        record(tmp_path, f"{split}/{place}.wav", voices[place], 0, 1, voices[place + 2][::-1])
    level, text = reported(PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air")), caplog)
    assert level == "WARNING"
    assert "uncertain: other takes than those of air" in text
    assert "data.lag" not in text


def test_a_lag_in_milliseconds_and_a_polarity_of_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lag=53 must be from -10 to 10(.|\n)*polarity=0 must be one of 1, -1"):
        PairsCorpus(str(tmp_path), str(tmp_path), lag=53, polarity=0)
