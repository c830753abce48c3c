"""One utterance of a listening page: its sounds cut, matched in level and encoded, their spectrograms and scores."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.signal
import soundfile
import torch
from matplotlib import colormaps
from PIL import Image

from bcfusion.audio.level import active_level
from bcfusion.errors import ConfigError
from bcfusion.report.listening.sounds import TARGET, Sound, Utterance
from bcfusion.report.spectrogram import RANGE_DB, WINDOW_SECONDS

__all__ = ["Settings", "anchor_name", "level_gains", "page_row", "pixel_magnitudes", "spectrogram_png"]

LEVEL = -26.0  # dBFS of the active speech, customary in listening tests (ITU-T P.56, P.800)
HEADROOM = -1.0  # dBFS that no peak exceeds
MOST_GAIN = 40.0  # dB; anything that needs more is practically silent
STORED_PEAK = 0.99  # sounds are stored at full scale, so that 16 bits suffice for quiet ones
PICTURE = (640, 192)  # most columns and rows of a spectrogram
ANCHOR_ORDER = 10


@dataclass(frozen=True)
class Settings:
    """How a page is made.

    Attributes:
        seconds: length that sounds are cut to.
        megabytes: largest size of the page; utterances that do not fit are left out.
        sound_format: ``flac`` or ``wav``.
        anchors: cut-off in Hz of each low-passed target that is rated along with the systems.
    """

    seconds: float = 12.0
    megabytes: float = 50.0
    sound_format: str = "flac"
    anchors: tuple[float, ...] = ()


def page_row(
    utterance: Utterance, index: Mapping[str, int], metrics: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """Return what the page's script needs of an utterance, as values for JSON.

    Sounds that are shorter than the longest are padded with silence, so that all of them share one time axis.

    Args:
        utterance: the utterance.
        index: name of a sound to the index of its system on the page.
        metrics: keys of the scores, in the order of the columns.
        settings: length and format of the sounds, and the anchors.

    Raises:
        ConfigError: an anchor's cut-off is not below half the sample rate.
    """
    rate = utterance.sample_rate
    whole = max(len(sound.signal) for sound in utterance.sounds)
    length = min(whole, max(1, round(settings.seconds * rate)))
    sounds = [(sound, _fit(sound.signal, length)) for sound in utterance.sounds]
    target = next(signal for sound, signal in sounds if sound.kind == "target")
    for cutoff in settings.anchors:
        low = _low_pass(target, rate, cutoff)
        sounds.append((Sound(anchor_name(cutoff), "anchor", low, {}), low))
    gains = level_gains([signal for _, signal in sounds], rate)
    pictures = _pictures(sounds, gains, rate)
    recorded = 1 / max(1.0, *(_peak(signal) for _, signal in sounds))
    content = []
    for (sound, signal), gain in zip(sounds, gains, strict=True):
        stored = _peak(signal) / STORED_PEAK or 1.0
        content.append(
            {
                "system": index[sound.name],
                "audio": base64.b64encode(_encoded(signal / stored, rate, settings.sound_format)).decode("ascii"),
                "matched": stored * 10 ** (gain / 20),
                "recorded": stored * recorded,
                "gain_db": round(gain, 2) + 0.0,
                "picture": base64.b64encode(pictures.get(sound.name, b"")).decode("ascii"),
                "values": [_finite(sound.scores.get(name)) for name in metrics],
            }
        )
    return {"id": utterance.id, "rate": rate, "seconds": length / rate, "whole": whole / rate, "sounds": content}


def anchor_name(cutoff: float) -> str:
    """Return the name of the target low-passed at ``cutoff`` Hz."""
    return f"anchor {cutoff:g} Hz"


def level_gains(signals: Sequence[np.ndarray], sample_rate: int) -> list[float]:
    """Return gains in dB that bring signals to one active level: -26 dBFS, or less if a peak would exceed -1 dBFS.

    A silent signal is not amplified; no gain exceeds 40 dB.

    Args:
        signals: each ``(T,)``.
        sample_rate: in Hz.
    """
    gains = []
    for signal in signals:
        active = active_level(torch.from_numpy(np.asarray(signal, dtype=np.float64))[None], sample_rate)
        gains.append(min(LEVEL - 20 * math.log10(active), MOST_GAIN) if active > 1e-7 else 0.0)
    peaks = [20 * math.log10(max(_peak(signal), 1e-9)) + gain for signal, gain in zip(signals, gains, strict=True)]
    over = max(0.0, max(peaks) - HEADROOM)
    return [gain - over for gain in gains]


def _pictures(sounds: Sequence[tuple[Sound, np.ndarray]], gains: Sequence[float], sample_rate: int) -> dict[str, bytes]:
    """Return level-matched spectrograms by name; 0 dB is the target's maximum. Anchors are only heard."""
    magnitudes = {
        sound.name: pixel_magnitudes(signal * 10 ** (gain / 20), sample_rate)
        for (sound, signal), gain in zip(sounds, gains, strict=True)
        if sound.kind != "anchor"
    }
    loudest = {name: float(magnitude.max()) for name, magnitude in magnitudes.items()}
    top = loudest[TARGET] or max(loudest.values()) or 1.0
    return {name: spectrogram_png(magnitude, top) for name, magnitude in magnitudes.items()}


def pixel_magnitudes(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the STFT magnitude of a signal, at most 192 rows (frequencies, from 0) by 640 columns (frames).

    Each value is the largest that falls into the pixel, so that no line is lost.

    Args:
        signal: ``(T,)``.
        sample_rate: in Hz.
    """
    window = max(16, 2 * round(WINDOW_SECONDS * sample_rate / 2))
    hop = max(window // 4, -(-len(signal) // (2 * PICTURE[0])))
    frames = scipy.signal.ShortTimeFFT(scipy.signal.windows.hann(window, sym=False), hop, sample_rate)
    padded = np.pad(signal, (0, max(0, window - len(signal))))
    magnitude = np.abs(frames.stft(padded, p0=0, p1=-(-len(signal) // hop)))
    for axis, most in ((0, PICTURE[1]), (1, PICTURE[0])):
        if magnitude.shape[axis] > most:
            starts = np.arange(most) * magnitude.shape[axis] // most
            magnitude = np.maximum.reduceat(magnitude, starts, axis=axis)
    return magnitude


def spectrogram_png(magnitude: np.ndarray, top: float) -> bytes:
    """Return a spectrogram without axes: time to the right, frequency from 0 at the bottom to half the sample rate.

    Args:
        magnitude: ``(rows, columns)``, as of :func:`pixel_magnitudes`.
        top: magnitude of 0 dB, the brightest colour; the darkest is 80 dB below.

    Returns:
        A PNG with a palette.
    """
    decibels = 20 * np.log10(np.maximum(magnitude / top, 1e-10))
    # steps of 3/255 of the range are below 1 dB, which is not visible, and make the file a quarter smaller
    levels = np.clip(3 * np.round(85 * (1 + decibels / RANGE_DB)), 0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]), mode="P")
    palette = np.round(255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _fit(signal: np.ndarray, length: int) -> np.ndarray:
    return np.pad(np.asarray(signal[:length], dtype=np.float64), (0, max(0, length - len(signal))))


def _peak(signal: np.ndarray) -> float:
    return float(np.abs(signal).max(initial=0.0))


def _low_pass(signal: np.ndarray, sample_rate: int, cutoff: float) -> np.ndarray:
    if not 0 < cutoff < sample_rate / 2:
        raise ConfigError(
            [f"--anchor {cutoff:g}: must be above 0 and below {sample_rate / 2:g} Hz, half the sample rate"]
        )
    sections = scipy.signal.butter(ANCHOR_ORDER, cutoff, fs=sample_rate, output="sos")
    return np.ascontiguousarray(scipy.signal.sosfiltfilt(sections, signal, padtype=None), dtype=np.float64)


def _encoded(signal: np.ndarray, sample_rate: int, sound_format: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, sample_rate, format=sound_format.upper(), subtype="PCM_16")
    return buffer.getvalue()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
