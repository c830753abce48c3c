"""How loud a recording is, and what is wrong with its samples: clipping, DC, silence, noise.

In NumPy, and so a worker process that looks at files need not load PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["NOTHING_DB", "Levels", "clipped_samples", "levels"]

FRAME_SECONDS = 0.02
ACTIVE_RANGE_DB = 30.0  #: below the loudest frame, down to which a frame is speech; as in :mod:`bcfusion.audio.level`
NOTHING_DB = -120.0  #: dBFS that stand for none; 16 bits end at -98
_PAUSE_SHARE = 0.1  # of the frames, the quietest, that are pauses
_MOST_SNR = 100.0
_FLAT_RUN = 3  # samples in succession at one extreme
_LOW_PEAK = 0.1  # of full scale, under which equal samples at the top are rounding


@dataclass(frozen=True)
class Levels:
    """Levels of one recording.

    Attributes:
        level: dBFS of the frames that are speech, within 30 dB of the loudest.
        peak: dBFS of the largest sample.
        snr: dB of those frames over the quietest tenth of all; at most 100.
        dc: dB of the mean sample relative to ``level``.
        silent_share: of the frames, those that are no speech, 0 to 1; 1 where there is no signal.
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
    """Count samples of flat tops: three or more in succession at the largest (or smallest) value, more than once.

    Clipping is found at whatever level it happened; a gain after it does not hide it, a filter does.

    Args:
        signal: ``(T,)`` as it is in the file.
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


def decibels(power: float) -> float:
    """Of a power; :data:`NOTHING_DB` at least."""
    return 10 * float(np.log10(max(power, 10 ** (NOTHING_DB / 10))))
