"""What is measured while a stream runs: time per frame, losses, levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bcfusion.data.inspect.levels import full_scale_samples
from bcfusion.inference.stepping import Frames

__all__ = ["Snapshot", "Statistics"]

KEPT = 20_000  #: frames whose times are kept for median and percentile: minutes


@dataclass(frozen=True)
class Snapshot:
    """The state of a stream.

    Attributes:
        seconds: since it began.
        frames: that were computed.
        frame_seconds: length of a frame.
        computing_total: seconds of computing.
        median: of the seconds per frame, over the last 20000 frames; NaN before the first one.
        p99: the time that 99 % of the frames do not exceed.
        longest: of all frames.
        underruns: blocks for which the output was not ready in time.
        underrun_seconds: silence that was played instead.
        overruns: times at which input was given up, because computing was behind or the queue was full.
        overrun_seconds: length of that input.
        device_underruns: reported by the sound card.
        device_overruns: likewise.
        resets: times at which the output was not finite and the network began anew.
        clipped: samples of the input at full scale.
        overs: samples of the output beyond full scale, which a sound card clips.
        inputs: dBFS of each sensor since the last snapshot; -inf for silence.
        output: dBFS of the output.
    """

    seconds: float
    frames: int
    frame_seconds: float
    computing_total: float
    median: float
    p99: float
    longest: float
    underruns: int
    underrun_seconds: float
    overruns: int
    overrun_seconds: float
    device_underruns: int
    device_overruns: int
    resets: int
    clipped: int
    overs: int
    inputs: tuple[float, ...]
    output: float

    @property
    def load(self) -> float:
        """Computing time over the length of what was computed; from 1 on it cannot keep up."""
        return self.computing_total / (self.frames * self.frame_seconds) if self.frames else 0.0


class Statistics:
    """Counters of a stream. They only grow, and each is written by one thread: ``full`` and ``device_overruns`` by the
    callback that hears, ``underruns`` and ``device_underruns`` by the one that plays (with a single sound card the same
    thread), all others by the one that computes. Whoever reads keeps what it has seen, so there is one reader.

    Args:
        channels: number of sensors.
        frame_seconds: length of a frame.
        rate: of the sound card, in Hz.
    """

    def __init__(self, channels: int, frame_seconds: float, rate: int) -> None:
        self.frame_seconds, self.rate = frame_seconds, rate
        self.underruns = self.underrun_samples = self.device_underruns = 0  # by the callback that plays
        self.full = self.full_samples = self.device_overruns = 0  # by the callback that hears
        self.late = self.late_samples = 0  # from here on by the computing thread
        self.resets = self.clipped = self.overs = self.frames = 0
        self.computing_total = self.longest = 0.0
        self._times = np.zeros(KEPT, dtype=np.float32)
        # energies of the inputs and the output, and samples: replaced together, so that a reader finds what fits
        self._totals = (np.zeros(channels + 1), 0)
        self._seen = self._totals  # by the reader, at the last snapshot

    def add(self, seconds: float, inputs: Frames, output: Frames) -> None:
        """Count a frame: how long it took, inputs ``(S, n)`` and output ``(n,)``."""
        self._times[self.frames % KEPT] = seconds
        self.frames += 1
        self.computing_total += seconds
        self.longest = max(self.longest, seconds)
        energies = np.append(np.square(inputs, dtype=np.float64).sum(axis=1), np.square(output, dtype=np.float64).sum())
        self._totals = (self._totals[0] + energies, self._totals[1] + len(output))
        self.clipped += full_scale_samples(inputs)
        self.overs += int((np.abs(output) > 1).sum())

    def snapshot(self, seconds: float) -> Snapshot:
        """Return the state ``seconds`` after the start; levels begin anew."""
        times = self._times[: min(self.frames, KEPT)].copy()
        before, self._seen = self._seen, self._totals
        energies, samples = self._seen[0] - before[0], self._seen[1] - before[1]
        levels = [_decibels(energy / samples) if samples else -math.inf for energy in energies]
        return Snapshot(
            seconds=seconds,
            frames=self.frames,
            frame_seconds=self.frame_seconds,
            computing_total=self.computing_total,
            median=float(np.median(times)) if len(times) else math.nan,
            p99=float(np.percentile(times, 99)) if len(times) else math.nan,
            longest=self.longest,
            underruns=self.underruns,
            underrun_seconds=self.underrun_samples / self.rate,
            overruns=self.full + self.late,
            overrun_seconds=(self.full_samples + self.late_samples) / self.rate,
            device_underruns=self.device_underruns,
            device_overruns=self.device_overruns,
            resets=self.resets,
            clipped=self.clipped,
            overs=self.overs,
            inputs=tuple(levels[:-1]),
            output=levels[-1],
        )


def _decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf
