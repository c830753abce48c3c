"""Audio files: look at, read, write, resample, find.

Files go through libsndfile (WAV, FLAC, Ogg Vorbis, Opus, MP3). Samples are float32 of shape ``(channels, time)``, full
scale is 1. What is read need not be a file of its own: ``shard.tar::OFFSET+SIZE`` is the part of an archive that begins
at byte OFFSET (:func:`part`), and :class:`EncodedAudio` is a file that is in memory. Every failure is an
:class:`~bcfusion.errors.AudioError` of one line that names the file: :class:`UnreadableAudio` where the file is at
fault, :class:`AudioFormatError` where it does not fit the task. PyTorch is imported only where something is resampled,
so that a process that just reads files stays small.
"""

from __future__ import annotations

import difflib
import glob
import io
import math
import os
import re
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import soundfile

from bcfusion.errors import AudioError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_WRITABLE = {".wav": "WAV", ".flac": "FLAC"}
# Torchaudio's names for the resampy/librosa filter "kaiser_best"; aliases are some 150 dB down, where torchaudio's
# default lets a 9 kHz tone into 16 kHz speech at -17 dB.
_LOWPASS_FILTER_WIDTH = 64
_ROLLOFF = 0.9475937167399596
_BETA = 14.769656459379492
# A WAV or FLAC that was written to a pipe cannot know its length: writers leave 0 or a number near the type's largest.
_UNKNOWN_WAV_BYTES = 0x7FFF0000
_UNKNOWN_FRAMES = 1 << 40
_PART = re.compile(r"(?P<archive>.+)::(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)


class AudioFormatError(AudioError):
    """A sound file that can be read, but has another number of channels or another sample rate than the task needs.

    Kept apart from a damaged file: replacing one clip by another would not mend it, the configuration must change.
    """


class UnreadableAudio(AudioError):
    """A sound file that is missing, damaged, truncated, empty, or holds samples that are not numbers.

    Attributes:
        path: of the file, so that the file can be counted and another one taken in its place.
    """

    def __init__(self, message: str, path: str | os.PathLike[str] = "") -> None:
        super().__init__(message)
        self.path = os.fspath(path)


class EncodedAudio(str):
    """The path of a sound file whose bytes are in memory, as they came from a stream; it names it in messages.

    Args:
        path: where it came from. content: the file's bytes, WAV, FLAC or Ogg.
    """

    content: bytes

    def __new__(cls, path: str, content: bytes) -> EncodedAudio:
        """Make one."""
        encoded = super().__new__(cls, path)
        encoded.content = content
        return encoded

    def __reduce__(self) -> tuple[type[EncodedAudio], tuple[str, bytes]]:
        return EncodedAudio, (str(self), self.content)


def part(archive: str | os.PathLike[str], offset: int, size: int) -> str:
    """The path of a sound file that lies within an uncompressed archive, from byte ``offset`` on, ``size`` bytes."""
    return f"{os.fspath(archive)}::{offset}+{size}"


def container(path: str | os.PathLike[str]) -> str:
    """The file that is opened for ``path``: the archive of a :func:`part`, else ``path`` itself."""
    inside = _PART.fullmatch(os.fspath(path))
    return os.fspath(path) if inside is None else inside["archive"]


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a sound file says.

    Attributes:
        path: as it was given. frames: samples in each channel. sample_rate: in Hz. channels: how many.
        subtype: libsndfile's name of how samples are stored, as ``PCM_16``; not compared.
    """

    path: str
    frames: int
    sample_rate: int
    channels: int
    subtype: str = field(default="PCM_16", compare=False)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def info(path: str | os.PathLike[str]) -> AudioInfo:
    """Read the header of a sound file.

    Raises:
        UnreadableAudio: the file is missing, unreadable, empty, or a WAV that is shorter than its header promises. That
            a FLAC was cut off is noticed by :func:`read`, at the missing part; an Ogg file announces no length.
    """
    with _open(path) as sound:
        return AudioInfo(os.fspath(path), sound.frames, sound.samplerate, sound.channels, sound.subtype)


def encoded(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a sound file as they are, wherever it is.

    Raises:
        UnreadableAudio: the file is missing or unreadable.
    """
    if isinstance(path, EncodedAudio):
        return path.content
    inside = _PART.fullmatch(os.fspath(path))
    try:
        if inside is None:
            return Path(path).read_bytes()
        with open(inside["archive"], "rb") as archive:
            archive.seek(int(inside["offset"]))
            return archive.read(int(inside["size"]))
    except OSError as error:
        raise UnreadableAudio(f"cannot read {path}: {_one_line(error)}", path) from error


def read(path: str | os.PathLike[str], start: int = 0, frames: int | None = None) -> tuple[np.ndarray, int]:
    """Read a part of a sound file, without decoding the rest.

    Args:
        path: the file.
        start: first sample, at the rate of the file.
        frames: how many samples; None reads to the end.

    Returns:
        ``(channels, frames)`` float32, and the sample rate of the file.

    Raises:
        UnreadableAudio: the file is missing, unreadable, truncated, too short, or holds NaN or infinity.
    """
    with _open(path) as sound:
        frames = sound.frames - start if frames is None else frames
        return _read_frames(sound, path, start, frames), sound.samplerate


def read_span(
    path: str | os.PathLike[str],
    start: int,
    length: int,
    sample_rate: int,
    may_resample: bool = True,
    slack: int = 0,
) -> np.ndarray:
    """Read samples ``start`` to ``start + length`` of what the whole file would be at ``sample_rate``.

    Where the file has another rate, only the span and the filter's margin around it are decoded and resampled; the
    result equals the same cut of the whole resampled file, because the margin begins at a multiple of the resampler's
    period.

    Args:
        path: the file.
        start: first sample, at ``sample_rate``; may be negative.
        length: number of samples, at ``sample_rate``.
        sample_rate: in Hz.
        may_resample: False refuses a file of another rate.
        slack: how many of the samples may lie before the beginning or behind the end of the file; they are zero.

    Returns:
        ``(channels, length)`` float32.

    Raises:
        AudioFormatError: the file has another rate and ``may_resample`` is False.
        UnreadableAudio: as :func:`read`; or more than ``slack`` samples are outside of the file.
    """
    with _open(path) as sound:
        rate = sound.samplerate
        if rate != sample_rate and not may_resample:
            raise AudioFormatError(
                f"{path} is sampled at {rate} Hz, the task at {sample_rate} Hz, and resampling is off: "
                "set data.resample=true or convert the file"
            )
        divisor = math.gcd(rate, sample_rate)
        up, down = sample_rate // divisor, rate // divisor
        available = -(-sound.frames * up // down)
        low, high = max(start, 0), min(start + length, available)
        if low - start > slack or start + length - high > slack or high <= low:
            raise UnreadableAudio(
                f"{path} holds {available / sample_rate:.3f} s, but {start / sample_rate:.3f} s to "
                f"{(start + length) / sample_rate:.3f} s were asked for: it was cut, or the corpus describes another",
                path,
            )
        if up == down:
            inner = _read_frames(sound, path, low, high - low)
        else:
            reach = math.ceil(_LOWPASS_FILTER_WIDTH * down / (min(up, down) * _ROLLOFF)) + down
            first_period = max(0, low // up - -(-reach // down))
            first = first_period * down
            last = min(sound.frames, -(-high * down // up) + reach)
            margin = low - first_period * up
            inner = _resample_array(_read_frames(sound, path, first, last - first), rate, sample_rate)
            inner = inner[:, margin : margin + high - low]
    if (low, high) == (start, start + length):
        return inner
    return np.pad(inner, ((0, 0), (low - start, start + length - high)))


def write(
    path: str | os.PathLike[str],
    samples: np.ndarray,
    sample_rate: int,
    subtype: str = "PCM_16",
) -> None:
    """Write a WAV or FLAC file; it appears whole or not at all.

    Args:
        path: ends in ``.wav`` or ``.flac``; missing folders are made.
        samples: ``(channels, time)`` or ``(time,)``, real; full scale is 1, integer formats clip what is beyond.
        sample_rate: in Hz.
        subtype: libsndfile's name: ``PCM_16``, ``PCM_24``, or for WAV also ``FLOAT``.

    Raises:
        AudioError: another extension, a subtype that the format has not, samples of a wrong shape or not finite, or a
            place that cannot be written to.
    """
    target = Path(path)
    file_format = _WRITABLE.get(target.suffix.lower())
    if file_format is None:
        raise AudioError(f"cannot write {target}: the name must end in {' or '.join(_WRITABLE)}")
    if not soundfile.check_format(file_format, subtype):
        raise AudioError(f"cannot write {target}: {file_format} has no subtype {subtype!r}; use PCM_16 or PCM_24")
    data = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if data.ndim != 2 or data.shape[0] == 0:
        raise AudioError(f"cannot write {target}: samples of shape {np.shape(samples)}, expected (channels, time)")
    if not np.isfinite(data).all():
        raise AudioError(f"cannot write {target}: the samples hold NaN or infinity")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(temporary, data.T, sample_rate, subtype=subtype, format=file_format)
        os.replace(temporary, target)
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"cannot write {target}: {_one_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def require_finite(samples: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Refuse samples that are not numbers.

    Args:
        samples: ``(..., time)``. path: named in the message.

    Raises:
        UnreadableAudio: a sample is NaN or infinite; says how many and where the first is.
    """
    finite = np.isfinite(samples)
    if not finite.all():
        bad = np.flatnonzero(~finite.reshape(-1, finite.shape[-1]).all(axis=0))
        raise UnreadableAudio(
            f"{path} holds NaN or infinite samples: {bad.size} of them, the first at sample {bad[0]}", path
        )


def resample(x: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate with a Kaiser-windowed sinc of 64 zero crossings ("kaiser_best").

    Args:
        x: ``(..., T)`` real.
        from_rate: its rate in Hz.
        to_rate: the rate wanted, in Hz.

    Returns:
        ``(..., ceil(T * to_rate / from_rate))``, same type and device; ``x`` itself where the rates are equal.
    """
    import torch

    if from_rate == to_rate:
        return x
    # Half precision would cost the filter's 150 dB: 11 bits of mantissa give 66.
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    return _resampler(from_rate, to_rate, x.device, dtype)(x.to(dtype)).to(x.dtype)


@lru_cache(maxsize=16)
def _resampler(from_rate: int, to_rate: int, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Torchaudio's resampler with its filter bank, whose design costs more than its use on a one-second clip."""
    import torch
    from torchaudio.transforms import Resample

    with torch.inference_mode(False):  # the filter outlives this call and may meet autograd in the next
        module = Resample(
            from_rate,
            to_rate,
            resampling_method="sinc_interp_kaiser",
            lowpass_filter_width=_LOWPASS_FILTER_WIDTH,
            rolloff=_ROLLOFF,
            beta=_BETA,
            dtype=torch.float64,
        )
        return module.to(device=device, dtype=dtype)


def find_audio(paths_or_globs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Find sound files from what a user typed.

    Args:
        paths_or_globs: files, folders (searched through and through, links followed) and glob patterns (``**`` too).

    Returns:
        The files, sorted, each once.

    Raises:
        AudioError: a file or folder that is not there (the nearest name is given), a folder or pattern without sound
            files, or a file that is none of wav, flac, ogg, opus, mp3.
    """
    if isinstance(paths_or_globs, (str, os.PathLike)):
        paths_or_globs = [paths_or_globs]
    found: set[Path] = set()
    for given in paths_or_globs:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = list(walk(path))
            if not inside:
                raise AudioError(f"no audio in {path}: looked for {_extensions()} in it and its subfolders")
            found.update(inside)
        elif path.exists():
            if path.suffix.lower() not in EXTENSIONS:
                raise AudioError(f"{path} is not an audio file by its name: expected {_extensions()}")
            found.add(path)
        elif glob.has_magic(os.fspath(path)):
            matched = [Path(name) for name in glob.glob(os.fspath(path), recursive=True)]
            sounds = [name for name in matched if name.suffix.lower() in EXTENSIONS and name.is_file()]
            if not sounds:
                raise AudioError(f"no audio matches {path}: expected {_extensions()}")
            found.update(sounds)
        else:
            raise AudioError(f"no such file or folder: {path}{_nearest(path)}")
    return sorted(found)


def walk(folder: Path) -> Iterator[Path]:
    """Yield the sound files beneath a folder, hidden ones left out, links followed but no folder twice."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield Path(parent, name)


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[soundfile.SoundFile]:
    name = os.fspath(path)
    inside = _PART.fullmatch(name)
    file = name if inside is None else inside["archive"]
    with ExitStack() as closing:
        try:
            source: str | BinaryIO | _Part = file
            if isinstance(path, EncodedAudio):
                source = io.BytesIO(path.content)
            elif inside is not None:
                archive = closing.enter_context(open(file, "rb", buffering=0))
                source = _Part(archive, int(inside["offset"]), int(inside["size"]))
            sound = closing.enter_context(soundfile.SoundFile(source))
            if sound.format in ("WAV", "WAVEX", "RF64"):
                raw = closing.enter_context(open(source, "rb")) if isinstance(source, str) else source
                place = raw.tell()
                _refuse_cut_wav(raw, path)
                raw.seek(place)  # where libsndfile left it, and takes it to be
        except (OSError, soundfile.LibsndfileError) as error:
            problem = f"cannot read {path}: {_one_line(error)}"
            if not isinstance(path, EncodedAudio) and not os.path.isfile(file):
                fault = "is a folder, not a sound file" if os.path.isdir(file) else f"does not exist{_nearest(file)}"
                problem = f"{file} {fault}"
            raise UnreadableAudio(problem, name) from error
        if not 0 < sound.frames < _UNKNOWN_FRAMES:
            problem = "holds no samples" if sound.frames <= 0 else "does not say how long it is: encode it again"
            raise UnreadableAudio(f"{path} {problem}", name)
        yield sound


class _Part(io.RawIOBase):
    """A part of an open file as a file of its own, which libsndfile reads through: no more bytes than it asks for.

    Args:
        archive: open for reading in binary. offset: first byte of the part. size: bytes of it.
    """

    def __init__(self, archive: io.FileIO, offset: int, size: int) -> None:
        super().__init__()
        self._descriptor = archive.fileno()
        self._offset = offset
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the beginning of the part."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves; as for any file."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills ``buffer`` as far as the part, or the file, reaches."""
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        got = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._offset + self._position)
        self._position += got
        return got


def _read_frames(sound: soundfile.SoundFile, path: str | os.PathLike[str], start: int, frames: int) -> np.ndarray:
    if start < 0 or frames < 0 or start + frames > sound.frames:
        raise UnreadableAudio(f"{path} has {sound.frames} samples; {start} to {start + frames} were asked for", path)
    try:
        if start:
            sound.seek(start)
        data = sound.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UnreadableAudio(
            f"{path} is truncated or damaged: its header promises {sound.frames} samples, "
            f"{start} to {start + frames} cannot be decoded ({_one_line(error)})",
            path,
        ) from error
    if len(data) < frames:
        raise UnreadableAudio(
            f"{path} is truncated: its header promises {sound.frames} samples, {start + len(data)} are there", path
        )
    samples = np.ascontiguousarray(data.T)
    require_finite(samples, path)
    return samples


def _refuse_cut_wav(raw: BinaryIO | _Part, path: str | os.PathLike[str]) -> None:
    """Compare the data chunk with the file's size: libsndfile silently plays what is left of a cut WAV."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    head = raw.read(12) or b""
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return
    long_size, block = 0, 1
    while len(header := raw.read(8) or b"") == 8:
        name, length = struct.unpack("<4sI", header)
        begin = raw.tell()
        if name == b"data":
            if head[:4] == b"RF64" and length == 0xFFFFFFFF:
                length = long_size
            elif length >= _UNKNOWN_WAV_BYTES and size < _UNKNOWN_WAV_BYTES:
                return
            if begin + length > size:
                there = (size - begin) // block
                raise UnreadableAudio(
                    f"{path} is truncated: its header promises {length // block} samples, {there} are there", path
                )
            return
        body = (raw.read(min(length, 32)) or b"") if name in (b"fmt ", b"ds64") else b""
        if name == b"fmt " and len(body) >= 14:
            block = max(1, struct.unpack_from("<H", body, 12)[0])
        elif name == b"ds64" and len(body) >= 16:
            long_size = struct.unpack_from("<Q", body, 8)[0]
        raw.seek(begin + length + length % 2)
    raise UnreadableAudio(f"{path} is truncated: it ends before its samples begin", path)


def _resample_array(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    import torch

    return resample(torch.from_numpy(samples), from_rate, to_rate).numpy()


def _nearest(missing: str | os.PathLike[str]) -> str:
    """The nearest existing name beside a missing one, as the end of a message."""
    path = Path(missing)
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    names = sorted(entry.name for entry in folder.iterdir()) if os.access(folder, os.R_OK | os.X_OK) else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {folder / close[0]}?" if close else f"; {folder} is the last folder on the way that exists"


def _extensions() -> str:
    return ", ".join(EXTENSIONS)


def _one_line(error: Exception) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")
