"""Sound files whose headers do not tell their length, made from those that libsndfile writes by changing bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def sounds(frames: int, seed: int = 0) -> np.ndarray:
    """Noise in bursts ``(frames,)``: codecs change the length of their blocks at onsets, as in speech."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0, 1, frames // 1500 + 1) ** 4, 1500)[:frames]
    return (0.4 * loudness * rng.standard_normal(frames)).clip(-1, 1).astype(np.float32)


def mp3(path: Path, frames: int, mode: str = "VARIABLE", header: bool = True, seed: int = 0) -> Path:
    """Write an MP3, with its Xing header or without the frame that holds it."""
    soundfile.write(path, sounds(frames, seed), RATE, format="MP3", bitrate_mode=mode)
    if not header:
        content = path.read_bytes()
        following = content.index(content[:2], 4)
        assert b"Xing" in content[:following] or b"Info" in content[:following]
        path.write_bytes(content[following:])
    return path


def ogg(path: Path, frames: int, subtype: str = "VORBIS", seed: int = 0) -> Path:
    """Write an Ogg file."""
    soundfile.write(path, sounds(frames, seed), RATE, format="OGG", subtype=subtype)
    return path


def chain(path: Path, *parts: Path) -> Path:
    """Write files one after the other into one."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def cut(path: Path, share: float) -> Path:
    """Leave a share of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def unfinished(path: Path, frames: int, length: int, subtype: str = "PCM_16") -> Path:
    """Write a file of the kind of its suffix whose header was never finalised: ``length`` as all its sizes."""
    kind = path.suffix[1:].upper()
    soundfile.write(path, sounds(frames), RATE, format=kind, subtype=subtype)
    content = bytearray(path.read_bytes())
    name = {"AIFF": b"SSND", "AU": b".snd", "CAF": b"data", "W64": b"data", "WAV": b"data", "RF64": b"ds64"}[kind]
    place = content.index(name)
    if kind == "RF64":
        fields, width = (place + 8, place + 16, place + 24), "<Q"
    elif kind == "W64":
        fields, width = (16, place + 16), "<Q"
    elif kind == "CAF":
        fields, width = (place + 4,), ">Q"
    elif kind == "AU":
        fields, width = (8,), ">I"
    else:
        fields, width = (4, place + 4), "<I" if kind == "WAV" else ">I"
    for field in fields:
        struct.pack_into(width, content, field, length % 256 ** struct.calcsize(width))
    path.write_bytes(content)
    return path


def piped_flac(path: Path, frames: int) -> Path:
    """Write a FLAC whose header states no length, as programs do that write to a pipe."""
    soundfile.write(path, sounds(frames), RATE, format="FLAC")
    content = bytearray(path.read_bytes())
    assert int.from_bytes(content[18:26], "big") & (1 << 36) - 1 == frames
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return path
