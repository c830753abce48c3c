"""Hostile and unusual sound files, each written from a definition of its bytes, with what a reader must make of it.

:data:`FILES` is the manifest of the files with content, :data:`NAMES` are names that file systems allow, and
:data:`PLACES` are things that have the name of a sound file and are none: pipes, devices, links, folders.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
COUNT = 2400  # samples of a usual file, 0.15 s: shorter ones are none to verbs that measure


def tone(count: int = COUNT, channels: int = 1, level: float = 0.4) -> np.ndarray:
    """Two partials below 4 kHz in a slow swell ``(channels, count)``, other ones in each channel, never clipped."""
    time = np.arange(count) / RATE
    return np.stack(
        [
            level * (np.sin(2 * np.pi * (300 + 31 * place) * time) + 0.5 * np.sin(2 * np.pi * 1900 * time)) / 1.5
            for place in range(channels)
        ]
    )


@dataclass(frozen=True)
class HostileFile:
    """A file, and what a reader makes of it.

    Attributes:
        name: unique, with the suffix that it gets on disk.
        content: its bytes.
        samples: ``(channels, T)`` that it holds, NaN where they may be anything; None if it is to be refused.
        rate: in Hz.
        within: largest difference of a sample; 0 if it has to be equal.
        says: what a refusal contains.
        remark: what a note about the file contains; empty if nothing is to be said.
        by_header: whether what is wrong with it is found without decoding its samples.
    """

    name: str
    content: bytes
    samples: np.ndarray | None = None
    rate: int = RATE
    within: float = 0.0
    says: str = ""
    remark: str = ""
    by_header: bool = True

    @property
    def readable(self) -> bool:
        """Whether it holds sound."""
        return self.samples is not None

    @property
    def channels(self) -> int:
        """Their number; 0 if it is to be refused."""
        return 0 if self.samples is None else len(self.samples)

    @property
    def seconds(self) -> float:
        """Its length; 0 if it is to be refused."""
        return 0.0 if self.samples is None else self.samples.shape[1] / self.rate

    def write(self, path: Path) -> Path:
        """Write it, to a folder under its own name or to a file, and return the place."""
        target = path / self.name if path.is_dir() else path
        target.write_bytes(self.content)
        return target


def packed(samples: np.ndarray, bits: int, big: bool = False, is_float: bool = False) -> bytes:
    """Return samples ``(channels, T)`` as interleaved numbers: 8 bits are unsigned, as in WAV."""
    flat = samples.T.reshape(-1)
    order = ">" if big else "<"
    if is_float:
        return flat.astype(f"{order}f{bits // 8}").tobytes()
    whole = integers(samples, bits).T.reshape(-1)
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    if bits == 24:
        raw = whole.astype(f"{order}i4").view(np.uint8).reshape(-1, 4)
        return (raw[:, 1:] if big else raw[:, :3]).tobytes()
    return whole.astype(f"{order}i{bits // 8}").tobytes()


def integers(samples: np.ndarray, bits: int) -> np.ndarray:
    """Return samples as whole numbers of so many bits."""
    return np.round(samples * 2.0 ** (bits - 1)).clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)


def held(samples: np.ndarray, bits: int = 16) -> np.ndarray:
    """Return what a file of so many bits holds of samples, full scale 1, in float32."""
    return (integers(samples, bits) / 2.0 ** (bits - 1)).astype(np.float32)


def chunk(name: bytes, body: bytes, size: int | None = None, order: str = "<", padded: bool = True) -> bytes:
    """Return a chunk; ``size`` is what its header says, whatever it holds."""
    stated = struct.pack(f"{order}I", (len(body) if size is None else size) & 0xFFFFFFFF)
    return name + stated + body + b"\0" * (len(body) % 2 if padded else 0)


def fmt(
    tag: int = 1,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    block: int | None = None,
    tail: bytes = b"",
    order: str = "<",
) -> bytes:
    """Return the chunk ``fmt`` of a WAV."""
    width = channels * bits // 8 if block is None else block
    fields = (tag, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits)
    return chunk(b"fmt ", struct.pack(f"{order}HHIIHH", *fields) + tail, order=order)


def riff(*chunks: bytes, magic: bytes = b"RIFF", size: int | None = None, order: str = "<") -> bytes:
    """Return a WAV of these chunks."""
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack(f"{order}I", (len(body) if size is None else size) & 0xFFFFFFFF) + body


GUID = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")


def extensible(tag: int, channels: int, bits: int, valid: int | None = None, guid: bytes = GUID) -> bytes:
    """Return an extensible chunk ``fmt``."""
    own = struct.pack("<HHIH", 22, bits if valid is None else valid, 0, tag) + guid
    return fmt(0xFFFE, channels, RATE, bits, tail=own)


def encoded(
    container: str, subtype: str | None = None, count: int = COUNT, rate: int = RATE, channels: int = 1
) -> bytes:
    """Return what libsndfile writes of :func:`tone`."""
    memory = io.BytesIO()
    soundfile.write(memory, tone(count, channels).T, rate, subtype, format=container)
    return memory.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """Return what libsndfile by itself reads of a file in memory."""
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return samples.T


def id3(size: int = 300, picture: bool = False) -> bytes:
    """Return an ID3v2.4 tag with text, and with the start of a picture."""
    text = b"TIT2" + struct.pack(">I", 6)[:4] + b"\0\0" + b"\3\xff\xfb\x90d "
    image = b"\xff\xd8\xff\xe0" + b"\xff\xfb\x90\x64" * 40  # a JPEG in which headers of MP3 frames are found
    art = b"\0image/jpeg\0\3\0" + image
    frames = text + (b"APIC" + synchsafe(len(art)) + b"\0\0" + art if picture else b"")
    body = frames.ljust(size, b"\0")
    return b"ID3\4\0\0" + synchsafe(len(body)) + body


def synchsafe(number: int) -> bytes:
    """Return a number in four bytes of seven bits."""
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def ape(items: int = 3) -> bytes:
    """Return an APEv2 tag with header and footer."""
    body = b"".join(struct.pack("<II", 5, 0) + b"Key%d\0" % place + b"Value" for place in range(items))
    fields = struct.pack("<III", 2000, len(body) + 32, items)
    return (
        b"".join(part for part in (b"APETAGEX" + fields + struct.pack("<I", 0xA0000000) + bytes(8), body))
        + b"APETAGEX"
        + fields
        + struct.pack("<I", 0x80000000)
        + bytes(8)
    )


def flac_with(blocks: Sequence[tuple[int, bytes]], content: bytes) -> bytes:
    """Return a FLAC with further blocks of metadata: kind and body of each, after the first."""
    own = content[4:42]  # STREAMINFO and its header; that another block follows is said in every case
    after = 42
    while True:  # the blocks that libsndfile wrote are left out
        last, size = content[after] & 0x80, int.from_bytes(content[after + 1 : after + 4], "big")
        after += 4 + size
        if last:
            break
    made = b"".join(bytes([kind]) + len(body).to_bytes(3, "big") + body for kind, body in blocks)
    return b"fLaC" + bytes([0]) + own[1:] + made + bytes([0x81]) + (8).to_bytes(3, "big") + bytes(8) + content[after:]


def patched(content: bytes, place: int, new: bytes) -> bytes:
    """Return the content with other bytes at a place."""
    return content[:place] + new + content[place + len(new) :]


def page_of(content: bytes, number: int) -> int:
    """Return where a page of an Ogg file begins; the last one is -1."""
    places, place = [], content.find(b"OggS")
    while place >= 0:
        places.append(place)
        place = content.find(b"OggS", place + 1)
    return places[number]


_S16 = held(tone())
_DATA = packed(tone(), 16)
_PLAIN = fmt() + chunk(b"data", _DATA)
_WAV = riff(_PLAIN)
_LOUD = tone(level=1.5)
_BEXT = chunk(b"bext", b"a description".ljust(602, b"\0"))
_LIST = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 5) + b"a\xff\xfe\0b\0")
_ODD = chunk(b"JUNK", b"odd")


def _with(samples: np.ndarray, **changes: object) -> np.ndarray:
    wrong = samples.astype(np.float32).copy()
    for place, value in changes.items():
        wrong[0, int(place[1:])] = value
    return wrong


def _wav_files() -> list[HostileFile]:
    found = [
        HostileFile("pcm_16.wav", _WAV, _S16),
        HostileFile("pcm_8.wav", riff(fmt(bits=8) + chunk(b"data", packed(tone(), 8))), held(tone(), 8)),
        HostileFile(
            "pcm_8_odd.wav", riff(fmt(bits=8) + chunk(b"data", packed(tone(2401), 8)) + _LIST), held(tone(2401), 8)
        ),
        HostileFile("pcm_24.wav", riff(fmt(bits=24) + chunk(b"data", packed(tone(), 24))), held(tone(), 24)),
        HostileFile(
            "pcm_32.wav", riff(fmt(bits=32) + chunk(b"data", packed(tone(), 32))), held(tone(), 32), within=2e-7
        ),
        HostileFile(
            "float_beyond_full_scale.wav",
            riff(fmt(3, bits=32) + chunk(b"data", packed(_LOUD, 32, is_float=True))),
            _LOUD.astype(np.float32),
        ),
        HostileFile(
            "float_64.wav",
            riff(fmt(3, bits=64) + chunk(b"data", packed(_LOUD, 64, is_float=True))),
            _LOUD.astype(np.float32),
        ),
        HostileFile(
            "stereo.wav", riff(fmt(channels=2) + chunk(b"data", packed(tone(channels=2), 16))), held(tone(channels=2))
        ),
        HostileFile(
            "channels_64.wav",
            riff(fmt(channels=64) + chunk(b"data", packed(tone(channels=64), 16))),
            held(tone(channels=64)),
        ),
        HostileFile("extensible.wav", riff(extensible(1, 1, 16) + chunk(b"data", _DATA)), _S16),
        HostileFile("extensible_12_bits_valid.wav", riff(extensible(1, 1, 16, 12) + chunk(b"data", _DATA)), _S16),
        HostileFile(
            "extensible_float.wav",
            riff(extensible(3, 1, 32) + chunk(b"data", packed(_LOUD, 32, is_float=True))),
            _LOUD.astype(np.float32),
        ),
        HostileFile("rate_8000.wav", riff(fmt(rate=8000) + chunk(b"data", _DATA)), _S16, 8000),
        HostileFile("rate_11127.wav", riff(fmt(rate=11127) + chunk(b"data", _DATA)), _S16, 11127),
        HostileFile(
            "rate_192000.wav",
            riff(fmt(rate=192000) + chunk(b"data", packed(tone(48000), 16))),
            held(tone(48000)),
            192000,
        ),
        HostileFile("list_before.wav", riff(_LIST, fmt(), _ODD, _LIST, chunk(b"data", _DATA)), _S16),
        HostileFile("list_after.wav", riff(_PLAIN, _LIST, _ODD), _S16),
        HostileFile("bext_before.wav", riff(_BEXT, _PLAIN), _S16),
        HostileFile("bext_after.bwf", riff(_PLAIN, _BEXT), _S16),
        HostileFile("a_second_data_chunk.wav", riff(_PLAIN, chunk(b"data", _DATA[:400])), _S16),
        HostileFile("riff_size_zero.wav", riff(_PLAIN, size=0), _S16),
        HostileFile("riff_size_too_large.wav", riff(_PLAIN, size=0xFFFFFFF0), _S16),
        HostileFile("bytes_after_the_end.wav", _WAV + b"\xff\xfb\x90\x64" * 300, _S16),
        HostileFile("half_a_sample_at_the_end.wav", riff(fmt(), chunk(b"data", _DATA + b"\1")), _S16),
        HostileFile("data_size_zero.wav", riff(fmt(), chunk(b"data", _DATA, 0)), _S16, remark="states no length"),
        HostileFile("data_size_all_ones.wav", riff(fmt(), chunk(b"data", _DATA, -1)), _S16, remark="states no length"),
        HostileFile(
            "data_size_7f.wav", riff(fmt(), chunk(b"data", _DATA, 0x7FFFF000)), _S16, remark="states no length"
        ),
        HostileFile("one_sample.wav", riff(fmt() + chunk(b"data", _DATA[200:202])), _S16[:, 100:101]),
        HostileFile("upper_case.WAV", _WAV, _S16),
        HostileFile("wave_named.flac", _WAV, _S16),
        HostileFile("wave_named.mp3", _WAV, _S16),
        HostileFile(
            "rifx.wav",
            riff(fmt(order=">"), chunk(b"data", packed(tone(), 16, big=True), order=">"), magic=b"RIFX", order=">"),
            _S16,
        ),
        HostileFile(
            "rifx_cut.wav",
            riff(fmt(order=">"), chunk(b"data", packed(tone(), 16, big=True), order=">"), magic=b"RIFX", order=">")[
                :-800
            ],
            says="truncated: its header promises 2400 samples, 2000 are there",
        ),
        HostileFile("behind_id3.wav", id3() + _WAV, _S16),
        HostileFile("behind_id3_cut.wav", id3() + _WAV[:-800], says="truncated"),
        HostileFile("cut.wav", _WAV[:-800], says="truncated: its header promises 2400 samples, 2000 are there"),
        HostileFile("cut_after_data.wav", _WAV[: 12 + 24 + 8], says="truncated"),
        HostileFile("cut_in_fmt.wav", _WAV[:30], says="truncated"),
        HostileFile("data_size_too_large.wav", riff(fmt(), chunk(b"data", _DATA, 0x100000)), says="truncated"),
        HostileFile("without_fmt.wav", riff(chunk(b"data", _DATA)), says="cannot read"),
        HostileFile("without_data.wav", riff(fmt(), _LIST), says="truncated"),
        HostileFile("no_samples.wav", riff(fmt(), chunk(b"data", b"")), says="holds no samples"),
        HostileFile(
            "a_chunk_of_4_gb.wav", riff(fmt(), chunk(b"JUNK", b"", 0xFFFFFFF0), chunk(b"data", _DATA)), says="truncated"
        ),
        HostileFile("channels_0.wav", riff(fmt(channels=0), chunk(b"data", _DATA)), says="cannot read"),
        HostileFile("channels_65535.wav", riff(fmt(channels=65535), chunk(b"data", _DATA)), says="cannot read"),
        HostileFile("bits_0.wav", riff(fmt(bits=0), chunk(b"data", _DATA)), says="cannot read"),
        HostileFile("bits_13_of_what.wav", riff(fmt(bits=99), chunk(b"data", _DATA)), says="cannot read"),
        HostileFile("rate_0.wav", riff(fmt(rate=0), chunk(b"data", _DATA)), says="0 Hz"),
        HostileFile("rate_1.wav", riff(fmt(rate=1), chunk(b"data", _DATA)), says="1 Hz"),
        HostileFile("rate_4e9.wav", riff(fmt(rate=4_000_000_000), chunk(b"data", _DATA)), says="Hz"),
        HostileFile("rate_2e9.wav", riff(fmt(rate=2_000_000_000), chunk(b"data", _DATA)), says="2000000000 Hz"),
        HostileFile("format_unknown.wav", riff(fmt(tag=0x1234), chunk(b"data", _DATA)), says="cannot read"),
        HostileFile(
            "extensible_unknown.wav",
            riff(extensible(1, 1, 16, guid=bytes(14)), chunk(b"data", _DATA)),
            says="cannot read",
        ),
        HostileFile(
            "float_nan.wav",
            riff(fmt(3, bits=32) + chunk(b"data", packed(_with(tone(), s70=np.nan, s90=np.inf), 32, is_float=True))),
            says="NaN or infinite samples",
            by_header=False,
        ),
        HostileFile(
            "double_too_large_for_float.wav",
            riff(
                fmt(3, bits=64)
                + chunk(b"data", packed(np.pad(tone(), ((0, 0), (0, 1)), constant_values=1e300), 64, is_float=True))
            ),
            says="NaN or infinite samples",
            by_header=False,
        ),
    ]
    for subtype in ("ULAW", "ALAW"):
        content = encoded("WAV", subtype)
        found.append(HostileFile(f"{subtype.lower()}.wav", content, tone(), within=0.02))
    for subtype in ("IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"):
        content = encoded("WAV", subtype)
        whole = decoded(content)
        found.append(HostileFile(f"{subtype.lower()}.wav", content, whole))
    found.append(HostileFile("ulaw_cut.wav", encoded("WAV", "ULAW")[:-500], says="truncated"))
    return found


def _relatives() -> list[HostileFile]:
    found = []
    for container, suffix, subtype in (
        ("RF64", "rf64", "PCM_16"),
        ("W64", "w64", "PCM_16"),
        ("AIFF", "aiff", "PCM_16"),
        ("AU", "au", "PCM_16"),
        ("CAF", "caf", "PCM_16"),
        ("AIFF", "aifc", "FLOAT"),
        ("CAF", "alac.caf", "ALAC_16"),
        ("NIST", "sph", "PCM_16"),
    ):
        content = encoded(container, subtype)
        name = f"usual.{suffix}" if "." not in suffix else suffix
        expected = held(tone()) if subtype != "FLOAT" else tone().astype(np.float32)
        found.append(HostileFile(name, content, expected, within=0 if subtype == "FLOAT" else 2.0**-15))
        if subtype == "PCM_16" and container != "NIST":
            found.append(HostileFile(f"cut.{suffix}", content[:-1000], says="truncated"))
    rf64 = encoded("RF64")
    place = rf64.index(b"ds64") + 8
    found.append(
        HostileFile("size_of_exabytes.rf64", patched(rf64, place + 8, struct.pack("<Q", 1 << 62)), says="truncated")
    )
    w64 = encoded("W64")
    place = w64.index(b"data") + 16
    found.append(HostileFile("size_of_exabytes.w64", patched(w64, place, struct.pack("<Q", 1 << 62)), says="truncated"))
    caf = encoded("CAF")
    found.append(
        HostileFile("size_negative.caf", patched(caf, caf.index(b"data") + 4, struct.pack(">q", -5)), says="malformed")
    )
    au = encoded("AU")
    found.append(HostileFile("starts_after_its_end.au", patched(au, 4, struct.pack(">I", 1 << 30)), says="truncated"))
    return found


def _compressed() -> list[HostileFile]:
    flac = encoded("FLAC", "PCM_16")
    wide = encoded("FLAC", "PCM_24", channels=2)
    picture = struct.pack(">II", 3, 10) + b"image/jpeg" + bytes(20) + struct.pack(">I", 5000) + b"\xff\xf8" * 2500
    vorbis, opus = encoded("OGG", "VORBIS", 24000), encoded("OGG", "OPUS", 24000)
    mp3 = encoded("MP3", None, 24000)
    first = mp3.index(mp3[:2], 4)
    # without it nothing tells that the encoder began 576 samples late and the decoder 529; the rest may be anything
    delayed = np.pad(decoded(mp3), ((0, 0), (1105, 239)), constant_values=np.nan)
    return [
        HostileFile("usual.flac", flac, _S16),
        HostileFile("stereo_24.flac", wide, held(tone(channels=2), 24), within=2.0**-22),
        HostileFile("behind_id3.flac", id3() + flac, _S16),
        HostileFile(
            "behind_two_id3_unknown_length.flac",
            id3() * 2 + patched(flac, 21, bytes([flac[21] & 0xF0]) + bytes(4)),
            _S16,
            remark="states no length",
        ),
        HostileFile("behind_id3_with_picture.flac", id3(3000, picture=True) + flac, _S16),
        HostileFile("picture_inside.flac", flac_with([(6, picture)], flac), _S16),
        HostileFile("wrong_md5.flac", patched(flac, 26, bytes(range(16))), _S16),
        HostileFile(
            "unknown_length.flac",
            patched(flac, 21, bytes([flac[21] & 0xF0]) + bytes(4)),
            _S16,
            remark="states no length",
        ),
        HostileFile("cut.flac", flac[: len(flac) // 2], says="damaged", by_header=False),
        HostileFile("cut_in_header.flac", flac[:30], says="cannot read"),
        HostileFile(
            "promises_a_year.flac",
            patched(flac, 21, bytes([flac[21] | 0x0F]) + b"\xff" * 4),
            says="its header promises",
        ),
        HostileFile("rate_0.flac", patched(flac, 18, bytes(2) + bytes([flac[20] & 0x0F])), says="0 Hz"),
        HostileFile("damaged_frame.flac", patched(flac, len(flac) // 2, bytes(200)), says="damaged", by_header=False),
        HostileFile("usual.ogg", vorbis, decoded(vorbis)),
        HostileFile("usual.opus", opus, decoded(opus)),
        HostileFile(
            "chain.ogg",
            vorbis + encoded("OGG", "VORBIS", 12000),
            np.concatenate([decoded(vorbis), decoded(encoded("OGG", "VORBIS", 12000))], 1),
            remark="a chain of 2 streams",
        ),
        HostileFile(
            "chain_of_two_rates.ogg", vorbis + encoded("OGG", "VORBIS", 12000, 8000), says="a chain of 2 streams of"
        ),
        HostileFile("cut_in_a_header.ogg", vorbis[:100], says="cannot read"),
        HostileFile("cut_in_first_page.opus", opus[:20], says="cannot read"),
        HostileFile("only_oggs.ogg", b"OggS" * 20000, says="cannot read"),
        HostileFile("usual.mp3", mp3, decoded(mp3), within=1e-6),
        HostileFile("behind_id3.mp3", id3(3000, picture=True) + mp3, decoded(mp3), within=1e-6),
        HostileFile("before_ape.mp3", mp3 + ape(), decoded(mp3), within=1e-6),
        HostileFile("between_tags.mp3", id3() + mp3 + ape() + b"TAG".ljust(128, b"\0"), decoded(mp3), within=1e-6),
        HostileFile("cut.mp3", mp3[: len(mp3) // 2], says="truncated"),
        HostileFile("tag_alone.mp3", id3(2000), says="cannot read"),
        HostileFile("without_header.mp3", mp3[first:], delayed, within=1e-5, remark="no header states its length"),
        HostileFile("mp3_named.wav", mp3, decoded(mp3), within=1e-6),
    ]


def _nothing() -> list[HostileFile]:
    pixels = zlib.compress(bytes(100))
    return [
        HostileFile("empty.wav", b"", says="cannot read"),
        HostileFile("empty.flac", b"", says="cannot read"),
        HostileFile("one_byte.wav", b"R", says="cannot read"),
        HostileFile("text.wav", "Sprache, 话语, речь\n".encode() * 50, says="cannot read"),
        HostileFile("page.wav", b"<!DOCTYPE html><title>404</title>" * 30, says="cannot read"),
        HostileFile("archive.wav", b"PK\3\4" + pixels * 10, says="cannot read"),
        HostileFile(
            "pointer.flac", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", says="cannot read"
        ),
        HostileFile("zeros.wav", bytes(5000), says="cannot read"),
        HostileFile("zeros_behind_a_header.wav", riff() + bytes(200_000), says="4096 chunks come before its samples"),
        HostileFile("zeros.mp3", bytes(5000), says="cannot read"),
        HostileFile("ones.mp3", b"\xff" * 5000, says="cannot read"),
    ]


#: the files with content, by name
FILES: dict[str, HostileFile] = {
    each.name: each for each in (*_wav_files(), *_relatives(), *_compressed(), *_nothing())
}

#: names of files that file systems allow; the content is that of ``pcm_16.wav``
NAMES: tuple[str, ...] = (
    "كلام.wav",
    "语音记录.wav",
    "голос.wav",
    "ध्वनि.wav",
    "🎙️👩‍🚀.wav",
    "cafe\u0301.wav",
    "\u202egnp.wav",
    "two\nlines.wav",
    "tab\tand\x1b[31mred.wav",
    "-output.wav",
    "--help.wav",
    "  spaces  .wav",
    "a,b=c;d&e.wav",
    "'quoted' \"twice\".wav",
    "$(touch owned).wav",
    "%s%n{0}[x]*?.wav",
    "a::12+34.wav",
    os.fsdecode(b"\xff\xfe\xe9.wav"),
    "x" * 251 + ".wav",
    "语" * 83 + ".wav",
    "CON.wav",
    "a..wav.wav",
)


@dataclass(frozen=True)
class Place:
    """Something that has the name of a sound file and is none.

    Attributes:
        name: unique, with suffix.
        make: puts it at a path.
        says: what a refusal contains; empty if it holds the sound of ``pcm_16.wav``.
    """

    name: str
    make: Callable[[Path], None]
    says: str = ""


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        home = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            end.bind(path.name)
        finally:
            os.chdir(home)


def _aside(path: Path) -> Path:
    """Return a file that is not in the folder of the corpus."""
    kept = path.parent.parent / "aside.bin"
    kept.write_bytes(_WAV)
    return kept


PLACES: dict[str, Place] = {
    each.name: each
    for each in (
        Place("pipe.wav", os.mkfifo, "is a pipe, not a sound file"),
        Place("socket.wav", _socket, "is a socket, not a sound file"),
        Place("endless.wav", lambda path: path.symlink_to("/dev/zero"), "is a device, not a sound file"),
        Place("nothing.wav", lambda path: path.symlink_to("/dev/null"), "is a device, not a sound file"),
        Place("folder.wav", Path.mkdir, "is a folder, not a sound file"),
        Place("dangling.wav", lambda path: path.symlink_to("nowhere.wav"), "does not exist"),
        Place("circle.wav", lambda path: path.symlink_to(path.name), "symbolic links"),
        Place("link.wav", lambda path: path.symlink_to(str(_aside(path)))),
        Place("second_name.wav", lambda path: os.link(_aside(path), path)),
    )
}


@dataclass(frozen=True)
class Subject:
    """Something of the corpus at its place on disk.

    Attributes:
        key: names it in a table of results, short and in ASCII: the folder that it has for itself.
        path: where it is.
        file: what it holds; one without samples if it is to be refused.
        absent: whether a search in a folder does not find it, since it is a folder itself.
    """

    key: str
    path: Path
    file: HostileFile
    absent: bool = False


def write_corpus(root: Path) -> list[Subject]:
    """Write all of :data:`FILES`, :data:`NAMES` and :data:`PLACES`, each in a folder of its own below ``root``."""
    usual = FILES["pcm_16.wav"]
    found = []
    for number, name in enumerate((*FILES, *NAMES, *PLACES)):
        folder = root / f"s{number:03}"
        folder.mkdir(parents=True)
        place = PLACES.get(name)
        if place is not None:
            place.make(folder / name)
        else:
            FILES.get(name, usual).write(folder / name)
        file = FILES.get(name, usual) if place is None or not place.says else HostileFile(name, b"", says=place.says)
        found.append(Subject(folder.name, folder / name, file, name == "folder.wav"))
    return found
