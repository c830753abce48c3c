"""What was heard and what was played, written to disk while the stream runs."""

from __future__ import annotations

import threading
import time
import wave
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bcfusion.errors import WriteError
from bcfusion.files import why_unwritable
from bcfusion.inference.pcm import RAW_FORMATS
from bcfusion.inference.stepping import Frames
from bcfusion.live.ring import Ring

__all__ = ["GrowingWave", "Tape"]

_FORMAT = RAW_FORMATS["s24le"]
_SECONDS = 8.0  # that a disk may take to answer
_PAUSE = 0.2  # seconds between two writes
_MOST_BYTES = 4_290_000_000  # that the 32-bit sizes of a WAV can hold


class GrowingWave:
    """A WAV file of 24 bits that is valid after each write, however the program ends. It continues in a next file
    before it reaches 4 GB.

    Args:
        path: the file; ``NAME-2.wav`` and so on follow it.
        rate: in Hz.
        channels: number of channels.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, rate: int, channels: int) -> None:
        self._first, self._rate, self._channels = path, rate, channels
        self.paths: list[Path] = []
        self._open()

    def _open(self) -> None:
        number = len(self.paths) + 1
        path = self._first if number == 1 else self._first.with_name(f"{self._first.stem}-{number}.wav")
        self._file = path.open("xb")
        self.paths.append(path)
        # its header is corrected by each writeframes
        self._wave = wave.open(self._file, "wb")  # noqa: SIM115 - until close()
        self._wave.setnchannels(self._channels)
        self._wave.setsampwidth(_FORMAT.size)
        self._wave.setframerate(self._rate)
        self._wave.writeframes(b"")
        self._file.flush()

    def write(self, block: Frames) -> None:
        """Append ``(n, C)``; what exceeds full scale is clipped."""
        if _FORMAT.size * (self._wave.tell() * self._channels + block.size) > _MOST_BYTES:
            self.close()
            self._open()
        self._wave.writeframes(_FORMAT.encode(np.nan_to_num(block)))
        self._file.flush()

    def close(self) -> None:
        self._wave.close()
        self._file.close()


class _Track:
    """What waits to be written to one file. One thread adds and one thread takes; neither ever waits for the other.

    What there is no room for is silence in the file, so that all after it stays in its place.

    Attributes:
        lost: samples that there was no room for.
    """

    def __init__(self, capacity: int, columns: Sequence[int]) -> None:
        self._columns, self._ring = tuple(columns), Ring(capacity, len(columns))
        self._gaps: deque[tuple[int, int]] = deque()  # sample of the ring that each is before, and its length
        self.lost = 0

    def add(self, block: Frames) -> None:
        if self._ring.room >= len(block):
            self._ring.write(block, self._columns)
        else:
            self._gaps.append((self._ring.written, len(block)))
            self.lost += len(block)

    def take(self, into: Frames) -> Iterator[Frames]:
        """Yield what waits, part by part; each is in ``into`` until the next one."""
        while True:
            held = self._ring.held  # before the gaps, so that all that lie within are known
            if self._gaps and self._gaps[0][0] == self._ring.taken:
                _, left = self._gaps.popleft()
                while left > 0:
                    part = into[:left]
                    part[:] = 0.0
                    left -= len(part)
                    yield part
                continue
            if self._gaps:
                held = min(held, self._gaps[0][0] - self._ring.taken)
            if not held:
                return
            yield into[: self._ring.read(into[:held])]


class Tape:
    """Two WAV files in a folder, ``heard-TIME.wav`` with a channel for each sensor and ``played-TIME.wav``.

    Both begin with the stream and have the rate of the sound card, so they lie over each other sample by sample (those
    of two devices, as far as their clocks agree). They hold the silence that was played where the output was late, and
    silence for what was lost. A thread of its own writes. Use it as a context manager.

    Args:
        folder: made if it does not exist.
        rate: of the sound card, in Hz.
        columns: channel of the sound card, from 0, of each sensor.

    Attributes:
        problem: why nothing more is written; empty while all is well.

    Raises:
        WriteError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, rate: int, columns: Sequence[int]) -> None:
        self.columns, self.problem = tuple(columns), ""
        capacity = round(_SECONDS * rate)
        self._heard, self._played = self._tracks = (_Track(capacity, self.columns), _Track(capacity, (0,)))
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        names = (folder / f"heard-{stamp}.wav", folder / f"played-{stamp}.wav")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._waves = tuple(
                GrowingWave(name, rate, channels) for name, channels in zip(names, (len(self.columns), 1), strict=True)
            )
        except OSError as error:
            raise WriteError(error.errno, why_unwritable(error, names[0]), str(folder)) from error
        self._buffer = np.zeros((round(rate * _PAUSE) + 1, len(self.columns)), dtype=np.float32)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bcfusion tape", daemon=True)

    @property
    def paths(self) -> list[Path]:
        """The files, as far as they have been begun."""
        return [path for wave_file in self._waves for path in wave_file.paths]

    def __enter__(self) -> Tape:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self._thread.join()
        for wave_file in self._waves:
            try:
                wave_file.close()
            except OSError as error:
                self.problem = self.problem or why_unwritable(error, wave_file.paths[-1])

    @property
    def lost(self) -> int:
        """Samples that could not be kept, because the disk was too slow."""
        return max(track.lost for track in self._tracks)

    def add_heard(self, heard: Frames) -> None:
        """Keep what a sound card has heard, ``(n, C)``; it never waits. One thread alone may call it."""
        self._heard.add(heard)

    def add_played(self, played: Frames) -> None:
        """Keep what a sound card has played, ``(n, D)``; it never waits. One thread alone may call it."""
        self._played.add(played)

    def _run(self) -> None:
        while True:
            last = self._ending.wait(_PAUSE)
            for track, wave_file in zip(self._tracks, self._waves, strict=True):
                for part in track.take(self._buffer[:, : 1 if track is self._played else None]):
                    try:
                        if not self.problem:
                            wave_file.write(part)
                    except OSError as error:  # the stream goes on
                        self.problem = why_unwritable(error, wave_file.paths[-1])
            if last:
                return
