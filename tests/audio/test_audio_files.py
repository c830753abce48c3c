from __future__ import annotations

import math
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bcfusion import audio
from bcfusion.audio import AudioFormatError, UnreadableAudio
from bcfusion.audio.opening import EncodedAudio
from bcfusion.errors import AudioError


def noise(frames: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, frames)).astype(np.float32)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def one_line(error: pytest.ExceptionInfo[AudioError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize(("name", "subtype", "error"), [("a.wav", "FLOAT", 0.0), ("a.flac", "PCM_24", 2**-23)])
def test_what_is_written_is_read_again_and_only_the_part_that_is_asked_for(
    tmp_path: Path, name: str, subtype: str, error: float
) -> None:
    samples = noise(4000, channels=2)
    audio.write(tmp_path / name, samples, 16000, subtype)
    whole, rate = audio.read(tmp_path / name)
    part, _ = audio.read(tmp_path / name, 1234, 567)
    assert rate == 16000
    assert whole.dtype == np.float32
    assert np.abs(whole - samples).max() <= error
    assert np.array_equal(part, whole[:, 1234:1801])
    assert audio.info(tmp_path / name) == audio.AudioInfo(str(tmp_path / name), 4000, 16000, 2)
    assert audio.info(tmp_path / name).duration == 0.25


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3"])
def test_a_part_of_a_compressed_file_equals_the_same_part_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    rate = 48000
    if suffix == "opus":
        soundfile.write(path, noise(rate)[0], rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, noise(rate)[0], rate)
    whole, _ = audio.read(path)
    part, _ = audio.read(path, 20000, 3000)
    assert np.abs(part - whole[:, 20000:23000]).max() < 1e-6


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    audio.write(path, noise(100), 16000)
    before = path.read_bytes()
    with pytest.raises(AudioError, match="NaN"):
        audio.write(path, np.full(100, np.nan), 16000)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(AudioError, match="cannot write"):
        audio.write(tmp_path / "folder.wav", noise(100), 16000)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.wav", "folder.wav"]


def test_writing_clips_instead_of_wrapping_around(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", np.array([1.5, -1.5]), 16000)
    assert audio.read(tmp_path / "a.wav")[0][0] == pytest.approx([1, -1], abs=1e-4)


@pytest.mark.parametrize(("name", "subtype"), [("a.mp3", "PCM_16"), ("a.flac", "FLOAT"), ("a", "PCM_16")])
def test_formats_that_cannot_be_written_are_refused_by_name(tmp_path: Path, name: str, subtype: str) -> None:
    with pytest.raises(AudioError, match=name):
        audio.write(tmp_path / name, noise(10), 16000, subtype)


def test_a_cut_wav_is_found_by_its_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    audio.write(path, noise(16000), 16000)
    cut(path, 0.5)
    with pytest.raises(UnreadableAudio) as error:
        audio.info(path)
    assert "promises 16000 samples, 7989 are there" in one_line(error, path)
    with pytest.raises(UnreadableAudio, match="truncated"):
        audio.read(path, 0, 100)
    cut(path, 0.002)
    with pytest.raises(UnreadableAudio):
        audio.info(path)


def test_a_cut_flac_is_found_when_the_missing_part_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    audio.write(path, noise(48000), 16000)
    cut(path, 0.5)
    for start, frames in ((0, None), (40000, 100)):
        with pytest.raises(UnreadableAudio) as error:
            audio.read(path, start, frames)
        assert "truncated" in one_line(error, path)
    assert audio.read(path, 0, 1000)[0].shape == (1, 1000)


def test_a_cut_mp3_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(48000)[0], 16000)
    cut(path, 0.5)
    with pytest.raises(UnreadableAudio, match="truncated"):
        audio.read(path)


def test_a_wav_that_was_streamed_and_does_not_know_its_length_is_not_called_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    audio.write(path, noise(1000), 16000)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    content[4:8] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert audio.read(path)[0].shape == (1, 1000)


@pytest.mark.parametrize("content", [b"", b"no sound at all", b"RIFF\x00\x00\x00\x00WAVE"])
def test_a_file_that_is_no_sound_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(UnreadableAudio) as error:
        audio.read(path)
    one_line(error, path)
    assert error.value.path == str(path)


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    audio.write(tmp_path / "speech_01.wav", noise(10), 16000)
    with pytest.raises(AudioError, match=r"speech_1\.wav does not exist; did you mean .*speech_01\.wav"):
        audio.read(tmp_path / "speech_1.wav")
    with pytest.raises(AudioError, match="did you mean"):
        audio.find_audio(tmp_path / "speech_1.wav")


def test_samples_that_are_not_numbers_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = noise(100)
    samples[0, [7, 20]] = np.nan, np.inf
    soundfile.write(path, samples[0], 16000, subtype="FLOAT")
    with pytest.raises(UnreadableAudio, match="2 of them, the first at sample 7"):
        audio.read(path)
    assert audio.read(path, 30, 10)[0].shape == (1, 10)


def test_the_error_of_a_worker_process_keeps_its_path() -> None:
    error = pickle.loads(pickle.dumps(UnreadableAudio("broken", "a.wav")))
    assert (str(error), error.path) == ("broken", "a.wav")


def test_reading_past_the_end_is_an_error(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", noise(100), 16000)
    with pytest.raises(AudioError, match="has 100 samples"):
        audio.read(tmp_path / "a.wav", 50, 51)


def test_a_tone_above_the_new_band_is_over_140_db_down_and_one_inside_is_kept() -> None:
    time = torch.arange(48000, dtype=torch.float64) / 48000
    alias = audio.resample(torch.sin(2 * math.pi * 9000 * time), 48000, 16000)[2000:-2000]
    kept = audio.resample(torch.sin(2 * math.pi * 6000 * time), 48000, 16000)[2000:-2000]
    assert 20 * math.log10(float(alias.std()) * math.sqrt(2)) < -140
    assert 20 * math.log10(float(kept.std()) * math.sqrt(2)) == pytest.approx(0, abs=0.01)


def test_resampling_first_without_gradients_does_not_forbid_them_later() -> None:
    with torch.inference_mode():
        audio.resample(torch.randn(50), 22050, 16000)
    x = torch.randn(50, requires_grad=True)
    audio.resample(x, 22050, 16000).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("rate", [48000, 44100, 16001, 8000])
@pytest.mark.parametrize("start", [0, 1, 5003, 14999])
def test_a_resampled_span_equals_the_same_cut_of_the_resampled_file(tmp_path: Path, rate: int, start: int) -> None:
    path = tmp_path / "a.wav"
    audio.write(path, noise(rate), rate, "FLOAT")
    whole = audio.resample(torch.from_numpy(noise(rate)), rate, 16000).numpy()
    span = audio.read_span(path, start, 1000, 16000)
    assert np.abs(span - whole[:, start : start + 1000]).max() < 1e-6


@pytest.mark.parametrize(
    ("from_rate", "to_rate"),
    [(48000, 16000), (44100, 16000), (16000, 22050), (8000, 8000), (16001, 16000), (7418, 16000)],
)
def test_a_signal_resampled_in_pieces_equals_the_whole(from_rate: int, to_rate: int) -> None:
    signal = torch.from_numpy(noise(2 * from_rate))
    whole = audio.resample(signal, from_rate, to_rate)
    change = audio.RateChange(from_rate, to_rate)
    assert change.length(signal.shape[1]) == whole.shape[1]
    for start in range(0, whole.shape[1], 3001):
        stop = min(start + 3001, whole.shape[1])
        first, last, skip = change.window(start, stop, signal.shape[1])
        piece = audio.resample(signal[:, first:last], from_rate, to_rate)[:, skip : skip + stop - start]
        torch.testing.assert_close(piece, whole[:, start:stop], atol=1e-6, rtol=0)


def test_a_span_beyond_the_file_is_zero_within_the_slack_and_an_error_past_it(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = noise(100)
    audio.write(path, samples, 16000, "FLOAT")
    span = audio.read_span(path, -3, 108, 16000, slack=5)
    assert np.array_equal(span, np.pad(samples, ((0, 0), (3, 5))))
    with pytest.raises(UnreadableAudio, match="were requested"):
        audio.read_span(path, -3, 109, 16000, slack=5)


def test_another_rate_is_refused_with_both_rates_if_resampling_is_off(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", noise(100), 8000)
    with pytest.raises(AudioFormatError, match=r"a\.wav is sampled at 8000 Hz, the task at 16000 Hz"):
        audio.read_span(tmp_path / "a.wav", 0, 10, 16000, may_resample=False)


def test_files_folders_and_patterns_are_found_once_and_sorted(tmp_path: Path) -> None:
    for name in ("b.wav", "deep/er/a.FLAC", "deep/c.mp3", ".hidden.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ("b.wav", "deep/c.mp3", "deep/er/a.FLAC")]
    assert audio.find_audio(tmp_path) == expected
    assert audio.find_audio([tmp_path / "b.wav", f"{tmp_path}/*.wav", str(tmp_path / "deep")]) == expected
    assert audio.find_audio(f"{tmp_path}/deep/*/*") == [tmp_path / "deep/er/a.FLAC"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.wav").touch()
    (tmp_path / "corpus/speaker").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "corpus")
    assert audio.find_audio(tmp_path / "corpus") == [tmp_path / "corpus/speaker/a.wav"]


def test_a_search_without_result_says_where(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for given in (tmp_path, f"{tmp_path}/*.wav", tmp_path / "notes.txt", tmp_path / "nowhere/at/all.wav"):
        with pytest.raises(AudioError, match=str(tmp_path)):
            audio.find_audio(given)


@pytest.mark.slow
def test_reading_files_does_not_load_torch() -> None:
    code = "import sys, bcfusion.audio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("suffix", ["wave", "aiff", "aif", "oga", "w64", "rf64", "caf", "au", "snd", "sph"])
def test_what_libsndfile_reads_is_found_whatever_its_suffix(tmp_path: Path, suffix: str) -> None:
    kinds = {"wave": "WAV", "aif": "AIFF", "oga": "OGG", "snd": "AU", "sph": "NIST"}
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(2000)[0], 16000, format=kinds.get(suffix, suffix.upper()))
    assert audio.find_audio(tmp_path) == list(audio.walk(tmp_path)) == [path]
    assert audio.info(path).frames == 2000
    assert audio.read(path)[0].shape == (1, 2000)


def test_sound_that_cannot_be_read_is_named_with_its_number_and_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audio.write(tmp_path / "a.wav", noise(10), 16000)
    for name in ("deep/b.m4a", "c.M4A", "d.wma", ".hidden.m4a", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    left_out = "2 .m4a, 1 .wma cannot be read: convert them to FLAC or WAV, for example with ffmpeg -i FILE FILE.flac"
    for _ in range(2):  # said once
        assert audio.find_audio(tmp_path) == [tmp_path / "a.wav"]
        assert list(audio.walk(tmp_path)) == [tmp_path / "a.wav"]
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: left out: {left_out}"]
    for given in (tmp_path / "deep", f"{tmp_path}/*.M4A", tmp_path / "c.M4A"):
        with pytest.raises(AudioError, match=r"1 \.m4a cannot be read: convert them to FLAC or WAV"):
            audio.find_audio(given)


@pytest.mark.parametrize("content", [b"", bytes.fromhex("00051607 00020000") + bytes(4000)], ids=["empty", "forked"])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "a.sph"])
def test_what_macos_leaves_on_a_drive_is_no_sound_and_breaks_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write(name, noise(4000).T, 16000, format="NIST" if name == "a.sph" else None)
    before, _ = audio.read(name)
    assert audio.info(name).frames == before.shape[1] == 4000
    for path in ("._", f"._{name}"):
        Path(path).write_bytes(content)
        after, _ = audio.read(name)
        np.testing.assert_array_equal(after, before)
        assert audio.find_audio(".") == audio.find_audio("*.*") == [Path(name)]
        with pytest.raises(AudioError, match="no audio matches"):
            audio.find_audio("._*")
        Path(path).unlink()


def test_the_one_file_that_breaks_an_mp3_in_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.mp3", noise(4000).T, 16000)
    held = EncodedAudio("a.mp3", Path("a.mp3").read_bytes())
    assert audio.info(held).frames == 4000
    Path("._").touch()
    with pytest.raises(UnreadableAudio, match=r"takes \._ in the working directory for a part of it"):
        audio.info(held)
