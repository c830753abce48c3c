"""The highest frequency up to which a recording holds speech, whatever its sample rate promises.

Sample rates mislead: 8 kHz telephony is shipped as 16 kHz, MP3 sources lack their upper octave, microphones have a
limited band. A network for bandwidth extension that is trained on such targets learns that there is nothing to extend.
"""

from __future__ import annotations

import numpy as np

__all__ = ["band_powers", "effective_bandwidth", "top_activity"]

FRAME_SECONDS = 0.032
BAND_HZ = 125.0
#: A band holds speech if its loud moments (one frame in twenty: fricatives are rare) are this many dB above its quiet
#: ones (one frame in ten: pauses). A steady noise floor has 6 dB between the two, which the mean over a band reduces.
ACTIVITY_DB = 10.0
#: The residue in the stop band of a resampler or codec follows the speech too, but lies beyond a cliff of this width in
#: Hz and height in dB. Speech falls by some 12 dB per octave, into a valley between formants by less than 20 dB.
CLIFFS = ((375.0, 25.0), (1000.0, 35.0))
#: Power of the rounding to 16 bits, two steps wide because of dither; nothing below it was recorded.
ROUNDING_POWER = 4.0 * (2.0**-15) ** 2 / 12.0
_RUN = 3  # consecutive bands: a single one may be a coincidence
_LONGEST_SECONDS = 60.0
_SPEECH_HZ = (300.0, 3000.0)
_SPEAKS = 0.25  # of the bands between these must move, or the recording is not speech
_TOP = 1.0 / 8.0  # share of the spectrum that is its top


def band_powers(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Compute the power in bands of 125 Hz, frame by frame.

    Args:
        signal: ``(T,)``, full scale 1. At most a minute of it is used, evenly spread.
        sample_rate: in Hz.

    Returns:
        ``(frames, bands)``, the power of the samples in each band. No frames if the signal is shorter than 32 ms.
    """
    length = round(FRAME_SECONDS * sample_rate)
    hop = length // 2
    if len(signal) < length:
        return np.zeros((0, int(sample_rate / 2 / BAND_HZ)))
    frames = np.lib.stride_tricks.sliding_window_view(signal, length)[::hop]
    most = round(_LONGEST_SECONDS * sample_rate / hop)
    if len(frames) > most:
        frames = frames[np.linspace(0, len(frames) - 1, most).astype(int)]
    window = np.hanning(length + 1)[:-1].astype(np.float32)
    scale = 2.0 / (length * float(np.square(window).sum()))
    edges = np.arange(int(sample_rate / 2 / BAND_HZ)) * BAND_HZ * length / sample_rate
    starts = np.ceil(edges).astype(int)
    powers = [
        np.add.reduceat(scale * np.square(np.abs(np.fft.rfft(part * window, axis=1))), starts, axis=1)
        for part in np.array_split(frames, max(1, len(frames) // 256))
    ]
    return np.concatenate(powers)


def effective_bandwidth(signal: np.ndarray, sample_rate: int) -> float:
    """Find the frequency up to which a recording holds speech.

    It is the upper edge of the highest bands whose level follows the speech, by 10 dB between loud and quiet frames; or
    the edge of a cliff of 25 dB or more, above which no band comes near that level again. For a recording in which no
    band varies, such as steady noise, it is that edge, or the highest frequency above the rounding to 16 bits.

    Args:
        signal: ``(T,)`` float, full scale 1.
        sample_rate: in Hz.

    Returns:
        In Hz, at a resolution of 125 Hz; 0 for silence and for less than 0.1 s.
    """
    powers = band_powers(np.asarray(signal), sample_rate)
    if len(powers) < 6:
        return 0.0
    floor = ROUNDING_POWER * BAND_HZ / (sample_rate / 2)
    loud, quiet = (np.maximum(np.quantile(powers, share, axis=0), floor) for share in (0.95, 0.1))
    loud_db, quiet_db = 10 * np.log10(loud), 10 * np.log10(quiet)
    moves = loud_db - quiet_db > ACTIVITY_DB
    low, high = (round(edge / BAND_HZ) for edge in _SPEECH_HZ)
    if moves[low:high].mean() < _SPEAKS:
        moves = loud_db > 10 * np.log10(floor) + ACTIVITY_DB
    runs = np.flatnonzero(np.convolve(moves, np.ones(_RUN), mode="valid") == _RUN)
    highest = int(runs[-1]) + _RUN if len(runs) else 0
    return min(_brink(loud_db, highest), highest) * BAND_HZ


def top_activity(powers: np.ndarray) -> float:
    """Return by how many dB the top eighth of the spectrum is louder in speech than in the pauses.

    It is the mean power there in the louder half of the frames over that in the quietest tenth. Below 8 dB there is
    little to learn from: MP3 encoders of low rate drop the top from most frames, though not from fricatives.

    Args:
        powers: ``(frames, bands)`` of :func:`band_powers`.

    Returns:
        0 for silence and for less than ten frames.
    """
    if len(powers) < 10:
        return 0.0
    total = powers[:, 1:].sum(axis=1)  # without DC and hum, which would blur speech and pause
    top = powers[:, -round(_TOP * powers.shape[1]) :].sum(axis=1) + ROUNDING_POWER * _TOP
    order = np.argsort(total)
    spoken, pause = top[order[len(order) // 2 :]].mean(), top[order[: len(order) // 10]].mean()
    return float(10 * np.log10(spoken / pause))


def _brink(level: np.ndarray, highest: int) -> int:
    """Return the band from which the level falls off a cliff for good; ``highest`` if there is none."""
    for width, height in CLIFFS:
        step = round(width / BAND_HZ)
        # in lower bands a cliff of that width is an ordinary slope of speech
        for band in range(2 * step, highest - step):
            if level[band] - level[band + step :].max() > height:
                below = level[band : band + step + 1] < level[band] - height / 2
                return band + int(np.argmax(below))
    return highest
