"""Files whose headers do not tell their length are read whole, or what is missing is named."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import odd_sounds as made
import pytest
import soundfile
from odd_sounds import RATE, sounds

from bcfusion import audio
from bcfusion.audio import AudioFormatError, EncodedAudio, UnreadableAudio
from bcfusion.audio.messages import without_decoder_messages
from bcfusion.audio.opening import open_sound

FRAMES = 2 * RATE + 77
ODD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "mp3 of variable bit rate": (lambda p: made.mp3(p / "a.mp3", FRAMES, header=False), "no header states"),
    "mp3 of constant bit rate": (lambda p: made.mp3(p / "a.mp3", FRAMES, "CONSTANT", False), "no header states"),
    "piped flac": (lambda p: made.piped_flac(p / "a.flac", FRAMES), "states no length"),
    "wav 0": (lambda p: made.unfinished(p / "a.wav", FRAMES, 0), "states no length"),
    "wav -1": (lambda p: made.unfinished(p / "a.wav", FRAMES, -1), "states no length"),
    "wav float": (lambda p: made.unfinished(p / "a.wav", FRAMES, 0, "FLOAT"), "states no length"),
    "rf64 0": (lambda p: made.unfinished(p / "a.rf64", FRAMES, 0), "states no length"),
    "rf64 -1": (lambda p: made.unfinished(p / "a.rf64", FRAMES, -1), "states no length"),
    "w64 0": (lambda p: made.unfinished(p / "a.w64", FRAMES, 0), "states no length"),
    "aiff 8": (lambda p: made.unfinished(p / "a.aiff", FRAMES, 8), "states no length"),
    "aiff 0x7f000008": (lambda p: made.unfinished(p / "a.aiff", FRAMES, 0x7F000008), "states no length"),
    "caf -1": (lambda p: made.unfinished(p / "a.caf", FRAMES, -1), "states no length"),
    "au 0": (lambda p: made.unfinished(p / "a.au", FRAMES, 0), "states no length"),
    "au -1": (lambda p: made.unfinished(p / "a.au", FRAMES, -1), "states no length"),
}


def whole(path: Path) -> np.ndarray:
    return audio.read(path)[0][0]


@pytest.mark.parametrize("kind", ODD)
def test_a_header_without_a_length_costs_no_sound(tmp_path: Path, kind: str) -> None:
    make, remark = ODD[kind]
    path = make(tmp_path)
    found = audio.info(path)
    assert remark in found.remark
    assert not found.cut
    samples = whole(path)
    assert len(samples) == found.frames
    original = sounds(FRAMES)
    late = 0
    if path.suffix == ".mp3":  # the decoder's delay and the encoder's are in such a file
        late = 1105
        assert -1105 <= found.frames - FRAMES - late < 1152
    else:
        assert found.frames == FRAMES
    heard = samples[late : late + FRAMES]
    assert np.corrcoef(heard, original[: len(heard)])[0, 1] > (0.8 if path.suffix == ".mp3" else 0.9999)
    assert np.abs(audio.read(path, 20_000, 500)[0][0] - samples[20_000:20_500]).max() < 1e-6
    encoded = EncodedAudio("shard.tar/a", path.read_bytes())
    assert audio.info(encoded).frames == found.frames
    archive = tmp_path / "archive"
    archive.write_bytes(bytes(100) + path.read_bytes() + bytes(7))
    inside = audio.part(archive, 100, path.stat().st_size)
    assert np.array_equal(audio.read(inside)[0][0], samples)


def test_an_mp3_without_a_header_decodes_as_one_with_it(tmp_path: Path) -> None:
    for mode in ("CONSTANT", "VARIABLE"):
        path = made.mp3(tmp_path / "a.mp3", FRAMES, mode)
        with_header = whole(path)
        without = whole(made.mp3(tmp_path / "b.mp3", FRAMES, mode, header=False))
        assert audio.info(path).remark == ""
        assert np.abs(without[1105 : 1105 + FRAMES] - with_header).max() < 1e-6


def test_tags_around_an_mp3_and_junk_within_it_are_passed_over(tmp_path: Path) -> None:
    path = made.mp3(tmp_path / "a.mp3", FRAMES, header=False)
    expected, content = whole(path), path.read_bytes()
    middle = content.index(content[:2], len(content) // 2)  # where a frame starts
    tag = b"ID3\x03\0\0\0\0\x02\x00" + bytes(256)
    path.write_bytes(tag + content + b"TAG" + bytes(125))
    assert np.array_equal(whole(path), expected)
    path.write_bytes(content[:middle] + b"junk" * 500 + content[middle:])
    assert np.array_equal(whole(path), expected)


@pytest.mark.parametrize("kind", ["FLAC", "WAV"])
def test_tags_before_another_kind_of_file_do_not_make_it_an_mp3(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    soundfile.write(path, sounds(8000), RATE, format=kind)
    two_frames = made.mp3(tmp_path / "b.mp3", RATE, header=False).read_bytes()
    content = b"ID3\x03\0\0\0\0\x02\x00" + bytes(256) + path.read_bytes() + two_frames  # by chance among samples
    path.write_bytes(content)
    found = audio.info(path)
    assert (found.format, found.frames, found.remark) == (kind, 8000, "")


def test_mp3_files_written_one_after_the_other_are_read_whole(tmp_path: Path) -> None:
    one, two = made.mp3(tmp_path / "a.mp3", FRAMES), made.mp3(tmp_path / "b.mp3", FRAMES, seed=1)
    both = made.chain(tmp_path / "c.mp3", one, two)
    found = audio.info(both)
    assert "its header states the length of a part" in found.remark
    assert found.frames >= 2 * FRAMES
    samples = whole(both)
    assert np.array_equal(samples[: FRAMES - 2000], whole(one)[: FRAMES - 2000])
    second = sounds(FRAMES, 1)[:8000]
    assert max(np.corrcoef(samples[k : k + 8000], second)[0, 1] for k in range(33_000, 36_000)) > 0.8


def test_a_cut_mp3_is_refused_if_its_header_says_so_and_named_if_not(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAudio, match=r"a\.mp3 is truncated: its header promises \d+ samples, \d+ are there"):
        audio.info(made.cut(made.mp3(tmp_path / "a.mp3", FRAMES), 0.5))
    path = made.cut(made.mp3(tmp_path / "b.mp3", FRAMES, "CONSTANT", False), 0.501)
    found = audio.info(path)
    assert found.cut
    assert f"its end is missing, {found.duration:.3f} s can be read" in found.remark
    assert len(whole(path)) == found.frames > 0.4 * FRAMES


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_every_link_of_a_chained_ogg_is_read(tmp_path: Path, subtype: str) -> None:
    parts = [made.ogg(tmp_path / f"{seed}.ogg", 9000 + 1000 * seed, subtype, seed) for seed in range(3)]
    path = made.chain(tmp_path / "chain.ogg", *parts)
    found = audio.info(path)
    assert (found.frames, found.cut) == (30_000, False)
    assert found.remark == "a chain of 3 streams"
    samples = whole(path)
    assert np.array_equal(samples, np.concatenate([whole(part) for part in parts]))
    for start, frames in ((8000, 2500), (8000, 15_000), (18_990, 20), (29_999, 1)):
        assert np.abs(audio.read(path, start, frames)[0][0] - samples[start : start + frames]).max() < 1e-3
    for part in parts:
        assert audio.info(part).remark == ""
    twice = made.chain(tmp_path / "twice.ogg", parts[0], parts[0])  # both links have one number
    assert audio.info(twice).frames == 18_000


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_link_that_was_cut_does_not_cost_the_links_behind_it(tmp_path: Path, share: float) -> None:
    first = made.cut(made.ogg(tmp_path / "a.ogg", 6 * RATE), share)
    second = made.ogg(tmp_path / "b.ogg", FRAMES, seed=1)
    path = made.chain(tmp_path / "chain.ogg", first, second)
    found = audio.info(path)
    assert found.cut
    assert found.remark.startswith("a chain of 2 streams; the end of a stream within it is missing, ")
    assert np.array_equal(whole(path)[-FRAMES:], whole(second))


def test_a_chain_of_unequal_streams_is_refused(tmp_path: Path) -> None:
    one = made.ogg(tmp_path / "a.ogg", 4000)
    soundfile.write(tmp_path / "b.ogg", np.zeros((4000, 2)), 8000)
    path = made.chain(tmp_path / "chain.ogg", one, tmp_path / "b.ogg")
    with pytest.raises(AudioFormatError, match=r"of 8000 Hz with 2 channel\(s\) and 16000 Hz with 1"):
        audio.info(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_cut_ogg_is_read_as_far_as_it_goes_and_named(tmp_path: Path, subtype: str, share: float) -> None:
    path = made.cut(made.ogg(tmp_path / "a.ogg", 6 * RATE, subtype), share)
    found = audio.info(path)
    assert found.cut
    assert found.remark == f"its end is missing, {found.duration:.3f} s can be read"
    assert 0 < found.frames < 6 * RATE
    assert len(whole(path)) == found.frames


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "au", "caf"])
def test_a_file_shorter_than_its_header_promises_is_refused_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, sounds(8000), RATE, format=suffix.upper(), subtype="PCM_16")
    assert audio.info(path) == audio.AudioInfo(str(path), 8000, RATE, 1)
    assert audio.info(path).remark == ""
    made.cut(path, 0.7)
    with pytest.raises(UnreadableAudio, match=rf"a\.{suffix} is truncated: its header promises"):
        audio.info(path)


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "au", "caf", "flac", "ogg", "mp3"])
def test_a_file_that_ends_anywhere_in_its_first_bytes_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, sounds(4000), RATE, format=suffix.upper())
    content = path.read_bytes()
    for size in (*range(48), 60, 100, 200):
        for file in (path, EncodedAudio("a.tar/b", content[:size])):
            path.write_bytes(content[:size])
            with pytest.raises(UnreadableAudio, match=r"is truncated|cannot read|no samples|state its length") as error:
                audio.read(file)
            assert "\n" not in str(error.value)
            assert "does not exist" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_length_that_cannot_be_true_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, sounds(4000), RATE)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # 36 bits: 240 GB
    path.write_bytes(content)
    with pytest.raises(UnreadableAudio, match="its header promises 64424513440 samples"):
        audio.read(path)


def test_a_file_without_sound_is_still_empty(tmp_path: Path) -> None:
    for suffix in ("wav", "aiff", "au"):
        soundfile.write(tmp_path / f"a.{suffix}", np.zeros(0), RATE)
        with pytest.raises(UnreadableAudio, match="holds no samples"):
            audio.info(tmp_path / f"a.{suffix}")
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(content + b"LIST\x04\0\0\0INFO")
    with pytest.raises(UnreadableAudio, match="holds no samples"):
        audio.info(tmp_path / "b.wav")


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_16", "IMA_ADPCM", "MS_ADPCM", "ULAW"])
def test_a_coded_wav_is_read_from_any_place(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sounds(FRAMES), RATE, subtype=subtype)
    samples = whole(path)
    assert len(samples) == audio.info(path).frames >= FRAMES
    unit = "samples" if subtype == "ULAW" else "blocks"
    assert audio.info(made.unfinished(tmp_path / "b.wav", FRAMES, 0, subtype)).remark.endswith(f" {unit}")
    for start in (0, 1, 20_000, 321):
        assert np.array_equal(audio.read(path, start, 700)[0][0], samples[start : start + 700])


@pytest.mark.parametrize("kind", ["VORBIS", "MP3"])
def test_every_part_of_bursts_in_a_compressed_file_is_exact(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path = made.ogg(path, FRAMES) if kind == "VORBIS" else made.mp3(path, FRAMES)
    samples = whole(path)
    for start in range(0, FRAMES - 600, 2111):
        assert np.abs(audio.read(path, start, 600)[0][0] - samples[start : start + 600]).max() < 1e-6
    expected, _ = soundfile.read(path, dtype="float32")
    assert np.abs(samples - expected).max() < 1e-6
    with open_sound(path) as sound:  # block by block, as a long file is read
        blocks = [sound.read(start, 700) for start in range(0, FRAMES, 700)]
        back = sound.read(5000, 700)[:, 0]
    assert np.array_equal(np.concatenate(blocks)[:, 0], samples)
    assert np.abs(back - samples[5000:5700]).max() < 1e-6


def test_the_decoders_own_messages_stay_off_the_terminal_and_the_file_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    sound = made.mp3(tmp_path / "sound.mp3", FRAMES)
    audio.read(sound, 20_000, 500)  # the decoder complains about what lies before
    content = bytearray(sound.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 600, 3):
        content[place] ^= 0xFF
    damaged = tmp_path / "damaged.mp3"
    damaged.write_bytes(content)
    for _ in range(2):
        with suppress(UnreadableAudio):
            audio.read(damaged)
    assert capfd.readouterr().err == ""
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert "damaged.mp3 is damaged; its decoder says: " in said[0]


def test_what_follows_the_sound_of_an_mp3_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = made.mp3(tmp_path / "a.mp3", FRAMES)
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert len(whole(path)) == FRAMES
    assert not caplog.records


def test_what_others_write_meanwhile_is_passed_on(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    theirs = "12 % done\nWARNING: b.mp3 is damaged; its decoder says: Note: Illegal Audio-MPEG-Header\nerror: no\n"
    tag = "[src/libmpg123/id3.c:convert_utf16bom():1110] error: Invalid UTF16 surrogate pair at 4 (0xd83d).\n"
    ours = "[src/libmpg123/layer3.c:INT123_do_layer3():1774] error: dequantization failed!\n"
    with without_decoder_messages("a.mp3", report=True):
        os.write(2, (theirs + tag + "\nWarning: Real sample count differs. Frankenstein stream?\n" + ours).encode())
    assert capfd.readouterr().err == theirs
    assert [record.getMessage() for record in caplog.records] == [
        "a.mp3 is damaged; its decoder says: Warning: Real sample count differs. Frankenstein stream?"
    ]


def test_samples_that_look_like_the_name_of_a_chunk_are_samples(tmp_path: Path) -> None:
    path = made.unfinished(tmp_path / "a.wav", 1000, 0)
    content = bytearray(path.read_bytes())
    content[44:48] = b"data"
    path.write_bytes(content)
    assert audio.info(path).frames == 1000
