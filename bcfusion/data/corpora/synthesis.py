"""A source-filter synthesiser of speech: glottal pulses and turbulence through a moving vocal tract.

The voiced source is the pulse of Klatt & Klatt (1990, KLGLOTT88) with jitter, shimmer and spectral tilt; the tract is a
cascade of second-order resonators (Klatt 1980) whose formants glide between the targets of neighbouring phones, vowels
after Peterson & Barney (1952); fricatives and bursts are noise with the spectrum of their place of articulation.

The speech has no meaning, but all that networks, PESQ and STOI need (harmonics, formants, frication up to 7.8 kHz,
pauses) without a recording, a licence or a download. NumPy and SciPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, resample_poly, sosfilt

from bcfusion.data.corpora.phones import PHONES, SILENT, SPECTRA, Phone

__all__ = ["SYNTHESISER_VERSION", "Array", "Segment", "Voice", "room_noise", "synthesise"]

Array = NDArray[np.floating[Any]]

#: Part of every cache key: increment it with any change of the sound.
SYNTHESISER_VERSION = 1

FRAME_SECONDS = 0.0025  # the tract is constant for one frame, shorter than any glottal period
GLIDE_SECONDS = 0.07  # length of the smoothing window over formant targets: an articulator's inertia
VOICING_SECONDS = 0.03  # the same for the gain of the voice
OVERSAMPLING = 4  # of the glottal pulse: its closure is a discontinuity, whose aliases would sound rough
VOICE_RATE = 16000  # Hz; the voiced part is made at this rate and resampled, frication directly at the final rate
NOISE_BAND = 8000.0  # Hz; noise levels refer to this band, whatever the sample rate
ACCENT = 2.5  # dB by which an accented vowel is louder
FADE = 4.0  # dB by which the voice falls over an utterance


@dataclass(frozen=True)
class Voice:
    """Who speaks.

    Attributes:
        f0: median fundamental frequency, Hz.
        tract: factor on all formants (1: 17.5 cm, 1.17: 15 cm).
        rate: factor on the speed.
        jitter: relative deviation of the period, cycle to cycle.
        shimmer: relative deviation of the amplitude, cycle to cycle.
        open_quotient: open share of the glottal period.
        tilt: Hz above which the source falls by another 6 dB/octave.
        breath: noise of the open glottis re its pulses, dB.
        melody: depth of accents and declination, log F0.
    """

    f0: float
    tract: float
    rate: float = 1.0
    jitter: float = 0.007
    shimmer: float = 0.03
    open_quotient: float = 0.6
    tilt: float = 2600.0
    breath: float = -27.0
    melody: float = 0.16


@dataclass(frozen=True)
class Segment:
    """One phone of a script.

    Attributes:
        phone: its name in :data:`~bcfusion.data.corpora.phones.PHONES`; ``_`` is a pause.
        seconds: its length.
        accent: 0 to 1.
    """

    phone: str
    seconds: float
    accent: float = 0.0


def synthesise(script: Sequence[Segment], voice: Voice, sample_rate: int, rng: np.random.Generator) -> Array:
    """Speak a script.

    Args:
        script: phones and pauses in order, at least one vowel among them.
        sample_rate: Hz, at least 8000.
        voice: who speaks.
        rng: source of jitter, shimmer and turbulence.

    Returns:
        ``(T,)``, T the length of the script in samples; the RMS over its vowels is 1. Pauses are digital silence
        (:func:`room_noise` fills them).
    """
    phones = [PHONES[segment.phone] for segment in script]
    times = np.cumsum([0.0] + [segment.seconds for segment in script])
    edges = np.rint(times * sample_rate).astype(np.int64)
    length = int(edges[-1])
    speech, opening = _voiced(script, phones, times, voice, rng)
    opening = np.interp(np.arange(length) / sample_rate, np.arange(len(opening)) / VOICE_RATE, opening)
    if sample_rate != VOICE_RATE:
        common = gcd(sample_rate, VOICE_RATE)
        speech = resample_poly(speech, sample_rate // common, VOICE_RATE // common)
    speech = speech[:length]
    in_vowel = np.repeat([p.is_vowel for p in phones], np.diff(edges))
    speech /= np.sqrt(np.mean(np.square(speech[in_vowel])))
    for phone, start, stop in zip(phones, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if phone.spectrum:
            begin = max(start, stop - round(phone.burst * sample_rate)) if phone.burst else start
            _add_frication(speech, phone, begin, stop, voice.tract, sample_rate, opening, rng)
    return speech * _decibels(np.linspace(0.0, -FADE, length))


def room_noise(length: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Return the noise of a quiet room and its microphone, ``(length,)``, RMS 1: pink below 500 Hz, white above."""
    frequency = np.fft.rfftfreq(length, 1 / sample_rate)
    noise = _shaped_noise(length, 1 / np.sqrt(np.maximum(frequency, 40.0)) + 500.0**-0.5, rng)
    return noise / np.sqrt(np.mean(np.square(noise)))


def _voiced(
    script: Sequence[Segment], phones: Sequence[Phone], times: Array, voice: Voice, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return what passes the whole tract, voice and breath, and the opening of the glottis, at ``VOICE_RATE``.

    ``times (segments + 1,)``: seconds at which the segments start and the last one ends. Both outputs are a few samples
    longer than that, a whole number of frames.
    """
    hop = round(FRAME_SECONDS * VOICE_RATE)
    n_frames = int(times[-1] / FRAME_SECONDS) + 1
    middle = (np.arange(n_frames) + 0.5) * FRAME_SECONDS
    owner = np.searchsorted(times[1:-1], middle, side="right")  # the segment that each frame belongs to

    formants, damping = _tract_targets(phones)
    formants = _glide(formants[owner], GLIDE_SECONDS) * voice.tract
    damping = _glide(damping[owner], GLIDE_SECONDS / 2)
    loudness = _decibels(_glide(np.array([ACCENT * segment.accent for segment in script])[owner], 0.15))
    voicing = _glide(_decibels([phone.voicing for phone in phones])[owner], VOICING_SECONDS) * loudness
    aspiration = _glide(_decibels([phone.aspiration for phone in phones])[owner], VOICING_SECONDS) * loudness

    pulses, opening = _glottis(_melody(script, phones, times, voice, middle, owner), voice, hop, rng)
    breath = rng.standard_normal(len(pulses)) * np.sqrt(np.mean(np.square(pulses)))
    source = _to_samples(voicing, hop) * (pulses + _decibels(voice.breath) * opening * breath)
    source += _to_samples(aspiration, hop) * breath
    return _tract(source, formants, damping, voice.tract, hop), opening


def _decibels(level: float | Sequence[float] | Array) -> Array:
    return 10.0 ** (np.asarray(level, dtype=np.float64) / 20.0)


def _glide(targets: Array, seconds: float) -> Array:
    """Smooth stepwise targets ``(frames, ...)`` with a Hann window: neighbours blend, short phones undershoot."""
    half = max(round(seconds / FRAME_SECONDS / 2), 1)
    window = np.hanning(2 * half + 3)[1:-1]
    window /= window.sum()
    padded = np.pad(targets, [(half, half)] + [(0, 0)] * (targets.ndim - 1), mode="edge")
    columns = padded.reshape(len(padded), -1).T
    return np.stack([np.convolve(column, window, mode="valid") for column in columns], -1).reshape(targets.shape)


def _to_samples(track: Array, hop: int) -> Array:
    """Interpolate a track ``(frames,)`` to samples ``(frames * hop,)``, linearly between the frames' centres."""
    return np.interp(np.arange(len(track) * hop), (np.arange(len(track)) + 0.5) * hop, track)


def _tract_targets(phones: Sequence[Phone]) -> tuple[Array, Array]:
    """Return formant targets ``(segments, 4)`` in Hz and damping ``(segments,)``; consonants lean to their vowel."""
    formants = np.array([phone.formants for phone in phones], dtype=np.float64)
    vowels = [i for i, phone in enumerate(phones) if phone.is_vowel]
    for i, phone in enumerate(phones):
        if not phone.is_vowel:
            # of two vowels equally near, the following one: the tongue anticipates
            vowel = min(vowels, key=lambda v: (abs(v - i), v < i))
            first = 0 if phone.glide == 1.0 else 1  # F1 is the opening of the consonant itself, except in /h/
            formants[i, first:] += phone.glide * (np.array(phones[vowel].formants)[first:] - formants[i, first:])
    return formants, np.array([phone.damping for phone in phones])


def _melody(
    script: Sequence[Segment], phones: Sequence[Phone], times: Array, voice: Voice, middle: Array, owner: NDArray[Any]
) -> Array:
    """Return F0 ``(frames,)`` in Hz: declination, accents, intrinsic pitch; its median is the voice's."""
    log_f0 = -voice.melody * middle / middle[-1]
    for segment, start, stop in zip(script, times[:-1], times[1:], strict=True):
        log_f0 += segment.accent * voice.melody * np.exp(-0.5 * ((middle - (start + stop) / 2) / 0.09) ** 2)
    # high vowels are spoken higher: up to 8 % between /i/ and /a/
    intrinsic = np.array([0.08 * (500.0 - p.formants[0]) / 480.0 if p.is_vowel else 0.0 for p in phones])
    log_f0 += _glide(intrinsic[owner], 0.08)
    in_vowel = np.array([p.is_vowel for p in phones])[owner]
    return voice.f0 * np.exp(log_f0 - np.median(log_f0[in_vowel]))


def _glottis(f0: Array, voice: Voice, hop: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the derivative of the glottal flow and the opening (0 to 1) that gates breath, ``(frames * hop,)``.

    Within the open phase x = 0..1 the flow's derivative is 2x - 3x^2 (KLGLOTT88, eq. 1 differentiated), zero elsewhere.
    """
    rate = VOICE_RATE * OVERSAMPLING
    length = len(f0) * hop * OVERSAMPLING
    starts = [0.0]  # of the periods, in oversampled samples
    while starts[-1] < length:
        frame = min(int(starts[-1] / (hop * OVERSAMPLING)), len(f0) - 1)
        starts.append(starts[-1] + rate / f0[frame] * (1.0 + voice.jitter * float(rng.standard_normal())))
    onset = np.array(starts)
    period = np.searchsorted(onset, np.arange(length), side="right") - 1
    phase = (np.arange(length) - onset[period]) / np.diff(onset)[period] / voice.open_quotient
    amplitude = 1.0 + voice.shimmer * rng.standard_normal(len(onset))
    pulses = np.where(phase < 1.0, phase * (2.0 - 3.0 * phase), 0.0) * amplitude[period]
    pulses = resample_poly(pulses, 1, OVERSAMPLING)
    decay = np.exp(-2 * np.pi * voice.tilt / VOICE_RATE)
    # some air always leaks, most of it in the open phase
    opening = 0.35 + 0.65 * np.sin(np.pi * np.minimum(phase[::OVERSAMPLING], 1.0))
    return lfilter([1.0 - decay], [1.0, -decay], pulses), opening


def _tract(source: Array, formants: Array, damping: Array, scale: float, hop: int) -> Array:
    """Send the source ``(frames * hop,)`` through a cascade of resonators that change from frame to frame.

    Each resonator is y[n] = g x[n] - a1 y[n-1] - a2 y[n-2] with unit gain at 0 Hz. Above F4 follow the resonances of a
    uniform tube, up to the Nyquist frequency: without them the cascade would fall too fast, by 12 dB/octave.
    """
    limit = 0.48 * VOICE_RATE
    tube = np.arange(4.5, 9.0) * 1000.0 * scale
    tube = tube[tube < limit]
    frequency = np.concatenate([formants, np.broadcast_to(tube, (len(formants), len(tube)))], axis=1)
    bandwidth = 50.0 + 0.02 * frequency + 5e-6 * np.square(frequency)
    bandwidth[:, 1:] *= damping[:, None]
    radius = np.exp(-np.pi * bandwidth / VOICE_RATE)
    a1 = -2.0 * radius * np.cos(2 * np.pi * frequency / VOICE_RATE)
    a2 = np.square(radius)
    # F1 comes last: the lower resonators then smooth the transients of changing coefficients; in the opposite order the
    # upper ones would sharpen them to a click
    a1, a2 = a1[:, ::-1], a2[:, ::-1]
    sections = np.zeros((*frequency.shape, 6))
    sections[..., 0], sections[..., 3], sections[..., 4], sections[..., 5] = 1.0 + a1 + a2, 1.0, a1, a2
    state = np.zeros((frequency.shape[1], 2))
    out = np.empty_like(source)
    for k in range(len(frequency)):
        block = slice(k * hop, (k + 1) * hop)
        out[block], state = sosfilt(sections[k], source[block], zi=state)
    return out


def _shaped_noise(length: int, magnitude: Array, rng: np.random.Generator) -> Array:
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(length)) * magnitude, length)


def _add_frication(
    speech: Array,
    phone: Phone,
    start: int,
    stop: int,
    tract: float,
    sample_rate: int,
    opening: Array,
    rng: np.random.Generator,
) -> None:
    """Add the turbulence of one phone to ``speech (T,)``, between two samples and slightly past them."""
    attack, release = (0.001, 0.02) if phone.burst else (0.03, 0.03)
    begin, end = start - round(attack * sample_rate / 2), stop + round(release * sample_rate / 2)
    n_fft = 1 << (end - begin).bit_length()
    corners = np.array(SPECTRA[phone.spectrum])
    shift = np.sqrt(tract)  # the cavity in front of the noise varies less than the whole tract

    def spectrum(frequency: Array) -> Array:
        level = np.interp(np.log(np.maximum(frequency, 20.0)), np.log(corners[:, 0] * shift), corners[:, 1])
        return _decibels(level - 18.0 * np.log2(np.maximum(frequency / NOISE_BAND, 1.0)))

    reference = np.sqrt(np.mean(np.square(spectrum(np.linspace(0.0, NOISE_BAND, 1024)))))
    magnitude = spectrum(np.fft.rfftfreq(n_fft, 1 / sample_rate)) / reference * np.sqrt(sample_rate / 2 / NOISE_BAND)
    noise = _shaped_noise(n_fft, magnitude, rng)[: end - begin] * _decibels(phone.frication)
    time = np.arange(end - begin) / sample_rate
    ramp = np.minimum(np.minimum(time / attack, (time[-1] - time) / release), 1.0)
    noise *= np.square(np.sin(np.pi / 2 * ramp))
    first, last = max(begin, 0), min(end, len(speech))
    noise = noise[first - begin : last - begin]
    if phone.voicing > SILENT:  # a voiced fricative hisses once per period
        noise = noise * (0.3 + opening[first:last])
    speech[first:last] += noise
