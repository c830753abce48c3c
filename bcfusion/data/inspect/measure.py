"""What the files of one line of a manifest hold, measured in a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from bcfusion import audio
from bcfusion.audio import AudioInfo
from bcfusion.data.corpora.headers import header, usable_duration, wrong_channels
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.alignment import MAX_LAG, Alignment, alignment
from bcfusion.data.inspect.bandwidth import BAND_HZ, band_powers, effective_bandwidth, top_activity
from bcfusion.data.inspect.levels import Levels, clipped_samples, levels
from bcfusion.errors import AudioError

__all__ = ["LONGEST_SECONDS", "Measured", "SensorMeasure", "measure"]

#: The part of a recording that is measured; the rest is only checked for being readable and for clipping.
LONGEST_SECONDS = 60.0
_SHORTEST_SECONDS = 0.1
_LOW_HZ, _HIGH_HZ = (100.0, 1000.0), (2000.0, 8000.0)


@dataclass(frozen=True)
class SensorMeasure:
    """One sensor's signal, in the part of its file that the line refers to.

    Attributes:
        sample_rate: of the file, in Hz.
        duration: of the whole file, in seconds.
        levels: see :class:`~bcfusion.data.inspect.levels.Levels`.
        clipped: share of the samples in flat tops.
        bandwidth: Hz up to which there is speech.
        top_activity: dB, speech over pauses in the spectrum's top eighth.
        tilt: dB of 2 to 8 kHz over 0.1 to 1 kHz while somebody speaks; NaN if the sample rate is below 6 kHz.
        fingerprint: of the samples.
        spectrum: ``(bands,)`` dB of each band of 125 Hz while somebody speaks, relative to all but the first.
    """

    sample_rate: int
    duration: float
    levels: Levels
    clipped: float
    bandwidth: float
    top_activity: float
    tilt: float
    fingerprint: int
    spectrum: np.ndarray


@dataclass(frozen=True)
class Measured:
    """One line of a manifest.

    Attributes:
        sensors: what was measured, by sensor; empty if the line cannot be used.
        problems: kind to text: ``unreadable``, ``channels``, ``span`` (the files end earlier), ``short``, ``rate``
            (not the file's), ``cut`` (the end of a file is missing), ``length`` (a header does not state it).
        alignment: of body relative to air, if there are both, regardless of the manifest's lag and polarity.
    """

    sensors: Mapping[str, SensorMeasure] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    alignment: Alignment | None = None

    @property
    def level_ratio(self) -> float | None:
        """Level of body over that of air, dB; None unless there are both."""
        if "body" not in self.sensors or "air" not in self.sensors:
            return None
        return self.sensors["body"].levels.level - self.sensors["air"].levels.level


def measure(entry: ManifestEntry, main: str = "air", max_lag: float = MAX_LAG) -> Measured:
    """Read all of a line's recordings, a minute at a time, and measure the first minute.

    Args:
        entry: the line.
        main: the sensor whose rate is ``entry.sample_rate``.
        max_lag: seconds, for the alignment.
    """
    headers: dict[str, AudioInfo] = {}
    for sensor, path in entry.paths.items():
        found = header(path)
        if isinstance(found, AudioError):
            return Measured(problems={"unreadable": str(found)})
        headers[sensor] = found
    if wrong := wrong_channels(headers, entry.channels):
        return Measured(problems={"channels": wrong})
    duration, too_long = usable_duration(headers.values(), entry.offset, entry.duration)
    if too_long:
        return Measured(problems={"span": too_long})
    if duration < _SHORTEST_SECONDS:
        return Measured(problems={"short": f"{duration * 1000:.0f} ms"})
    problems = {}
    if entry.sample_rate not in (None, headers[main].sample_rate):
        problems["rate"] = f"sample_rate is {entry.sample_rate}, but the file has {headers[main].sample_rate} Hz"
    for found in headers.values():
        if found.remark:
            kind, said = "cut" if found.cut else "length", f"{found.path}: {found.remark}"
            problems[kind] = f"{problems[kind]}; {said}" if kind in problems else said
    signals: dict[str, np.ndarray] = {}
    sensors: dict[str, SensorMeasure] = {}
    try:
        for sensor in entry.paths:
            signals[sensor], sensors[sensor] = _sensor(entry, sensor, headers[sensor], duration)
    except audio.UnreadableAudio as error:
        return Measured(problems={"unreadable": str(error)})
    found_alignment = None
    if "body" in signals and "air" in signals:
        rate = headers["air"].sample_rate
        body = _resampled(signals["body"], headers["body"].sample_rate, rate)
        found_alignment = alignment(body, signals["air"], rate, max_lag)
    return Measured(sensors, problems, found_alignment)


def _sensor(entry: ManifestEntry, sensor: str, found: AudioInfo, duration: float) -> tuple[np.ndarray, SensorMeasure]:
    rate = found.sample_rate
    first: np.ndarray | None = None
    clipped = samples = fingerprint = 0
    for block in _blocks(entry, sensor, found, duration):
        first = block if first is None else first
        clipped += clipped_samples(block)
        samples += len(block)
        fingerprint = crc32(block.tobytes(), fingerprint)
    assert first is not None
    powers = band_powers(first, rate)
    total = powers[:, 1:].sum(axis=1)  # without DC
    active = powers[total >= 1e-3 * total.max(initial=0.0)]
    mean = active.mean(axis=0) if len(active) else np.zeros(powers.shape[1])
    mean += 1e-20
    return first, SensorMeasure(
        sample_rate=rate,
        duration=found.duration,
        levels=levels(first, rate),
        clipped=clipped / samples,
        bandwidth=effective_bandwidth(first, rate),
        top_activity=top_activity(powers),
        tilt=_tilt(mean, rate),
        fingerprint=fingerprint,
        spectrum=(10 * np.log10(mean / mean[1:].sum())).astype(np.float32),
    )


def _blocks(entry: ManifestEntry, sensor: str, found: AudioInfo, duration: float) -> Iterator[np.ndarray]:
    """Yield the sensor's channel, a minute at a time, at the rate of its file."""
    rate = found.sample_rate
    begin = min(round(entry.offset * rate), found.frames - 1)
    end = min(begin + max(1, round(duration * rate)), found.frames)
    size = round(LONGEST_SECONDS * rate)
    for start in range(begin, end, size):
        block, _ = audio.read(entry.paths[sensor], start, min(size, end - start))
        yield np.ascontiguousarray(block[entry.channels.get(sensor, 0)])


def _resampled(signal: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    if from_rate == to_rate:
        return signal
    import torch  # a worker that never resamples stays small

    resampled: np.ndarray = audio.resample(torch.from_numpy(signal), from_rate, to_rate).numpy()
    return resampled


def _tilt(mean: np.ndarray, sample_rate: int) -> float:
    if sample_rate < 2 * 3000:
        return float("nan")
    low, high = (mean[round(begin / BAND_HZ) : round(end / BAND_HZ)].sum() for begin, end in (_LOW_HZ, _HIGH_HZ))
    return float(10 * np.log10(high / low))
