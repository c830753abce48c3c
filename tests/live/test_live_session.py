from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, lfilter

from bcfusion import audio
from bcfusion.contracts import Row
from bcfusion.data.corpora.demo_speech import draw_voice, utterance
from bcfusion.data.corpora.manifest import read_manifest, write_manifest
from bcfusion.errors import DataError
from bcfusion.live.prompts import SENTENCES, read_prompts
from bcfusion.live.session import Session
from bcfusion.live.takes import Judged, judge

RATE = 16000
LAG = 40  # samples


def spoken(seed: int = 0, seconds: float = 2.5) -> dict[str, np.ndarray]:
    """Return a sentence as an inverted, late body sensor and a microphone hear it."""
    rng = np.random.default_rng(seed)
    air, _ = utterance(draw_voice(0.4, np.random.default_rng(7)), seconds, RATE, rng)
    body = -0.5 * np.roll(lfilter(*butter(2, 900, fs=RATE), air), LAG)
    body += 1e-4 * rng.standard_normal(len(air))
    return {"body": body.astype(np.float32), "air": air.astype(np.float32)}


@pytest.fixture(scope="module")
def sentence() -> dict[str, np.ndarray]:
    return spoken()


def faults(judged: Judged) -> list[str]:
    return [fault.what for fault in judged.faults if fault.severe]


def test_a_good_sentence_has_no_fault_and_its_lag_and_polarity(sentence: dict[str, np.ndarray]) -> None:
    judged = judge(sentence, RATE)
    assert faults(judged) == []
    assert judged.levels["air"] == pytest.approx(-23, abs=2)
    assert judged.alignment is not None
    assert judged.alignment.polarity == -1
    assert judged.alignment.lag_seconds == pytest.approx(LAG / RATE, abs=3e-4)


def test_bad_sentences_are_found_out(sentence: dict[str, np.ndarray]) -> None:
    body, air = sentence["body"], sentence["air"]
    loud = np.clip(20 * air, -0.99, 0.99)

    def found(body: np.ndarray, air: np.ndarray, overruns: int = 0) -> str:
        judged = judge({"body": body, "air": air}, RATE, overruns)
        assert judged.useless
        return "; ".join(faults(judged))

    assert "silent (body" in found(np.zeros_like(body), air)
    assert "clipped (air" in found(body, loud)
    assert "samples are those of air" in found(air, air)
    assert "air is a copy of body at another level" in found(-0.3 * air, air)
    assert "the channels are swapped" in found(air, body)
    assert "nothing was recorded" in found(body[:0], air[:0])
    assert "shorter than 0.1 s" in found(body[:100], air[:100])
    assert "lost samples (2 times)" in found(body, air, overruns=2)
    quiet = judge({"body": 0.01 * body, "air": air}, RATE)
    assert not quiet.useless
    assert "very quiet (body" in quiet.faults[0].what


def test_a_folder_grows_and_is_continued(tmp_path: Path, sentence: dict[str, np.ndarray]) -> None:
    folder = tmp_path / "pairs"
    session = Session(folder, ["body", "air"], RATE, "anna", "train")
    judged = judge(sentence, RATE)
    for text in ("One.", "Two.", "Three."):
        session.add(text, sentence, judged)
    lines = read_manifest(folder / "pairs.jsonl")
    assert [line.id for line in lines] == ["anna/001", "anna/002", "anna/003"]
    assert [line.extra["text"] for line in lines] == ["One.", "Two.", "Three."]
    assert {(line.polarity, line.speaker, line.split) for line in lines} == {(-1, "anna", "train")}
    assert all(line.lag == pytest.approx(LAG / RATE, abs=3e-4) for line in lines)
    written, rate = soundfile.read(folder / "body" / "anna" / "002.wav", dtype="float32")
    assert (rate, soundfile.info(folder / "air" / "anna" / "002.wav").subtype) == (RATE, "PCM_24")
    np.testing.assert_allclose(written, sentence["body"], atol=2**-23)

    again = Session(folder, ["body", "air"], RATE, "anna", "train")
    assert again.done == {"One.", "Two.", "Three."}
    assert (again.recorded, again.alignment()) == (0, None)
    again._name = "another sitting"
    plus = {"body": -sentence["body"], "air": sentence["air"]}
    again.add("Four.", plus, judge(plus, RATE))
    assert again.recorded == 1
    other = Session(folder, ["body", "air"], RATE, "ben", "train")
    assert other.done == set()
    kept = (folder / "pairs.jsonl").read_bytes()
    (folder / "air" / "anna" / "004.wav").rename(folder / "away.wav")
    with pytest.raises(DataError, match=r"the recordings of anna/004 cannot be read \(1 in all\): restore the files"):
        Session(folder, ["body", "air"], RATE, "anna", "train")
    assert (folder / "pairs.jsonl").read_bytes() == kept
    (folder / "away.wav").rename(folder / "air" / "anna" / "004.wav")
    other.add("One.", sentence, judged)
    lines = read_manifest(folder / "pairs.jsonl")
    assert [(line.id, line.polarity) for line in lines][-2:] == [("anna/004", 1), ("ben/001", -1)]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_folder_is_continued_wherever_the_first_sentence_was_ended(
    tmp_path: Path, sentence: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    folder, judged = tmp_path / "pairs", judge(sentence, RATE)
    files = 0

    def until_killed(*arguments: Any) -> None:
        nonlocal files
        if files == written:
            raise KeyboardInterrupt
        files += 1
        audio.write(*arguments)

    def manifest_until_killed(path: Path, rows: list[Row]) -> None:
        if rows:
            raise KeyboardInterrupt
        write_manifest(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr("bcfusion.live.session.audio", SimpleNamespace(write=until_killed))
        patch.setattr("bcfusion.live.session.write_manifest", manifest_until_killed)
        with pytest.raises(KeyboardInterrupt):
            Session(folder, ["body", "air"], RATE, "anna", "train").add("One.", sentence, judged)
    assert len(list(folder.rglob("*.wav"))) == written
    again = Session(folder, ["body", "air"], RATE, "anna", "train")
    assert (again.rows, again.done) == ([], set())
    again.add("One.", sentence, judged)
    assert [line.id for line in read_manifest(folder / "pairs.jsonl")] == ["anna/001"]
    assert len(list(folder.rglob("*.wav"))) == 2


def test_a_folder_is_continued_that_holds_a_manifest_just_begun(tmp_path: Path) -> None:
    (tmp_path / ".pairs.jsonl.0123abcd.part").touch()
    assert Session(tmp_path, ["body", "air"], RATE, "anna", "train").rows == []
    (tmp_path / "body" / "anna").mkdir(parents=True)
    (tmp_path / "body" / "anna" / "001.wav").touch()  # somebody's own: would be overwritten
    with pytest.raises(DataError, match="holds something else than recordings"):
        Session(tmp_path, ["body", "air"], RATE, "anna", "train")


def test_other_sensors_another_rate_and_another_folder_are_refused(
    tmp_path: Path, sentence: dict[str, np.ndarray]
) -> None:
    Session(tmp_path / "a", ["body", "air"], RATE, "anna", "train").add("One.", sentence, judge(sentence, RATE))
    with pytest.raises(DataError, match=r"has air, body, and --channels has air, temple"):
        Session(tmp_path / "a", ["temple", "air"], RATE, "anna", "train")
    with pytest.raises(DataError, match="give --sample-rate 16000, or another --output"):
        Session(tmp_path / "a", ["body", "air"], 48000, "anna", "train")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else than recordings"):
        Session(tmp_path / "b", ["body", "air"], RATE, "anna", "train")


def test_the_sentences_are_many_different_and_rich() -> None:
    assert len(SENTENCES) >= 40
    assert len(set(SENTENCES)) == len(SENTENCES)
    assert all(5 <= len(sentence.split()) <= 14 for sentence in SENTENCES)
    text = " ".join(SENTENCES).lower()
    assert set("abcdefghijklmnopqrstuvwxyz") <= set(text)
    for sound in ("sh", "ch", "th", "ng", "j", "z", "v", "oy", "ow", "ai", "ea", "oo", "easure", "azure"):
        assert len(re.findall(sound, text)) >= 1, sound
    assert text.count("sh") > 10


def test_sentences_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sentences.txt"
    file.write_text("# mine\n\n  Guten   Tag.\nWie geht's?\n")
    assert read_prompts(file) == ("Guten Tag.", "Wie geht's?")
    file.write_text("# mine\n")
    with pytest.raises(DataError, match="holds no sentence"):
        read_prompts(file)
    file.write_text("One.\nOne.\n")
    with pytest.raises(DataError, match=r"a sentence twice: One\."):
        read_prompts(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_prompts(file)
    with pytest.raises(DataError, match="No such file"):
        read_prompts(tmp_path / "none.txt")
