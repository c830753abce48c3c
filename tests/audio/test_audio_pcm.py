"""Ordinary WAV files are read without libsndfile, to the same samples; and what is opened and read for a segment."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bcfusion import audio
from bcfusion.audio import opening
from bcfusion.audio.opening import EncodedAudio, open_sound, part
from bcfusion.audio.pcm import PlainSound
from bcfusion.audio.sound import Decoder

RATE = 16000
SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT")


def noise(count: int, channels: int = 1) -> np.ndarray:
    samples = np.random.default_rng(count).uniform(-1.0, 1.0, (count, channels))
    samples[:2] = [[-1.0], [1.0]]  # the largest integers
    return samples


def is_plain(path: str | Path) -> bool:
    with open_sound(path) as sound:
        return isinstance(sound, PlainSound)


def chunks(path: Path) -> dict[bytes, bytes]:
    """Return the chunks of a RIFF file."""
    content, place, found = path.read_bytes(), 12, {}
    while place + 8 <= len(content):
        (size,) = struct.unpack_from("<I", content, place + 4)
        found[content[place : place + 4]] = content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    return found


def written(path: Path, parts: list[tuple[bytes, bytes]]) -> Path:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in parts)
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    return path


@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_every_sample_and_the_header_are_what_libsndfile_reads(
    tmp_path: Path, container: str, subtype: str, channels: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1001, channels), RATE, subtype, format=container)
    assert is_plain(path)
    for start, frames in ((0, 1001), (0, 1), (1000, 1), (317, 500), (20, 0)):
        expected, rate = soundfile.read(path, frames, start, dtype="float32", always_2d=True)
        samples, own = audio.read(path, start, frames)
        assert samples.dtype == np.float32
        assert own == rate
        np.testing.assert_array_equal(samples, expected.T)
    header = soundfile.info(str(path))
    assert audio.info(path) == audio.AudioInfo(str(path), header.frames, header.samplerate, header.channels)
    assert (audio.info(path).format, audio.info(path).subtype) == (header.format, header.subtype)
    content = path.read_bytes()
    archive = tmp_path / "archive"
    archive.write_bytes(b"before" + content + b"after")
    for elsewhere in (part(archive, 6, len(content)), EncodedAudio("a", content)):
        assert is_plain(elsewhere)
        np.testing.assert_array_equal(audio.read(elsewhere)[0], audio.read(path)[0])


def test_chunks_around_the_samples_are_passed_over(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(333), RATE)
    found = chunks(tmp_path / "a.wav")
    large = b"\xff" * 5001  # odd, and longer than what is read of a header at once
    order = [(b"junk", large), (b"fmt ", found[b"fmt "]), (b"fact", bytes(4)), (b"data", found[b"data"][:-1])]
    path = written(tmp_path / "b.wav", [*order, (b"afsp", large)])
    assert is_plain(path)
    expected, _ = soundfile.read(path, dtype="float32")
    assert len(expected) == 332
    np.testing.assert_array_equal(audio.read(path)[0][0], expected)


@pytest.mark.parametrize("subtype", ["PCM_U8", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_other_encodings_are_left_to_libsndfile(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "a.wav", 0.9 * noise(2000), RATE, subtype)
    assert not is_plain(tmp_path / "a.wav")
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0][0], expected)


@pytest.mark.parametrize(
    ("place", "code", "value"),
    [(14, "<H", 20), (12, "<H", 3), (2, "<H", 0), (4, "<I", 0), (18, "<H", 12), (32, "B", 1)],
)
def test_a_header_that_is_not_as_usual_is_left_to_libsndfile(tmp_path: Path, place: int, code: str, value: int) -> None:
    soundfile.write(tmp_path / "a.wav", noise(100), RATE, format="WAVEX")
    found = chunks(tmp_path / "a.wav")
    form = bytearray(found[b"fmt "])
    struct.pack_into(code, form, place, value)
    path = written(tmp_path / "b.wav", [(b"fmt ", bytes(form)), (b"data", found[b"data"])])
    try:
        expected, _ = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError:
        with pytest.raises(audio.UnreadableAudio, match="cannot read"):
            audio.read(path)
        return
    assert not is_plain(path)
    np.testing.assert_array_equal(audio.read(path)[0][0], expected)


def test_a_file_that_shrinks_while_it_is_open_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(5000), RATE)
    with open_sound(path) as sound:
        os.truncate(path, 5044)
        assert len(sound.read(0, 5000)) == 2500
    with pytest.raises(audio.UnreadableAudio, match="is truncated"):
        audio.read(path)


def read_bytes() -> int:
    """Return the bytes that this process has read, from files and from what the system keeps of them."""
    line = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


def bytes_of(act: Callable[[], object]) -> int:
    """Return the bytes that are read by a call, without those of this measurement."""
    counts = [read_bytes(), read_bytes()]
    act()
    counts.append(read_bytes())
    return counts[2] - 2 * counts[1] + counts[0]


@pytest.mark.parametrize("kind", ["wav", "flac", "opus"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_segment_costs_one_opening_and_no_more_bytes_than_libsndfile_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, inside: bool
) -> None:
    path = tmp_path / f"a.{kind}"
    container, subtype = ("OGG", "OPUS") if kind == "opus" else (kind.upper(), "PCM_16")
    soundfile.write(path, 0.3 * noise(60 * RATE), RATE, format=container, subtype=subtype)
    name = str(path)
    if inside:
        (tmp_path / "train.tar").write_bytes(bytes(1000) + path.read_bytes() + bytes(1000))
        name = part(tmp_path / "train.tar", 1000, path.stat().st_size)
    start, frames = 20 * RATE, 2 * RATE

    def alone() -> None:
        with soundfile.SoundFile(path) as sound:
            sound.seek(start)
            sound.read(frames, dtype="float32")

    audio.read_span(name, 0, frames, RATE)  # the pages of an Ogg file are counted once
    opened: list[object] = []
    decoded: list[object] = []
    system = os.open

    def counted(*given: Any) -> int:
        opened.append(given[0])
        return system(*given)

    class Counted(Decoder):
        def __init__(self, file: Any, **given: Any) -> None:
            decoded.append(file)
            super().__init__(file, **given)

    monkeypatch.setattr(os, "open", counted)
    monkeypatch.setattr(opening, "Decoder", Counted)
    assert bytes_of(lambda: audio.read_span(name, start, frames, RATE)) <= bytes_of(alone) + 512
    assert len(opened) == 1
    assert len(decoded) == (kind != "wav")
    # libsndfile opens nothing: it is given the descriptor, or reads through a view
    assert not any(isinstance(file, (str, bytes)) for file in decoded)
