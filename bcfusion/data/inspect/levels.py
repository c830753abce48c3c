"""The level of a recording, and what is wrong with its samples: clipping, DC, silence, noise.

In NumPy, so that a worker process that inspects files need not load PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["NOTHING_DB", "Levels", "clipped_samples", "full_scale_samples", "levels"]

FRAME_SECONDS = 0.02
ACTIVE_RANGE_DB = 30.0  #: frames this far below the loudest one are still speech; as in :mod:`bcfusion.audio.level`
NOTHING_DB = -120.0  #: dBFS that mean no signal; 16 bits end at -98
_PAUSE_SHARE = 0.1  # of the frames, the quietest, that are pauses
_MOST_SNR = 100.0
_FLAT_RUN = 3  # consecutive samples at one extreme
_FULL_SCALE = 0.999
_LOW_PEAK = 0.1  # of full scale, below which equal samples at the top are rounding


@dataclass(frozen=True)
class Levels:
    """Levels of one recording.

    Attributes:
        level: dBFS of the frames that are speech, within 30 dB of the loudest.
        peak: dBFS of the largest sample.
        snr: dB of those frames over the quietest tenth of all frames; at most 100.
        dc: dB of the mean sample relative to ``level``.
        silent_share: share of the frames that are not speech, 0 to 1; 1 if there is no signal.
    """

    level: float
    peak: float
    snr: float
    dc: float
    silent_share: float


def levels(signal: np.ndarray, sample_rate: int) -> Levels:
    """Measure levels.

    Args:
        signal: ``(T,)`` float, full scale 1, at least one sample.
        sample_rate: in Hz.
    """
    samples = np.asarray(signal, dtype=np.float64)
    mean = float(samples.mean())
    samples = samples - mean
    frame = min(max(1, round(FRAME_SECONDS * sample_rate)), len(samples))
    whole = samples[: len(samples) // frame * frame].reshape(-1, frame)
    powers = np.square(whole).mean(axis=1)
    loudest = float(powers.max())
    if decibels(loudest) <= NOTHING_DB:
        return Levels(NOTHING_DB, decibels(float(np.abs(signal).max()) ** 2), 0.0, 0.0, 1.0)
    active = powers >= loudest * 10 ** (-ACTIVE_RANGE_DB / 10)
    speech = float(powers[active].mean())
    noise = float(np.sort(powers)[: max(1, round(_PAUSE_SHARE * len(powers)))].mean())
    snr = decibels(max(speech - noise, 0.0)) - decibels(noise)
    return Levels(
        level=decibels(speech),
        peak=decibels(float(np.abs(signal).max()) ** 2),
        snr=float(np.clip(snr, 0.0, _MOST_SNR)),
        dc=decibels(mean**2) - decibels(speech),
        silent_share=1.0 - float(active.mean()),
    )


def clipped_samples(signal: np.ndarray) -> int:
    """Count samples of flat tops: three or more consecutive ones at the largest (or smallest) value, more than once.

    Clipping is found at any level: a gain applied after it does not hide it, but a filter does.

    Args:
        signal: ``(T,)`` as stored in the file.
    """
    count = 0
    for side in (signal, -signal):
        top = side.max(initial=0.0)
        if top < _LOW_PEAK:
            continue
        at_top = np.concatenate([[0], (side >= top).astype(np.int8), [0]])
        begins, ends = np.flatnonzero(np.diff(at_top) == 1), np.flatnonzero(np.diff(at_top) == -1)
        runs = (ends - begins)[ends - begins >= _FLAT_RUN]
        if len(runs) > 1:
            count += int(runs.sum())
    return count


def full_scale_samples(signal: np.ndarray) -> int:
    """Count samples at full scale or beyond: what of a stream is clipped, as far as one short block tells.

    A block of a few milliseconds rarely has two flat tops; for a whole recording, :func:`clipped_samples` finds more,
    and is not misled by one that was normalised to full scale.

    Args:
        signal: of any shape.
    """
    return int((np.abs(signal) >= _FULL_SCALE).sum())


def decibels(power: float) -> float:
    """Return a power in decibels, at least :data:`NOTHING_DB`."""
    return 10 * float(np.log10(max(power, 10 ** (NOTHING_DB / 10))))
