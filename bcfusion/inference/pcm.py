"""Sound without a file: interleaved PCM as it arrives through a pipe, at any rate, of unknown length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcfusion import audio
from bcfusion.errors import AudioError

__all__ = ["RAW_FORMATS", "Arriving", "RawFormat", "decoded", "resampled_blocks"]

_ENDLESS = 1 << 62  # samples


@dataclass(frozen=True)
class RawFormat:
    """A sample format, little-endian.

    Attributes:
        name: as ffmpeg and sox name it.
        size: bytes of a sample.
    """

    name: str
    size: int

    @property
    def is_float(self) -> bool:
        """Whether samples beyond full scale are kept."""
        return self.name == "f32le"

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """Return whole samples as float32 in which full scale is 1."""
        if self.is_float:
            return np.frombuffer(data, dtype="<f4").astype(np.float32)
        if self.size == 3:
            padded = np.zeros((len(data) // 3, 4), dtype=np.uint8)
            padded[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
            data, size = padded.tobytes(), 4
        else:
            size = self.size
        integers = np.frombuffer(data, dtype=f"<i{size}")
        return (integers / float(1 << (8 * size - 1))).astype(np.float32)

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        """Return samples as bytes; integers are rounded, and clipped at full scale."""
        if self.is_float:
            return samples.astype("<f4").tobytes()
        scale = 1 << (8 * self.size - 1)
        integers = np.rint(samples.astype(np.float64) * scale).clip(-scale, scale - 1)
        if self.size == 3:
            return np.ascontiguousarray(integers.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]).tobytes()
        return integers.astype(f"<i{self.size}").tobytes()


RAW_FORMATS = {name: RawFormat(name, size) for name, size in {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}.items()}


def decoded(
    receive: Callable[[], bytes],
    how: RawFormat,
    channels: int,
    picked: Sequence[int] | None,
    name: str,
    remark: Callable[[str], None],
) -> Iterator[Tensor]:
    """Yield the channels of interleaved PCM ``(S, n)``, as they arrive.

    Args:
        receive: returns the next bytes, at least one; none at the end.
        how: the sample format.
        channels: number of interleaved channels.
        picked: those to return, counted from 0, in that order; None for all.
        name: of the source, for messages.
        remark: called with a sentence if the end is in the middle of a sample, which is then left out.

    Raises:
        AudioError: a sample is not finite.
    """
    frame = how.size * channels
    rows = list(range(channels) if picked is None else picked)
    rest, position = b"", 0
    while data := receive():
        data = rest + data
        whole = len(data) // frame * frame
        data, rest = data[:whole], data[whole:]
        if not whole:
            continue
        block = how.decode(data).reshape(-1, channels).T[rows]
        if not np.isfinite(block).all():
            raise AudioError(f"{name} holds NaN or infinite samples after sample {position}: is it {how.name}?")
        position += block.shape[1]
        yield torch.from_numpy(np.ascontiguousarray(block))
    if rest:
        remark(
            f"{name} ends in the middle of a sample, after {len(rest)} of {frame} bytes: is it {how.name} with "
            f"{channels} channel{'s' * (channels > 1)}?"
        )


def resampled_blocks(blocks: Iterable[Tensor], from_rate: int, to_rate: int) -> Iterator[Tensor]:
    """Yield a signal at another rate, as far as the blocks that have arrived allow; it equals :func:`audio.resample`.

    Args:
        blocks: ``(S, n)``, consecutive.
        from_rate: their rate in Hz.
        to_rate: the rate wanted, in Hz.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    change = audio.RateChange(from_rate, to_rate)
    reach = change.window(0, 0, _ENDLESS)[1]  # input samples that an output sample needs after it
    held: Tensor | None = None
    begin, given, taken = 0, 0, 0  # input sample that `held` begins with; output and input samples so far

    def outputs(stop: int) -> Tensor:
        nonlocal held, begin, given
        assert held is not None
        first, last, skip = change.window(given, stop, taken)
        held, begin = held[:, first - begin :].clone(), first
        output = audio.resample(held[:, : last - begin], from_rate, to_rate)[:, skip : skip + stop - given]
        given = stop
        return output

    for block in blocks:
        held = block if held is None else torch.cat([held, block], dim=1)
        taken += block.shape[1]
        ready = (taken - reach - change.down) * to_rate // from_rate
        if ready > given:
            yield outputs(ready)
    if held is not None and change.length(taken) > given:
        yield outputs(change.length(taken))


class Arriving:
    """A signal of unknown length as :func:`~bcfusion.inference.chunks.enhanced_chunks` reads it: a window of it.

    Args:
        blocks: ``(S, n)``, consecutive.
        sensors: S.
    """

    def __init__(self, blocks: Iterable[Tensor], sensors: int) -> None:
        self._blocks = iter(blocks)
        self._window = torch.zeros(sensors, 0)
        self._begin = 0

    def end(self, position: int) -> int:
        """Return ``position``, or the number of samples of the signal if that is smaller, once it is known."""
        arrived = self._begin + self._window.shape[1]
        fresh = []
        while arrived < position and (block := next(self._blocks, None)) is not None:
            fresh.append(block)
            arrived += block.shape[1]
        if fresh:
            self._window = torch.cat([self._window, *fresh], dim=1)
        return min(position, arrived)

    def read(self, start: int, stop: int) -> Tensor:
        """Return the samples ``(S, stop - start)``, which have arrived; neither argument may ever decrease."""
        if start > self._begin:
            self._window, self._begin = self._window[:, start - self._begin :].clone(), start
        return self._window[:, : stop - start]
