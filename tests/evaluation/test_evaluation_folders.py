from __future__ import annotations

import math
import os
import unicodedata
from pathlib import Path

import numpy as np
import odd_sounds
import pytest
import soundfile
from scipy.signal import resample_poly

from bcfusion.errors import AudioError, DataError
from bcfusion.evaluation.folders import (
    NO_FILE,
    NOT_MONO,
    OTHER_LENGTH,
    Matched,
    common_rate,
    match_folders,
    score_folders,
)
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.evaluation.utterances import UNREADABLE
from bcfusion.metrics.lsd import Lsd
from bcfusion.metrics.si_sdr import SiSdr

RATE = 16_000


def sound(seconds: float = 0.5, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Return low-passed noise, which resampling does not change."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate) + 64)
    return 0.05 * np.convolve(noise, np.hanning(33), mode="same")[: round(seconds * rate)] / 2


def put(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        os.fsencode(path), samples, rate, "FLOAT" if path.suffix == ".wav" else None, format=path.suffix[1:]
    )


def scored(matched: Matched, **settings: float | bool) -> Scores:
    with Scorer({"si_sdr": SiSdr(), "lsd": Lsd()}, RATE, workers=0) as scorer:
        return score_folders(matched, scorer, RATE, **settings)  # type: ignore[arg-type]


def line(scores: Scores, name: str, system: str = "theirs") -> ItemScore:
    (found,) = (row for row in scores.rows if (row.id, row.system) == (name, system))
    return found


def test_files_are_matched_by_their_path_without_suffix(tmp_path: Path) -> None:
    for name in ("clean/p1/a.flac", "clean/p1/b.c.flac", "clean/p2/a.flac", "clean/p3/x.flac"):
        put(tmp_path / name, sound())
    for name in ("out/p1/a.wav", "out/p1/b.c.wav", "out/p2/a.WAV", "out/p9/z.wav"):
        put(tmp_path / name, sound())
    put(tmp_path / "out/p1/a.flac", sound())
    matched = match_folders(tmp_path / "clean", {"theirs": tmp_path / "out"})
    assert list(matched.references) == ["p1/a", "p1/b.c", "p2/a"]
    assert matched.systems["theirs"]["p2/a"] == tmp_path / "out/p2/a.WAV"
    assert matched.systems["theirs"]["p1/a"].suffix == ".flac"  # the first of two
    assert sorted(line.partition(" (first")[0] for line in matched.notes.lines()) == [
        "1 file: left out, because another one has the same name",
        "1 file: references without an enhanced file, left out",
        "1 file: without a reference, left out",
    ]


def test_names_are_matched_whatever_their_unicode_form(tmp_path: Path) -> None:
    composed, split = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))
    put(tmp_path / f"clean/{composed}/{split}.wav", sound())
    put(tmp_path / f"theirs/{split}/{composed}.wav", sound(seed=1))
    latin = os.fsdecode(b"caf\xe9")
    for folder in ("clean", "theirs"):
        put(tmp_path / folder / f"{latin}.wav", sound())
    matched = match_folders(tmp_path / "clean", {"theirs": tmp_path / "theirs"})
    assert not matched.notes.lines()
    scores = scored(matched)
    assert {row.id: row.skipped for row in scores.rows}[f"{composed}/{composed}"] == {}
    scores.write_csv(tmp_path / "scores.csv")
    assert r"caf\udce9,theirs" in (tmp_path / "scores.csv").read_text(encoding="utf-8")
    put(tmp_path / f"{split}/a.wav", sound())  # so may the folders themselves
    assert list(match_folders(tmp_path / composed, {"theirs": tmp_path / composed}).references) == ["a"]


def test_a_file_of_streams_that_do_not_fit_together_does_not_end_the_scoring(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"clean/{name}.wav", sound())
    put(tmp_path / "out/a.wav", sound(seed=1))
    put(tmp_path / "out/b.ogg", sound())
    put(tmp_path / "other.ogg", sound(), 8000)
    odd_sounds.chain(tmp_path / "out/b.ogg", tmp_path / "out/b.ogg", tmp_path / "other.ogg")
    scores = scored(match_folders(tmp_path / "clean", {"theirs": tmp_path / "out"}))
    assert line(scores, "a").skipped == {}
    assert set(line(scores, "b").skipped.values()) == {UNREADABLE}


def test_a_file_of_another_rate_scores_as_the_same_signal_at_the_rate_of_the_reference(tmp_path: Path) -> None:
    clean = sound(1.0)
    put(tmp_path / "clean/a.wav", clean)
    put(tmp_path / "out/a.wav", resample_poly(clean, 3, 1), 48_000)
    matched = match_folders(tmp_path / "clean", {"theirs": tmp_path / "out"})
    assert common_rate(matched.references) == RATE
    assert line(scored(matched), "a").values["si_sdr"] > 30
    assert any("resampled from 48000 to 16000 Hz" in note for note in matched.notes.lines())


def test_a_small_difference_in_length_is_cut_and_reported_and_a_large_one_is_skipped(tmp_path: Path) -> None:
    clean = sound()
    for name, samples in (("short", clean[:-800]), ("long", np.append(clean, sound(0.05, 1))), ("other", clean[:4000])):
        put(tmp_path / f"clean/{name}.wav", clean)
        put(tmp_path / f"out/{name}.wav", samples + 1e-4 * sound(len(samples) / RATE, 2))
    matched = match_folders(tmp_path / "clean", {"theirs": tmp_path / "out"})
    scores = scored(matched)
    assert line(scores, "short").values["si_sdr"] > 30
    assert line(scores, "long").values["si_sdr"] > 30
    assert set(line(scores, "other").skipped.values()) == {OTHER_LENGTH}
    notes = matched.notes.lines()
    assert f"2 files: cut to the shorter of file and reference (first: {tmp_path}/out/long.wav, +50.00 ms)" in notes
    assert any("by more than 0.1 s, skipped" in note and "0.250 s shorter" in note for note in notes)
    with pytest.raises(DataError, match=r"nothing to score in 3 utterances\n.*long\.wav: 0\.050 s longer"):
        scored(matched, tolerance=0.01)


def test_files_that_cannot_be_compared_are_skipped_with_their_reason(tmp_path: Path) -> None:
    for name in ("good", "stereo", "damaged", "missing", "reference"):
        put(tmp_path / f"clean/{name}.wav", sound())
        put(tmp_path / f"noisy/{name}.wav", sound() + 0.1 * sound(seed=1))
        put(tmp_path / f"out/{name}.wav", sound() + 0.01 * sound(seed=1))
        put(tmp_path / f"second/{name}.wav", sound() + 0.01 * sound(seed=1))
    put(tmp_path / "out/stereo.wav", np.stack([sound(), sound()], axis=1))
    (tmp_path / "out/damaged.wav").write_bytes(b"RIFF not really")
    (tmp_path / "out/missing.wav").unlink()
    (tmp_path / "clean/reference.wav").write_bytes((tmp_path / "clean/good.wav").read_bytes()[:5000])
    folders = {"input": tmp_path / "noisy", "theirs": tmp_path / "out", "second": tmp_path / "second"}
    scores = scored(match_folders(tmp_path / "clean", folders))
    assert scores.systems == ("input", "theirs", "second")
    assert [row.id for row in scores.rows if row.system == "theirs"] == sorted(
        ("good", "stereo", "damaged", "missing", "reference")
    )
    assert line(scores, "good").skipped == {}
    assert set(line(scores, "stereo").skipped.values()) == {NOT_MONO}
    assert set(line(scores, "damaged").skipped.values()) == {UNREADABLE}
    assert set(line(scores, "missing").skipped.values()) == {NO_FILE}
    for system in scores.systems:
        assert set(line(scores, "reference", system).skipped.values()) == {f"reference: {UNREADABLE}"}
        assert scores.count("si_sdr", system) == (1 if system == "theirs" else 4)
    assert all(math.isnan(value) for value in line(scores, "stereo").values.values())


def test_speaker_and_ratio_come_from_the_folder_and_the_noisy_file(tmp_path: Path) -> None:
    speech, noise = sound(), sound(seed=1)
    noise *= np.sqrt((speech**2).mean() / (noise**2).mean())
    put(tmp_path / "clean/p1/a.wav", speech)
    put(tmp_path / "noisy/p1/a.wav", speech + 0.1 * noise)
    put(tmp_path / "out/p1/a.wav", speech + 0.05 * noise)
    folders = {"input": tmp_path / "noisy", "theirs": tmp_path / "out"}
    matched = match_folders(tmp_path / "clean", folders)
    about = line(scored(matched, with_snr=True), "p1/a").info
    assert about["speaker"] == "p1"
    assert float(about["snr"]) == pytest.approx(20.0, abs=0.1)
    assert line(scored(matched), "p1/a").info == {"speaker": "p1", "corpus": "", "snr": ""}


def test_folders_that_cannot_be_scored_are_reported_in_two_lines(tmp_path: Path) -> None:
    put(tmp_path / "clean/a.wav", sound())
    put(tmp_path / "two/a.wav", sound())
    put(tmp_path / "two/b.wav", sound(rate=8000), 8000)
    put(tmp_path / "out/a_enhanced.wav", sound())
    put(tmp_path / "stereo/a.wav", np.stack([sound(), sound()], axis=1))
    (tmp_path / "empty").mkdir()
    clean = tmp_path / "clean"
    with pytest.raises(DataError, match=r"out has a_enhanced, .*clean has a\n") as names:
        match_folders(clean, {"theirs": tmp_path / "out"})
    with pytest.raises(AudioError, match=r"no audio in .*empty") as empty:
        match_folders(clean, {"theirs": tmp_path / "empty"})
    with pytest.raises(DataError, match="is a file") as file:
        match_folders(clean / "a.wav", {"theirs": tmp_path / "two"})
    with pytest.raises(DataError, match=r"8000 Hz\n.*sample_rate=8000") as rates:
        common_rate(match_folders(tmp_path / "two", {"theirs": tmp_path / "two"}).references)
    with pytest.raises(DataError, match=r"has 2 channels: give mono files") as channels:
        scored(match_folders(clean, {"theirs": tmp_path / "stereo"}))
    for error in (names, empty, file, rates, channels):
        assert len(str(error.value).splitlines()) <= 2


def test_files_whose_header_states_no_length_are_scored_and_reported(tmp_path: Path) -> None:
    put(tmp_path / "clean/a.wav", sound())
    (tmp_path / "out").mkdir()
    unfinished = tmp_path / "out/a.wav"
    put(unfinished, sound() + 0.01 * sound(seed=1))
    content = bytearray(unfinished.read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = bytes(4)
    unfinished.write_bytes(content)
    matched = match_folders(tmp_path / "clean", {"theirs": tmp_path / "out"})
    assert scored(matched).count("si_sdr", "theirs") == 1
    assert any(
        "length that its header does not state" in text and str(unfinished) in text for text in matched.notes.lines()
    )
